"""The N per-sample gradients of a parameter as an operator that answers questions, never as an N x
D array.
"""

from chainrob.sample_gradients.base import MATERIALIZE_LIMIT, TILE_BUDGET, Mixed, SampleGradients
from chainrob.sample_gradients.dense import Dense
from chainrob.sample_gradients.embedding import EmbeddingGradients
from chainrob.sample_gradients.joined import Joined
from chainrob.sample_gradients.outer_product import OuterProducts
from chainrob.sample_gradients.patches import PatchProducts, TransposedPatchProducts
from chainrob.sample_gradients.summed import Summed, add_up
from chainrob.sample_gradients.tiled import Tiled

__all__ = [
    "MATERIALIZE_LIMIT",
    "TILE_BUDGET",
    "Dense",
    "EmbeddingGradients",
    "Joined",
    "Mixed",
    "OuterProducts",
    "PatchProducts",
    "SampleGradients",
    "Summed",
    "Tiled",
    "TransposedPatchProducts",
    "add_up",
]
