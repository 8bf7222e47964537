"""Links that hold parameters and train them robustly: drop-ins for those of ``chainer.links``."""

from chainrob.links.ensemble import Ensemble
from chainrob.links.linear import Linear
from chainrob.links.mlp import MLP

__all__ = ["MLP", "Ensemble", "Linear"]
