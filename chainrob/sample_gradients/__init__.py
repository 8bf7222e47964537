"""The N per-sample gradients of a parameter as an operator that answers questions, never as an N x
D array.

An operator is one file with one class, which answers for itself. ``operator_base.SampleGradients``
lists the questions, and ``default_answers`` those that most operators leave as they are. Most
operators are made of arrays with a sample axis and subclass ``factored.Factored``, which answers
from those arrays what can be answered (other samples, the size of the rows, MPI's exchange, tiles).
``tiled.Tiled`` answers the rest from the values at a rectangle of coordinates, output units too. So
a new operator touches three files besides its tests: its own, this one, and the builder of the
layer that makes it.
"""

from chainrob.sample_gradients.dense import Dense
from chainrob.sample_gradients.embedding import EmbeddingGradients
from chainrob.sample_gradients.joined import Joined
from chainrob.sample_gradients.operator_base import (
    MATERIALIZE_LIMIT,
    TILE_BUDGET,
    Mixed,
    SampleGradients,
)
from chainrob.sample_gradients.outer_product import OuterProducts
from chainrob.sample_gradients.patches import PatchProducts, TransposedPatchProducts
from chainrob.sample_gradients.row_index import RowIndex
from chainrob.sample_gradients.row_sums import RowSums, summed_rows
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
    "RowIndex",
    "RowSums",
    "SampleGradients",
    "Summed",
    "Tiled",
    "TransposedPatchProducts",
    "add_up",
    "summed_rows",
]
