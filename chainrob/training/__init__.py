"""Hooks and extensions around an unmodified Chainer optimizer and Trainer."""

from chainrob._renamed import renamed_names
from chainrob.aggregation.weight_averages import WeightAverages
from chainrob.training.delta_descent import DeltaDescent
from chainrob.training.layer_reports import (
    LayerReport,
    RobustnessReport,
    record_robustness,
    robustness_report,
)
from chainrob.training.observation import Observation, Watch, observe
from chainrob.training.replica_rates import ReplicaRates
from chainrob.training.robust_gradient import RobustGradient
from chainrob.training.running_clipping import RunningClipping
from chainrob.training.shuffle import SeededShuffle
from chainrob.training.snapshot import Snapshot, SnapshotWarning, resume
from chainrob.training.spsa import SPSA
from chainrob.training.suspects import SuspectReport

__all__ = [
    "SPSA",
    "DeltaDescent",
    "LayerReport",
    "Observation",
    "ReplicaRates",
    "RobustGradient",
    "RobustnessReport",
    "RunningClipping",
    "SeededShuffle",
    "Snapshot",
    "SnapshotWarning",
    "SuspectReport",
    "Watch",
    "WeightAverages",
    "observe",
    "record_robustness",
    "resume",
    "robustness_report",
]

__getattr__ = renamed_names(__name__, {"WeightTally": "WeightAverages"})
