"""Convolutions and transposed convolutions in any number of dimensions, with robust gradients."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import chainer
from chainer.functions.connection import convolution_2d as stock_convolution_2d
from chainer.functions.connection import convolution_nd as stock_convolution_nd
from chainer.functions.connection import deconvolution_2d as stock_deconvolution_2d
from chainer.functions.connection import deconvolution_nd as stock_deconvolution_nd
from chainrob.aggregation import Aggregation, Reduction, Scope
from chainrob.builders import (
    Geometry,
    convolution_pullback,
    convolution_rows,
    transposed_convolution_pullback,
    transposed_convolution_rows,
)
from chainrob.functions.gradient_node import RobustFunction, runs_plainly
from chainrob.sample_gradients import SampleGradients
from chainrob.sample_gradients.operator_base import Array

Extent = int | Sequence[int]


class _Filters(RobustFunction):
    """Base of the convolutions of (x, W, b). Derive from it and a stock node, in this order."""

    parameters: ClassVar[Mapping[int, str]] = {1: "W", 2: "b"}
    transposed: ClassVar[bool] = False

    def __init__(self, aggregation: Aggregation, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.aggregation = aggregation

    def sample_gradients(
        self, arrays: tuple[Array, ...], wanted: Sequence[int]
    ) -> Mapping[int, SampleGradients]:
        rows = transposed_convolution_rows if self.transposed else convolution_rows
        return rows(arrays, wanted, *self.geometry())

    def pull(
        self, arrays: tuple[Array, ...], cotangents: Mapping[int, tuple[Array, ...]]
    ) -> tuple[Array, ...]:
        pullback = transposed_convolution_pullback if self.transposed else convolution_pullback
        return pullback(arrays, cotangents, *self.geometry())

    def geometry(self) -> tuple[Geometry, Sequence[int]]:
        """Filter size, stride, dilation and groups; and the padding."""
        node: Any = self
        ksize = node.inputs[1].shape[2:]
        return Geometry(ksize, node.stride, node.dilate, node.groups), node.pad


class _Filters2D(_Filters):
    """Reads the settings of the 2-d stock functions, which name them axis by axis."""

    def geometry(self) -> tuple[Geometry, Sequence[int]]:
        node: Any = self
        ksize = node.inputs[1].shape[2:]
        stride, dilate = (node.sy, node.sx), (node.dy, node.dx)
        return Geometry(ksize, stride, dilate, node.groups), (node.ph, node.pw)


class ConvolutionNDFunction(_Filters, stock_convolution_nd.ConvolutionND):
    """Chainer's convolution, with robust gradients of W and b."""


class Convolution2DFunction(_Filters2D, stock_convolution_2d.Convolution2DFunction):
    """Chainer's two-dimensional convolution, with robust gradients of W and b."""


class DeconvolutionNDFunction(_Filters, stock_deconvolution_nd.DeconvolutionND):
    """Chainer's transposed convolution, with robust gradients of W and b."""

    transposed = True


class Deconvolution2DFunction(_Filters2D, stock_deconvolution_2d.Deconvolution2DFunction):
    """Chainer's two-dimensional transposed convolution, with robust gradients of W and b."""

    transposed = True


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
    robustifier: Callable[[Any], Any] | Aggregation | None = None,
    loss_reduction: Reduction = "mean",
    scope: Scope = "layer",
) -> chainer.Variable:
    r"""N-dimensional convolution, with robust gradients of W and b.

    .. math::
        y_{n,q,s} = \sum_{c,k} W_{q,c,k}\, x_{n,c,s \cdot stride + k \cdot dilate - pad} + b_q,
        \qquad g_W = R\Big(\Big\{N \sum_s g_{y_{n,q,s}}\,
        x_{n,c,s \cdot stride + k \cdot dilate - pad}\Big\}_n\Big)

    A sample's gradient is the sum over its positions s. R is the robustifier; the stock gradient
    has R = mean. The factor N belongs to ``loss_reduction='mean'``. gx is the stock gradient.

    Args:
        x: input, (N, C, *spatial).
        W: filters, (Q, C / groups, *ksize).
        b: biases, (Q,), or None.
        stride, pad, cover_all, dilate, groups: as in ``chainer.functions.convolution_nd``.
        robustifier: a ``chainrob.Robustifier`` or any callable (N, D) -> (D,); None is
            ``chainer.functions.convolution_nd``.
        loss_reduction: ``'mean'`` or ``'sum'``: the loss's reduction over the samples; see
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
    plan = Aggregation.of(robustifier, loss_reduction, scope)
    options = {"cover_all": cover_all, "dilate": dilate, "groups": groups}
    if runs_plainly(plan):
        return chainer.functions.convolution_nd(x, W, b, stride, pad, **options)
    node = ConvolutionNDFunction(plan, len(x.shape) - 2, stride, pad, **options)
    return node.apply((x, W) if b is None else (x, W, b))[0]


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
    robustifier: Callable[[Any], Any] | Aggregation | None = None,
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
    plan = Aggregation.of(robustifier, loss_reduction, scope)
    options = {"cover_all": cover_all, "dilate": dilate, "groups": groups}
    if runs_plainly(plan):
        return chainer.functions.convolution_2d(x, W, b, stride, pad, **options)
    node = Convolution2DFunction(plan, stride, pad, **options)
    return node.apply((x, W) if b is None else (x, W, b))[0]


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
    robustifier: Callable[[Any], Any] | Aggregation | None = None,
    loss_reduction: Reduction = "mean",
    scope: Scope = "layer",
) -> chainer.Variable:
    r"""N-dimensional transposed convolution, with robust gradients of W and b.

    .. math::
        g_W = R\Big(\Big\{N \sum_s x_{n,c,s}\,
        g_{y_{n,q,s \cdot stride + k \cdot dilate - pad}}\Big\}_n\Big)

    A sample's gradient is the sum over the positions s of its input. R is the robustifier; the
    stock gradient has R = mean. The factor N belongs to ``loss_reduction='mean'``. gx is the stock
    gradient.

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
    plan = Aggregation.of(robustifier, loss_reduction, scope)
    options = {"outsize": outsize, "dilate": dilate, "groups": groups}
    if runs_plainly(plan):
        return chainer.functions.deconvolution_nd(x, W, b, stride, pad, **options)
    node = DeconvolutionNDFunction(plan, len(x.shape) - 2, stride, pad, **options)
    return node.apply((x, W) if b is None else (x, W, b))[0]


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
    robustifier: Callable[[Any], Any] | Aggregation | None = None,
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
    plan = Aggregation.of(robustifier, loss_reduction, scope)
    options = {"outsize": outsize, "dilate": dilate, "groups": groups}
    if runs_plainly(plan):
        return chainer.functions.deconvolution_2d(x, W, b, stride, pad, **options)
    node = Deconvolution2DFunction(plan, stride, pad, **options)
    return node.apply((x, W) if b is None else (x, W, b))[0]
