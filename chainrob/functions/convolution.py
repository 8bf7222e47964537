"""Convolutions of any number of dimensions whose filters' gradients are estimated robustly."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import chainer
from chainer.functions.connection import convolution_2d as stock_2d
from chainer.functions.connection import convolution_nd as stock_nd
from chainrob.functions.estimate import Reduction, Scope
from chainrob.functions.gradient_node import Aggregation, RobustFunction, position_sums, spread
from chainrob.sample_gradients import PatchProducts, SampleGradients
from chainrob.sample_gradients.base import Array
from chainrob.sample_gradients.patches import Geometry, padded

Extent = int | Sequence[int]


class ConvolutionNDFunction(RobustFunction, stock_nd.ConvolutionND):
    """Chainer's convolution, with robust gradients of W and b."""

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


class Convolution2DFunction(RobustFunction, stock_2d.Convolution2DFunction):
    """Chainer's two-dimensional convolution, with robust gradients of W and b."""

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
    """The operators of W (key 1) and b (key 2) of a convolution."""
    x, gy = arrays
    operators: dict[int, SampleGradients] = {}
    if 1 in wanted:
        operators[1] = PatchProducts(padded(x, pad, geometry, gy.shape[2:]), gy, geometry)
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
    """sum_n <rows_n, g_n> of W (index 1) or b (index 2).

    Of W it is <gy, y> for the convolution y in which sample n has the filter rows_n: a convolution
    of one sample whose channels, N times as many, are as many times grouped.
    """
    x, gy = variables
    functions = chainer.functions
    if index == 2:
        return functions.sum(gy * spread(rows, 1, gy))
    sizes = zip(
        x.shape[2:],
        gy.shape[2:],
        geometry.ksize,
        geometry.stride,
        geometry.dilate,
        pad,
        strict=True,
    )
    covers_all = any(
        found > (size + 2 * p - (k - 1) * d - 1) // step + 1 for size, found, k, step, d, p in sizes
    )
    y = functions.convolution_nd(
        functions.reshape(x, (1, -1, *x.shape[2:])),
        rows.reshape((-1, *rows.shape[2:])).astype(x.dtype),
        stride=geometry.stride,
        pad=tuple(pad),
        cover_all=covers_all,
        dilate=geometry.dilate,
        groups=len(rows) * geometry.groups,
    )
    return functions.sum(functions.reshape(y, gy.shape) * gy)


def convolution_nd(
    x: Any,
    W: Any,
    b: Any = None,
    stride: Extent = 1,
    pad: Extent = 0,
    cover_all: bool = False,
    dilate: Extent = 1,
    groups: int = 1,
    *,
    robustifier: Callable[[Any], Any] | None = None,
    loss_reduction: Reduction = "mean",
    scope: Scope = "layer",
) -> chainer.Variable:
    r"""N-dimensional convolution, with robust gradients of W and b.

    .. math::
        y_{n,q,s} = \sum_{c,k} W_{q,c,k}\, x_{n,c,s \cdot stride + k \cdot dilate - pad} + b_q,
        \qquad g_W = R\Big(\Big\{N \sum_s g_{y_{n,q,s}}\,
        x_{n,c,s \cdot stride + k \cdot dilate - pad}\Big\}_n\Big)

    A sample's gradient is the sum over its positions s; R is the robustifier (the stock gradient is
    R = mean), and the factor N that of ``loss_reduction='mean'``. gx is the stock one.

    Args:
        x: input, (N, C, *spatial).
        W: filters, (Q, C / groups, *ksize).
        b: biases, (Q,), or None.
        stride, pad, cover_all, dilate, groups: as in ``chainer.functions.convolution_nd``.
        robustifier: a ``chainrob.Robustifier`` or any callable (N, D) -> (D,); None is
            ``chainer.functions.convolution_nd``.
        loss_reduction: ``'mean'`` or ``'sum'``: how the loss joins the samples, see
            ``chainrob.functions.linear``.
        scope: ``'unit'`` (one output channel), ``'parameter'`` or ``'layer'``.

    Returns:
        chainer.Variable: y, (N, Q, *positions).

    Raises:
        chainer.utils.type_check.InvalidType: shapes or dtypes that do not fit.
        ValueError: unknown ``loss_reduction`` or ``scope``.

    Example:
        >>> import numpy as np, chainrob
        >>> import chainer
        >>> x = np.ones((5, 1, 4), np.float32)
        >>> x[4] = 1e6
        >>> W = chainer.Parameter(np.zeros((1, 1, 2), np.float32))
        >>> y = chainrob.functions.convolution_nd(x, W, robustifier=chainrob.CoordinateMedian())
        >>> (chainer.functions.sum(y) / 5).backward()
        >>> W.grad
        array([[[3., 3.]]], dtype=float32)
    """
    plan = Aggregation(robustifier, loss_reduction, scope)
    return convolve(x, W, b, stride, pad, cover_all, dilate, groups, plan)


def convolution_2d(
    x: Any,
    W: Any,
    b: Any = None,
    stride: Extent = 1,
    pad: Extent = 0,
    cover_all: bool = False,
    *,
    dilate: Extent = 1,
    groups: int = 1,
    robustifier: Callable[[Any], Any] | None = None,
    loss_reduction: Reduction = "mean",
    scope: Scope = "layer",
) -> chainer.Variable:
    """Two-dimensional convolution, with robust gradients of W and b: see ``convolution_nd``.

    Args:
        x: input, (N, C, H, W).
        W: filters, (Q, C / groups, kH, kW).
        b: biases, (Q,), or None.
        stride, pad, cover_all, dilate, groups: as in ``chainer.functions.convolution_2d``.
        robustifier, loss_reduction, scope: as in ``convolution_nd``.

    Returns:
        chainer.Variable: y, (N, Q, H', W').

    Example:
        >>> import numpy as np, chainrob
        >>> x, W = np.ones((2, 1, 4, 4), np.float32), np.ones((3, 1, 2, 2), np.float32)
        >>> chainrob.functions.convolution_2d(x, W, robustifier=chainrob.Mean()).shape
        (2, 3, 3, 3)
    """
    plan = Aggregation(robustifier, loss_reduction, scope)
    return convolve_2d(x, W, b, stride, pad, cover_all, dilate, groups, plan)


def convolve(
    x: Any,
    W: Any,
    b: Any,
    stride: Extent,
    pad: Extent,
    cover_all: bool,
    dilate: Extent,
    groups: int,
    aggregation: Aggregation,
) -> chainer.Variable:
    """``convolution_nd`` with its options as one object: what the link calls."""
    options = {"cover_all": cover_all, "dilate": dilate, "groups": groups}
    if aggregation.robustifier is None:
        return chainer.functions.convolution_nd(x, W, b, stride, pad, **options)
    ndim = len(x.shape) - 2
    node = ConvolutionNDFunction(aggregation, ndim, stride, pad, **options)
    return node.apply((x, W) if b is None else (x, W, b))[0]


def convolve_2d(
    x: Any,
    W: Any,
    b: Any,
    stride: Extent,
    pad: Extent,
    cover_all: bool,
    dilate: Extent,
    groups: int,
    aggregation: Aggregation,
) -> chainer.Variable:
    """``convolution_2d`` with its options as one object: what the link calls."""
    options = {"cover_all": cover_all, "dilate": dilate, "groups": groups}
    if aggregation.robustifier is None:
        return chainer.functions.convolution_2d(x, W, b, stride, pad, **options)
    node = Convolution2DFunction(aggregation, stride, pad, **options)
    return node.apply((x, W) if b is None else (x, W, b))[0]
