"""The kinds of layers: which stock function runs, and which builders make its sample gradients."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from chainrob import builders
from chainrob.torch.compiled_layers import kind_of_layer
from chainrob.torch.robust_call import LayerKind

__all__ = [
    "affine",
    "convolution",
    "embedding",
    "linear",
    "prelu",
    "transposed_convolution",
]

Extent = tuple[int, ...]


@kind_of_layer
def linear(names: tuple[str, ...] = ("weight", "bias")) -> LayerKind:
    """y = x W^T + b over the last axis; the axes between samples and inputs are positions."""
    return LayerKind(
        "linear",
        names,
        F.linear,
        lambda gy, x, weight, *_: gy.matmul(weight),
        builders.linear_rows,
        builders.linear_pullback,
        flat=True,
    )


@kind_of_layer
def convolution(
    ksize: Extent, stride: Extent, padding: Extent, dilation: Extent, groups: int
) -> LayerKind:
    """Convolution of as many dimensions as the filter has."""
    ndim = len(ksize)
    op = (F.conv1d, F.conv2d, F.conv3d)[ndim - 1]
    geometry: dict[str, Any] = {
        "geometry": builders.Geometry(ksize, stride, dilation, groups),
        "pad": padding,
    }
    return LayerKind(
        f"conv{ndim}d",
        ("weight", "bias"),
        lambda x, weight, bias=None: op(x, weight, bias, stride, padding, dilation, groups),
        partial(_convolved_input, (stride, padding, dilation, False, (0,) * ndim, groups)),
        partial(builders.convolution_rows, **geometry),
        partial(builders.convolution_pullback, **geometry),
        min_ndim=ndim + 2,
    )


@kind_of_layer
def transposed_convolution(
    ksize: Extent,
    stride: Extent,
    padding: Extent,
    output_padding: Extent,
    groups: int,
    dilation: Extent,
) -> LayerKind:
    """Transposed convolution of as many dimensions as the filter has."""
    ndim = len(ksize)
    op = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[ndim - 1]
    geometry: dict[str, Any] = {
        "geometry": builders.Geometry(ksize, stride, dilation, groups),
        "pad": padding,
    }
    return LayerKind(
        f"conv_transpose{ndim}d",
        ("weight", "bias"),
        lambda x, weight, bias=None: op(
            x, weight, bias, stride, padding, output_padding, groups, dilation
        ),
        partial(_convolved_input, (stride, padding, dilation, True, output_padding, groups)),
        partial(builders.transposed_convolution_rows, **geometry),
        partial(builders.transposed_convolution_pullback, **geometry),
        min_ndim=ndim + 2,
    )


@kind_of_layer
def embedding(n_ids: int, padding_idx: int | None) -> LayerKind:
    """Rows of the weight by id."""
    options: dict[str, Any] = {"n_ids": n_ids, "ignored": padding_idx}
    return LayerKind(
        "embedding",
        ("weight",),
        lambda ids, weight: F.embedding(ids, weight, padding_idx),
        None,
        partial(builders.embedding_rows, **options),
        partial(builders.embedding_pullback, **options),
        casts=False,
        min_ndim=1,
    )


@kind_of_layer
def affine(function: str, axis: int, n_axes: int) -> LayerKind:
    """y = x W + b, entry by entry: what a normalization does after it has normalized.

    Args:
        function: the layer's name.
        axis: the first axis of x that is W's.
        n_axes: how many axes W has.
    """

    def extended(parameter: Tensor, ndim: int) -> Tensor:
        return parameter.reshape(*parameter.shape, *(1,) * (ndim - axis - n_axes))

    def op(x: Tensor, weight: Tensor | None, bias: Tensor | None = None) -> Tensor:
        y = x if weight is None else x * extended(weight, x.ndim)
        return y if bias is None else y + extended(bias, x.ndim)

    def input_gradient(gy: Tensor, x: Tensor, weight: Tensor | None, *_: Any) -> Tensor:
        return gy if weight is None else gy * extended(weight, gy.ndim)

    def rows(arrays: Any, wanted: Sequence[int]) -> Any:
        x, gy = arrays
        found = {}
        if 1 in wanted:
            found[1] = builders.scale_rows((x, gy), (1,), axis, n_axes)[1]
        if 2 in wanted:
            found[2] = builders.bias_rows((gy,), (1,), axis, n_axes)[1]
        return found

    def pull(arrays: Any, cotangents: Any) -> Any:
        x, gy = arrays
        of_x, of_gy = 0 * x, 0 * gy
        if 1 in cotangents:
            of_x, of_gy = builders.scale_pullback((x, gy), {1: cotangents[1]}, axis)
        if 2 in cotangents:
            of_gy = of_gy + builders.bias_pullback((gy,), {1: cotangents[2]}, axis)[0]
        return of_x, of_gy

    return LayerKind(
        function,
        ("weight", "bias"),
        op,
        input_gradient,
        rows,
        pull,
        casts=False,
        min_ndim=axis + n_axes,
    )


@kind_of_layer
def prelu(shared: bool) -> LayerKind:
    """max(x, 0) + W min(x, 0), with one slope for all channels or one a channel."""

    def input_gradient(gy: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        slope = weight if shared else weight.reshape(-1, *(1,) * (x.ndim - 2))
        return torch.where(x > 0, gy, gy * slope)

    def by_channel(arrays: Any) -> Any:
        # One slope for all is that of a single channel.
        return tuple(one.reshape((len(one), 1, -1)) for one in arrays) if shared else arrays

    def rows(arrays: Any, wanted: Sequence[int]) -> Any:
        return builders.prelu_rows(by_channel(arrays), wanted, 1)

    def pull(arrays: Any, cotangents: Any) -> Any:
        pulled = builders.prelu_pullback(by_channel(arrays), cotangents)
        return tuple(one.reshape(like.shape) for one, like in zip(pulled, arrays, strict=True))

    return LayerKind(
        "prelu",
        ("weight",),
        F.prelu,
        input_gradient,
        rows,
        pull,
        casts=False,
        min_ndim=1 if shared else 2,
    )


def _convolved_input(
    options: tuple[Any, ...], gy: Tensor, x: Tensor, weight: Tensor, *_: Any
) -> Tensor:
    *geometry, groups = options
    return torch.ops.aten.convolution_backward(
        gy, x, weight, None, *geometry, groups, (True, False, False)
    )[0]
