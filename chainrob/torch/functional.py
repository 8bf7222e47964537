"""PyTorch's functions with robust gradients of their parameters: what the layers call.

Every function takes the arguments of its namesake in ``torch.nn.functional``, then:

- ``robustifier``: a ``chainrob.Robustifier`` or any callable (N, D) -> (D,); None is the stock
  function.
- ``loss_reduction``: ``'mean'`` or ``'sum'``, how the loss joins the samples. With ``'mean'``
  (PyTorch's losses) row n is the gradient of sample n's own loss and the estimate is returned as it
  is; with ``'sum'`` the rows are the raw contributions and N times the estimate is returned.
- ``scope``: what makes up one row for a weighting robustifier: ``'unit'`` (one output unit, its
  bias apart), ``'parameter'`` or ``'layer'`` (all parameters of the call). ``'model'`` takes a
  module.
- ``sample_axis``: the axis of the input that counts the samples.

A sample's gradient is the sum over its positions: all other axes that the parameter does not have.
The gradient of the input is never changed.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from chainrob.torch import layer_kinds
from chainrob.torch.function_options import Runner, runner_of
from chainrob.torch.normalizations import group_norm, instance_norm, layer_norm, rms_norm
from chainrob.torch.robust_call import breaks_graph

__all__ = [
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
    "embedding",
    "group_norm",
    "instance_norm",
    "layer_norm",
    "linear",
    "prelu",
    "rms_norm",
]

Extent = int | Sequence[int]


@breaks_graph
def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None, **options: Any) -> Tensor:
    r"""``F.linear``, with robust gradients of weight and bias.

    .. math::
        y_n = W x_n + b, \qquad g_W = R\Big(\Big\{N \sum_s g_{y_{n,s}} x_{n,s}^\top\Big\}_n\Big)

    Args:
        input: (N, ..., P); the axes between the first and the last are positions.
        weight: (Q, P).
        bias: (Q,), or None.
        options: ``robustifier``, ``loss_reduction``, ``scope``, ``sample_axis``, as at the top of
            this page.

    Returns:
        y, (N, ..., Q).

    Raises:
        ValueError: an input without a batch axis; unknown options.

    Example:
        >>> import torch, chainrob, chainrob.torch
        >>> x = torch.ones(5, 2)
        >>> x[4] = 1e6
        >>> W = torch.zeros(1, 2, requires_grad=True)
        >>> y = chainrob.torch.functional.linear(x, W, robustifier=chainrob.CoordinateMedian())
        >>> y.mean().backward()
        >>> W.grad
        tensor([[1., 1.]])
    """
    return runner_of(**options)(layer_kinds.linear(), input, weight, bias)


def _convolution(
    runner: Runner,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Extent,
    padding: Extent | str,
    dilation: Extent,
    groups: int,
) -> Tensor:
    ndim = weight.ndim - 2
    ksize = tuple(weight.shape[2:])
    stride, dilation = _each(stride, ndim), _each(dilation, ndim)
    if isinstance(padding, str):
        totals = [
            d * (k - 1) if padding == "same" else 0 for d, k in zip(dilation, ksize, strict=True)
        ]
        padding = tuple(one // 2 for one in totals)
        if any(one % 2 for one in totals):
            # The odd zero goes behind, as in PyTorch.
            behind = [(0, one % 2) for one in reversed(totals)]
            input = F.pad(input, [width for pair in behind for width in pair])
    kind = layer_kinds.convolution(ksize, stride, _each(padding, ndim), dilation, groups)
    return runner(kind, input, weight, bias)


@breaks_graph
def conv1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Extent = 1,
    padding: Extent | str = 0,
    dilation: Extent = 1,
    groups: int = 1,
    **options: Any,
) -> Tensor:
    r"""``F.conv1d``, with robust gradients of weight and bias.

    .. math::
        g_W = R\Big(\Big\{N \sum_s g_{y_{n,q,s}}\, x_{n,c,s \cdot stride + k \cdot dilation -
        padding}\Big\}_n\Big)

    Args:
        input: (N, C, *spatial).
        weight: (Q, C / groups, *ksize).
        bias: (Q,), or None.
        stride, padding, dilation, groups: as in ``F.conv1d``.
        options: as for ``linear``.

    Example:
        >>> import torch, chainrob, chainrob.torch
        >>> x, W = torch.ones(2, 1, 4), torch.ones(3, 1, 2, requires_grad=True)
        >>> chainrob.torch.functional.conv1d(x, W, robustifier=chainrob.Mean()).shape
        torch.Size([2, 3, 3])
    """
    return _convolution(
        runner_of(**options), input, weight, bias, stride, padding, dilation, groups
    )


@functools.wraps(conv1d, assigned=())
def conv2d(*args: Any, **options: Any) -> Tensor:
    """``F.conv2d``, with robust gradients of weight and bias: see ``conv1d``."""
    return conv1d(*args, **options)


@functools.wraps(conv1d, assigned=())
def conv3d(*args: Any, **options: Any) -> Tensor:
    """``F.conv3d``, with robust gradients of weight and bias: see ``conv1d``."""
    return conv1d(*args, **options)


def _transposed(
    runner: Runner,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Extent,
    padding: Extent,
    output_padding: Extent,
    groups: int,
    dilation: Extent,
) -> Tensor:
    ndim = weight.ndim - 2
    kind = layer_kinds.transposed_convolution(
        tuple(weight.shape[2:]),
        _each(stride, ndim),
        _each(padding, ndim),
        _each(output_padding, ndim),
        groups,
        _each(dilation, ndim),
    )
    return runner(kind, input, weight, bias)


@breaks_graph
def conv_transpose1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Extent = 1,
    padding: Extent = 0,
    output_padding: Extent = 0,
    groups: int = 1,
    dilation: Extent = 1,
    **options: Any,
) -> Tensor:
    r"""``F.conv_transpose1d``, with robust gradients of weight and bias.

    .. math::
        g_W = R\Big(\Big\{N \sum_s x_{n,c,s}\, g_{y_{n,q,s \cdot stride + k \cdot dilation -
        padding}}\Big\}_n\Big)

    Args:
        input: (N, C, *spatial).
        weight: (C, Q / groups, *ksize).
        bias: (Q,), or None.
        stride, padding, output_padding, groups, dilation: as in ``F.conv_transpose1d``.
        options: as for ``linear``.

    Example:
        >>> import torch, chainrob, chainrob.torch
        >>> x, W = torch.ones(2, 1, 3), torch.ones(1, 4, 2, requires_grad=True)
        >>> chainrob.torch.functional.conv_transpose1d(x, W, robustifier=chainrob.Mean()).shape
        torch.Size([2, 4, 4])
    """
    options_of_map = (stride, padding, output_padding, groups, dilation)
    return _transposed(runner_of(**options), input, weight, bias, *options_of_map)


@functools.wraps(conv_transpose1d, assigned=())
def conv_transpose2d(*args: Any, **options: Any) -> Tensor:
    """``F.conv_transpose2d``, with robust gradients: see ``conv_transpose1d``."""
    return conv_transpose1d(*args, **options)


@functools.wraps(conv_transpose1d, assigned=())
def conv_transpose3d(*args: Any, **options: Any) -> Tensor:
    """``F.conv_transpose3d``, with robust gradients: see ``conv_transpose1d``."""
    return conv_transpose1d(*args, **options)


@breaks_graph
def embedding(
    input: Tensor, weight: Tensor, padding_idx: int | None = None, **options: Any
) -> Tensor:
    r"""``F.embedding``, with a robust gradient of the weight.

    .. math:: g_W = R\Big(\Big\{N \sum_s e_{x_{n,s}}\, g_{y_{n,s}}^\top\Big\}_n\Big)

    A sample touches few ids, so most of its gradient is zero, and a robust location of a coordinate
    where most samples have zero may well be zero: a coordinate-wise median of an embedding hardly
    moves rare ids. Weighting robustifiers give one weight a sample and have no such effect.

    Args:
        input: integer ids, (N, ...).
        weight: (V, Q).
        padding_idx: the id whose row gets no gradient.
        options: as for ``linear``; a unit is a column of the weight.

    Example:
        >>> import torch, chainrob, chainrob.torch
        >>> W = torch.arange(6.).reshape(3, 2).requires_grad_()
        >>> ids = torch.tensor([2, 0])
        >>> chainrob.torch.functional.embedding(ids, W, robustifier=chainrob.Mean()).tolist()
        [[4.0, 5.0], [0.0, 1.0]]
    """
    return _embedding(runner_of(**options), input, weight, padding_idx)


def _embedding(runner: Runner, input: Tensor, weight: Tensor, padding_idx: int | None) -> Tensor:
    n_ids = weight.shape[0]
    if padding_idx is not None and padding_idx < 0:
        padding_idx += n_ids
    return runner(layer_kinds.embedding(n_ids, padding_idx), input, weight)


@breaks_graph
def prelu(input: Tensor, weight: Tensor, **options: Any) -> Tensor:
    r"""``F.prelu``, with a robust gradient of the slopes: :math:`\sum_s g_{y_{n,s}} \min(x_{n,s},
    0)`.

    Args:
        input: (N, C, ...).
        weight: (C,), or (1,) for one slope.
        options: as for ``linear``.

    Example:
        >>> import torch, chainrob, chainrob.torch
        >>> x, W = torch.tensor([[-2.], [4.]]), torch.full((1,), 0.25, requires_grad=True)
        >>> chainrob.torch.functional.prelu(x, W, robustifier=chainrob.Mean()).tolist()
        [[-0.5], [4.0]]
    """
    return runner_of(**options)(layer_kinds.prelu(weight.numel() == 1), input, weight)


def _each(extent: Extent, ndim: int) -> tuple[int, ...]:
    """One number an axis."""
    if isinstance(extent, int):
        return (extent,) * ndim
    extent = tuple(extent)
    return extent * ndim if len(extent) == 1 else extent
