"""What a call of a robust layer is checked for, and what autocast makes of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["check_call", "check_leaves", "lower_dtype", "refuse_transforms"]


def refuse_transforms(where: str) -> None:
    """Raise inside a transform of ``torch.func``."""
    if torch._C._are_functorch_transforms_active():
        raise RuntimeError(
            f"{where}: a robust layer cannot run under torch.func or functorch (vmap, grad, jvp, "
            f"...): its gradient is no function of one sample; use loss.backward() or "
            f"torch.autograd.grad, or chainrob.torch.plain(module) first"
        )


def _refuse_tracers(x: Any, where: str) -> None:
    """Raise where ``torch.jit`` or ``torch.fx`` writes down what a layer does, and for an input
    that is no tensor.
    """
    found = "torch.jit.trace" if torch._C._is_tracing() else type(x).__name__
    if torch._C._is_tracing() or isinstance(x, torch.fx.Proxy):
        raise RuntimeError(
            f"{where}: a robust gradient cannot be written down by torch.jit or torch.fx, found "
            f"{found}; trace chainrob.torch.plain(copy.deepcopy(model)), which computes the same"
        )
    if not isinstance(x, Tensor):
        raise TypeError(f"{where}: input must be a torch.Tensor, found {found}")


def check_call(
    kind: Any, x: Tensor, parameters: Sequence[Tensor | None], sample_axis: int, where: str
) -> None:
    """Raise where a layer cannot be estimated."""
    _refuse_tracers(x, where)
    refuse_transforms(where)
    if x.ndim < kind.min_ndim or x.ndim <= sample_axis:
        raise ValueError(
            f"{where}: a robust layer needs a batch: its input must have at least {kind.min_ndim} "
            f"axes, of which axis {sample_axis} counts the samples, found shape {tuple(x.shape)}; "
            f"use x.unsqueeze(0) for a single sample"
        )
    for one in parameters:
        if one is not None and one.dtype.is_complex:
            raise TypeError(f"{where}: a robust layer needs real parameters, found {one.dtype}")


def check_leaves(computed: Sequence[Tensor], where: str) -> None:
    """Raise where ``scope='model'`` meets parameters that are no leaves of the graph."""
    if computed:
        raise RuntimeError(
            f"{where}: scope='model' needs parameters that are leaves of the graph, found one "
            f"of shape {tuple(computed[0].shape)} that a hook or parametrization computes; use "
            f"scope='layer'"
        )


def lower_dtype(x: Tensor, casts: bool) -> tuple[torch.dtype | None, bool]:
    """What autocast makes of the input and the parameters of a layer, and whether it is float16.

    Args:
        x: the input.
        casts: whether autocast runs the layer in a lower precision.
    """
    if not torch.is_autocast_enabled(x.device.type):
        return None, False
    lower = torch.get_autocast_dtype(x.device.type)
    return lower if casts and x.dtype.is_floating_point else None, lower == torch.float16
