"""Reproduce every table and figure of the tutorial, and question its claims."""

from __future__ import annotations

from chainrob.experiments.reproduce.extent import ReproduceSettings
from chainrob.experiments.reproduce.reproduction import add_arguments, run

__all__ = ["ReproduceSettings", "add_arguments", "run"]
