"""Experiments: seeded runs that write their numbers, settings and figures to a folder.

Each experiment of the command line is a module with ``add_arguments(parser)`` and ``run(args)``.
``chainrob.cli`` lists them.
"""

from __future__ import annotations

from chainrob.experiments.usage import UsageError

__all__ = ["UsageError"]
