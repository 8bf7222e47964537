"""The Iris experiment of section 5 of the tutorial (Figures 3 and 4)."""

from __future__ import annotations

from chainrob.experiments.iris.released import ReleasedSoftTruncation
from chainrob.experiments.iris.settings import IrisSettings, iris_settings
from chainrob.experiments.iris.training import make_model, train
from chainrob.experiments.iris.trials import TrialData, initial_parameters, trial_data

__all__ = [
    "IrisSettings",
    "ReleasedSoftTruncation",
    "TrialData",
    "initial_parameters",
    "iris_settings",
    "make_model",
    "train",
    "trial_data",
]
