"""Transposed convolutions of any number of dimensions whose filters' gradients are estimated
robustly.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import chainer
from chainer.functions.connection import deconvolution_2d as stock_2d
from chainer.functions.connection import deconvolution_nd as stock_nd
from chainrob.functions.convolution import Extent
from chainrob.functions.estimate import Reduction, Scope
from chainrob.functions.gradient_node import Aggregation, RobustFunction, position_sums, spread
from chainrob.sample_gradients import SampleGradients, TransposedPatchProducts
from chainrob.sample_gradients.base import Array
from chainrob.sample_gradients.patches import Geometry, padded


class DeconvolutionNDFunction(RobustFunction, stock_nd.DeconvolutionND):
    """Chainer's transposed convolution, with robust gradients of W and b."""

    parameters: ClassVar[Mapping[int, str]] = {1: "W", 2: "b"}

    def __init__(self, aggregation: Aggregation, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.aggregation = aggregation

    def sample_gradients(
        self, arrays: tuple[Array, ...], wanted: Sequence[int]
    ) -> dict[int, SampleGradients]:
        return filter_gradients(arrays, wanted, self.geometry(), self.pad)

    def row_products(
        self, index: int, rows: Array, variables: tuple[chainer.Variable, ...]
    ) -> chainer.Variable:
        return filter_products(index, rows, variables, self.geometry(), self.pad)

    def geometry(self) -> Geometry:
        return Geometry(self.inputs[1].shape[2:], self.stride, self.dilate, self.groups)


class Deconvolution2DFunction(RobustFunction, stock_2d.Deconvolution2DFunction):
    """Chainer's two-dimensional transposed convolution, with robust gradients of W and b."""

    parameters: ClassVar[Mapping[int, str]] = {1: "W", 2: "b"}

    def __init__(self, aggregation: Aggregation, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.aggregation = aggregation

    def sample_gradients(
        self, arrays: tuple[Array, ...], wanted: Sequence[int]
    ) -> dict[int, SampleGradients]:
        return filter_gradients(arrays, wanted, self.geometry(), (self.ph, self.pw))

    def row_products(
        self, index: int, rows: Array, variables: tuple[chainer.Variable, ...]
    ) -> chainer.Variable:
        return filter_products(index, rows, variables, self.geometry(), (self.ph, self.pw))

    def geometry(self) -> Geometry:
        return Geometry(
            self.inputs[1].shape[2:], (self.sy, self.sx), (self.dy, self.dx), self.groups
        )


def filter_gradients(
    arrays: tuple[Array, ...], wanted: Sequence[int], geometry: Geometry, pad: Sequence[int]
) -> dict[int, SampleGradients]:
    """The operators of W (key 1) and b (key 2) of a transposed convolution."""
    x, gy = arrays
    operators: dict[int, SampleGradients] = {}
    if 1 in wanted:
        patched = padded(gy, pad, geometry, x.shape[2:])
        operators[1] = TransposedPatchProducts(patched, x, geometry)
    if 2 in wanted:
        operators[2] = position_sums(gy, keep=(1,))
    return operators


def filter_products(
    index: int,
    rows: Array,
    variables: tuple[chainer.Variable, ...],
    geometry: Geometry,
    pad: Sequence[int],
) -> chainer.Variable:
    """sum_n <rows_n, g_n> of W (index 1) or b (index 2), as for a convolution."""
    x, gy = variables
    functions = chainer.functions
    if index == 2:
        return functions.sum(gy * spread(rows, 1, gy))
    y = functions.deconvolution_nd(
        functions.reshape(x, (1, -1, *x.shape[2:])),
        rows.reshape((-1, *rows.shape[2:])).astype(x.dtype),
        stride=geometry.stride,
        pad=tuple(pad),
        outsize=gy.shape[2:],
        dilate=geometry.dilate,
        groups=len(rows) * geometry.groups,
    )
    return functions.sum(functions.reshape(y, gy.shape) * gy)


def deconvolution_nd(
    x: Any,
    W: Any,
    b: Any = None,
    stride: Extent = 1,
    pad: Extent = 0,
    outsize: Sequence[int] | None = None,
    dilate: Extent = 1,
    groups: int = 1,
    *,
    robustifier: Callable[[Any], Any] | None = None,
    loss_reduction: Reduction = "mean",
    scope: Scope = "layer",
) -> chainer.Variable:
    r"""N-dimensional transposed convolution, with robust gradients of W and b.

    .. math::
        g_W = R\Big(\Big\{N \sum_s x_{n,c,s}\,
        g_{y_{n,q,s \cdot stride + k \cdot dilate - pad}}\Big\}_n\Big)

    A sample's gradient is the sum over the positions s of its input; R is the robustifier (the
    stock gradient is R = mean), and the factor N that of ``loss_reduction='mean'``. gx is the stock
    one.

    Args:
        x: input, (N, C, *spatial).
        W: filters, (C, Q / groups, *ksize).
        b: biases, (Q,), or None.
        stride, pad, outsize, dilate, groups: as in ``chainer.functions.deconvolution_nd``.
        robustifier: a ``chainrob.Robustifier`` or any callable (N, D) -> (D,); None is
            ``chainer.functions.deconvolution_nd``.
        loss_reduction: ``'mean'`` or ``'sum'``, see ``chainrob.functions.linear``.
        scope: ``'unit'`` (one output channel), ``'parameter'`` or ``'layer'``.

    Returns:
        chainer.Variable: y, (N, Q, *outsize).

    Raises:
        chainer.utils.type_check.InvalidType: shapes or dtypes that do not fit.
        ValueError: unknown ``loss_reduction`` or ``scope``.

    Example:
        >>> import numpy as np, chainrob
        >>> x, W = np.ones((2, 1, 3), np.float32), np.ones((1, 4, 2), np.float32)
        >>> chainrob.functions.deconvolution_nd(x, W, robustifier=chainrob.Mean()).shape
        (2, 4, 4)
    """
    plan = Aggregation(robustifier, loss_reduction, scope)
    return deconvolve(x, W, b, stride, pad, outsize, dilate, groups, plan)


def deconvolution_2d(
    x: Any,
    W: Any,
    b: Any = None,
    stride: Extent = 1,
    pad: Extent = 0,
    outsize: Sequence[int] | None = None,
    *,
    dilate: Extent = 1,
    groups: int = 1,
    robustifier: Callable[[Any], Any] | None = None,
    loss_reduction: Reduction = "mean",
    scope: Scope = "layer",
) -> chainer.Variable:
    """Two-dimensional transposed convolution, with robust gradients: see ``deconvolution_nd``.

    Args:
        x: input, (N, C, H, W).
        W: filters, (C, Q / groups, kH, kW).
        b: biases, (Q,), or None.
        stride, pad, outsize, dilate, groups: as in ``chainer.functions.deconvolution_2d``.
        robustifier, loss_reduction, scope: as in ``deconvolution_nd``.

    Returns:
        chainer.Variable: y, (N, Q, H', W').

    Example:
        >>> import numpy as np, chainrob
        >>> x, W = np.ones((2, 1, 3, 3), np.float32), np.ones((1, 4, 2, 2), np.float32)
        >>> chainrob.functions.deconvolution_2d(x, W, robustifier=chainrob.Mean()).shape
        (2, 4, 4, 4)
    """
    plan = Aggregation(robustifier, loss_reduction, scope)
    return deconvolve_2d(x, W, b, stride, pad, outsize, dilate, groups, plan)


def deconvolve(
    x: Any,
    W: Any,
    b: Any,
    stride: Extent,
    pad: Extent,
    outsize: Sequence[int] | None,
    dilate: Extent,
    groups: int,
    aggregation: Aggregation,
) -> chainer.Variable:
    """``deconvolution_nd`` with its options as one object: what the link calls."""
    options = {"outsize": outsize, "dilate": dilate, "groups": groups}
    if aggregation.robustifier is None:
        return chainer.functions.deconvolution_nd(x, W, b, stride, pad, **options)
    ndim = len(x.shape) - 2
    node = DeconvolutionNDFunction(aggregation, ndim, stride, pad, **options)
    return node.apply((x, W) if b is None else (x, W, b))[0]


def deconvolve_2d(
    x: Any,
    W: Any,
    b: Any,
    stride: Extent,
    pad: Extent,
    outsize: Sequence[int] | None,
    dilate: Extent,
    groups: int,
    aggregation: Aggregation,
) -> chainer.Variable:
    """``deconvolution_2d`` with its options as one object: what the link calls."""
    options = {"outsize": outsize, "dilate": dilate, "groups": groups}
    if aggregation.robustifier is None:
        return chainer.functions.deconvolution_2d(x, W, b, stride, pad, **options)
    node = Deconvolution2DFunction(aggregation, stride, pad, **options)
    return node.apply((x, W) if b is None else (x, W, b))[0]
