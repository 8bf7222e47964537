"""Hooks and extensions around an unmodified Chainer optimizer and Trainer."""

from chainrob.training.observation import Observation, Watch, observe

__all__ = ["Observation", "Watch", "observe"]
