"""Normalizations with robust gradients of weight and bias: the stock normalization, and then the
scale and shift that are all that their parameters do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from chainrob.torch import layer_kinds
from chainrob.torch.function_options import Runner, runner_of
from chainrob.torch.robust_call import breaks_graph

__all__ = ["group_norm", "instance_norm", "layer_norm", "rms_norm"]


@breaks_graph
def layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    **options: Any,
) -> Tensor:
    r"""``F.layer_norm``, with robust gradients of weight and bias.

    .. math::
        y = W \hat x + b, \qquad g_W = R\Big(\Big\{N \sum_s g_{y_{n,s}} \hat x_{n,s}\Big\}_n\Big)

    Args:
        input: (N, ..., *normalized_shape); the axes between are positions.
        normalized_shape: the last axes, over which each position is normalized.
        weight, bias: of that shape, or None.
        eps: added to the variance.
        options: as for ``linear``.

    Example:
        >>> import torch, chainrob, chainrob.torch
        >>> x, W = torch.tensor([[1., 3.], [5., 1.]]), torch.ones(2, requires_grad=True)
        >>> y = chainrob.torch.functional.layer_norm(x, (2,), W, robustifier=chainrob.Mean())
        >>> y.detach().round().tolist()
        [[-1.0, 1.0], [1.0, -1.0]]
    """
    return _layer_norm(runner_of(**options), input, tuple(normalized_shape), weight, bias, eps)


def _layer_norm(
    runner: Runner,
    input: Tensor,
    shape: tuple[int, ...],
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
) -> Tensor:
    unit = F.layer_norm(input, shape, None, None, eps)
    return _affine(runner, "layer_norm", unit, input.ndim - len(shape), len(shape), weight, bias)


@breaks_graph
def rms_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
    **options: Any,
) -> Tensor:
    """``F.rms_norm``, with a robust gradient of the weight: see ``layer_norm``."""
    return _rms_norm(runner_of(**options), input, tuple(normalized_shape), weight, eps)


def _rms_norm(
    runner: Runner, input: Tensor, shape: tuple[int, ...], weight: Tensor | None, eps: float | None
) -> Tensor:
    unit = F.rms_norm(input, list(shape), None, eps)
    return _affine(runner, "rms_norm", unit, input.ndim - len(shape), len(shape), weight, None)


@breaks_graph
def group_norm(
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    **options: Any,
) -> Tensor:
    """``F.group_norm``, with robust gradients of weight and bias.

    Args:
        input: (N, C, ...); the axes behind the channels are positions.
        num_groups: how many groups the channels make.
        weight, bias: (C,), or None.
        eps: added to the variance.
        options: as for ``linear``.

    Example:
        >>> import torch, chainrob, chainrob.torch
        >>> x, W = torch.randn(2, 4, 3), torch.ones(4, requires_grad=True)
        >>> chainrob.torch.functional.group_norm(x, 2, W, robustifier=chainrob.Mean()).shape
        torch.Size([2, 4, 3])
    """
    return _group_norm(runner_of(**options), input, num_groups, weight, bias, eps)


def _group_norm(
    runner: Runner,
    input: Tensor,
    num_groups: int,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
) -> Tensor:
    unit = F.group_norm(input, num_groups, None, None, eps)
    return _affine(runner, "group_norm", unit, 1, 1, weight, bias)


@breaks_graph
def instance_norm(
    input: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    **options: Any,
) -> Tensor:
    """``F.instance_norm`` by the input's own statistics, with robust gradients of weight and bias:
    see ``group_norm``.
    """
    return _instance_norm(runner_of(**options), input, weight, bias, eps)


def _instance_norm(
    runner: Runner, input: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> Tensor:
    unit = F.instance_norm(input, eps=eps)
    return _affine(runner, "instance_norm", unit, 1, 1, weight, bias)


def _affine(
    runner: Runner,
    function: str,
    unit: Tensor,
    axis: int,
    n_axes: int,
    weight: Tensor | None,
    bias: Tensor | None,
) -> Tensor:
    """What a normalization does after it has normalized, which is all that its parameters do."""
    if weight is None and bias is None:
        return unit
    if axis < 1:
        raise ValueError(
            f"{function}: a robust layer needs a batch: its input must have an axis of samples "
            f"before the normalized ones, found shape {tuple(unit.shape)}; use x.unsqueeze(0) for "
            f"a single sample"
        )
    return runner(layer_kinds.affine(function, axis, n_axes), unit, weight, bias)
