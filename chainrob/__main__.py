"""``python -m chainrob``."""

from __future__ import annotations

import sys

from chainrob.cli import main

if __name__ == "__main__":
    sys.exit(main())
