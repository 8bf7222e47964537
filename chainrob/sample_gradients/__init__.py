"""The N per-sample gradients of a parameter as an operator that answers questions, never as an N x
D array.
"""

from chainrob.sample_gradients.base import MATERIALIZE_LIMIT, TILE_BUDGET, SampleGradients
from chainrob.sample_gradients.dense import Dense
from chainrob.sample_gradients.joined import Joined
from chainrob.sample_gradients.mixed import Mixed
from chainrob.sample_gradients.outer_product import OuterProducts

__all__ = [
    "MATERIALIZE_LIMIT",
    "TILE_BUDGET",
    "Dense",
    "Joined",
    "Mixed",
    "OuterProducts",
    "SampleGradients",
]
