"""The Iris experiment of section 5 of the tutorial (Figures 3 and 4)."""

from __future__ import annotations

from chainrob.experiments.iris.figures import figure3, figure4
from chainrob.experiments.iris.iris_experiment import add_arguments, run, run_iris
from chainrob.experiments.iris.protocol import IrisSettings, iris_settings
from chainrob.experiments.iris.published import PublishedCurve, published_figure4
from chainrob.experiments.iris.released import ReleasedSoftTruncation
from chainrob.experiments.iris.train_trials import make_model, train
from chainrob.experiments.iris.trial_errors import IrisResults
from chainrob.experiments.iris.trials import TrialData, initial_parameters, trial_data

__all__ = [
    "IrisResults",
    "IrisSettings",
    "PublishedCurve",
    "ReleasedSoftTruncation",
    "TrialData",
    "add_arguments",
    "figure3",
    "figure4",
    "initial_parameters",
    "iris_settings",
    "make_model",
    "published_figure4",
    "run",
    "run_iris",
    "train",
    "trial_data",
]
