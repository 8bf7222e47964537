"""Compare robust gradients with one-line baselines, over contaminations, data sets and seeds."""

from __future__ import annotations

from chainrob.experiments.compare.choices import Case, CompareResults
from chainrob.experiments.compare.comparison import add_arguments, run, run_compare
from chainrob.experiments.compare.comparison_settings import CompareSettings
from chainrob.experiments.compare.corruption import CORRUPTIONS, parse_contamination
from chainrob.experiments.compare.data_sources import DATA, parse_data
from chainrob.experiments.compare.methods import METHODS, Method
from chainrob.experiments.compare.problems import Problem, make_problem
from chainrob.experiments.compare.train_cell import train_cell

__all__ = [
    "CORRUPTIONS",
    "DATA",
    "METHODS",
    "Case",
    "CompareResults",
    "CompareSettings",
    "Method",
    "Problem",
    "add_arguments",
    "make_problem",
    "parse_contamination",
    "parse_data",
    "run",
    "run_compare",
    "train_cell",
]
