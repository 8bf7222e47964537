"""Experiments: seeded runs that write their numbers, settings and figures to a folder.

An experiment that the command offers is a module with ``add_arguments(parser)`` and ``run(args)``;
``chainrob.cli`` holds the table.
"""

from __future__ import annotations

from chainrob.experiments.usage import UsageError

__all__ = ["UsageError"]
