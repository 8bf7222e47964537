"""Ways to corrupt a share of the training points, one file each."""

from __future__ import annotations

from chainrob.datasets.contamination.choice import choose_rows
from chainrob.datasets.contamination.push import push_inputs

__all__ = ["choose_rows", "push_inputs"]
