"""Robustifiers x contaminations x data sets x seeds, ranked."""

from __future__ import annotations

from chainrob.experiments.compare.command import add_arguments, run
from chainrob.experiments.compare.problems import (
    CONTAMINATIONS,
    DATA,
    make_problem,
    parse_contamination,
)
from chainrob.experiments.compare.results import Best, CompareResults
from chainrob.experiments.compare.running import run_compare
from chainrob.experiments.compare.settings import CompareSettings
from chainrob.experiments.compare.training import train_cell

__all__ = [
    "CONTAMINATIONS",
    "DATA",
    "Best",
    "CompareResults",
    "CompareSettings",
    "add_arguments",
    "make_problem",
    "parse_contamination",
    "run",
    "run_compare",
    "train_cell",
]
