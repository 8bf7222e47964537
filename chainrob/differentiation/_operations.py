"""The number of arithmetic operations of a computation.

An addition, a product or an elementary function of numbers is one operation.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod, sqrt
from typing import Any

from chainrob.differentiation._graph import function_nodes

__all__ = ["graph_operations", "operations"]

Shape = tuple[int, ...]

# These functions move numbers and compute nothing.
_MOVES = frozenset(
    (
        *("Identity", "Reshape", "Transpose", "BroadcastTo", "Concat", "SplitAxis", "Stack"),
        *("GetItem", "Cast", "ExpandDims", "Squeeze", "Copy", "Pad", "Flip", "Repeat", "Tile"),
        *("Rollaxis", "Swapaxes", "Moveaxis", "Separate", "Im2Col", "Where"),
    )
)
_PRODUCTS = frozenset(
    ["LinearFunction", "LinearGradData", "LinearGradWeight", "MatMul", "BatchMatMul", "TensorDot"]
)
_NORMALIZATIONS = frozenset(
    ["Softmax", "LogSoftmax", "SoftmaxCrossEntropy", "BatchNormalization", "LayerNormalization"]
)


def graph_operations(outputs: Sequence[Any], excluding: Sequence[Any] = ()) -> int:
    """The operations of all function nodes behind ``outputs`` that are not behind ``excluding``."""
    known = {id(node) for y in excluding for node in function_nodes(y)}
    nodes = {id(node): node for y in outputs for node in function_nodes(y)}
    return sum(operations(node) for key, node in nodes.items() if key not in known)


def operations(node: Any) -> int:
    """Operations of one function node, from the shapes of its inputs and outputs.

    A matrix product counts a product and an addition for each pair of numbers. A sum counts one
    addition per number, a normalization four operations per number. Everything else counts one
    operation per number.
    """
    given = [one.shape for one in node.inputs]
    made = [one.shape for one in (reference() for reference in node.outputs) if one is not None]
    name, out = type(node).__name__, sum(prod(shape) for shape in made)
    if name in _MOVES or not given or not made:
        return 0
    if name in _PRODUCTS:
        return _product(name, given, made[0])
    if "Convolution" in name:
        return _convolution(name, given, made[0])
    if name in _NORMALIZATIONS:
        return 4 * prod(given[0])
    if name == "MultiAdd":
        return out * (len(given) - 1)
    return max(out, prod(given[0]))


def _product(name: str, given: Sequence[Shape], made: Shape) -> int:
    """2 x the numbers in the result x the length of the sum, and one addition for a bias."""
    # For matrices of sizes m k, k n and m n, k = sqrt(m k  k n / (m n)).
    each = prod if name == "TensorDot" else lambda shape: prod(shape[-2:])
    inner = round(sqrt(each(given[0]) * each(given[1]) / max(each(made), 1)))
    return prod(made) * (2 * inner + (len(given) > 2))


def _convolution(name: str, given: Sequence[Shape], made: Shape) -> int:
    """2 x the positions of the smaller image x the number of weights."""
    if "GradW" in name:  # x and gy make gW
        weights, images = made, given[:2]
    else:
        weights, images = given[1], [given[0], made]
    positions = min(prod(image[2:]) for image in images) * images[0][0]
    return 2 * positions * prod(weights)
