"""Hooks and extensions around an unmodified Chainer optimizer and Trainer."""

from chainrob.training.observation import Observation, Watch, observe
from chainrob.training.shuffle import SeededShuffle
from chainrob.training.snapshot import Snapshot, SnapshotWarning, resume

__all__ = [
    "Observation",
    "SeededShuffle",
    "Snapshot",
    "SnapshotWarning",
    "Watch",
    "observe",
    "resume",
]
