"""Every artifact of the tutorial, reproduced and questioned."""

from __future__ import annotations

from chainrob.experiments.reproduce.extent import ReproduceSettings
from chainrob.experiments.reproduce.reproduction import add_arguments, run

__all__ = ["ReproduceSettings", "add_arguments", "run"]
