"""Every artefact of the tutorial, reproduced and questioned."""

from __future__ import annotations

from chainrob.experiments.reproduce.command import add_arguments, run
from chainrob.experiments.reproduce.settings import ReproduceSettings

__all__ = ["ReproduceSettings", "add_arguments", "run"]
