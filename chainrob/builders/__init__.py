"""From a layer's inputs and output gradients to the operators of its parameters. Each kind of layer
has one file.

The builders are pure functions of NumPy or CuPy arrays. All fronts call them, so a layer's
mathematics stands in one place. ``*_rows`` takes ``(*inputs, gy)`` and the wanted parameters, and
gives one operator for each: 1 is the weight and 2 is the bias (in normalizations gamma and beta).
``*_pullback`` takes the same arrays and the cotangents of the operators' ingredients
(``Robustifier.pullback``), and gives the cotangents of the arrays. Double backward needs these.
"""

from chainrob._renamed import renamed_names
from chainrob.builders.convolution_rows import (
    convolution_pullback,
    convolution_rows,
    transposed_convolution_pullback,
    transposed_convolution_rows,
)
from chainrob.builders.elementwise_rows import (
    bias_pullback,
    bias_rows,
    prelu_pullback,
    prelu_rows,
    scale_pullback,
    scale_rows,
    swish_pullback,
    swish_rows,
)
from chainrob.builders.embedding_rows import embedding_pullback, embedding_rows
from chainrob.builders.linear_rows import linear_pullback, linear_rows
from chainrob.builders.normalization_rows import normalization_pullback, normalization_rows
from chainrob.builders.positions import broadcast_to_positions, position_sums
from chainrob.sample_gradients.patches import Geometry

__all__ = [
    "Geometry",
    "bias_pullback",
    "bias_rows",
    "broadcast_to_positions",
    "convolution_pullback",
    "convolution_rows",
    "embedding_pullback",
    "embedding_rows",
    "linear_pullback",
    "linear_rows",
    "normalization_pullback",
    "normalization_rows",
    "position_sums",
    "prelu_pullback",
    "prelu_rows",
    "scale_pullback",
    "scale_rows",
    "swish_pullback",
    "swish_rows",
    "transposed_convolution_pullback",
    "transposed_convolution_rows",
]

__getattr__ = renamed_names(__name__, {"spread": "broadcast_to_positions"})
