"""Losses that a GradScaler scales: thresholds in the unit of the loss, overflows let through."""

from __future__ import annotations

import gc
import warnings
import weakref
from typing import Any, TypeVar

import torch

from chainrob.robustifiers.errors import NonFiniteGradientError, NonFiniteGradientWarning
from chainrob.torch import ranks_of_ddp

__all__ = ["leave_to_scaler", "scale_of", "use_grad_scaler"]

Module = TypeVar("Module", bound=torch.nn.Module)

_scalers: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()


def use_grad_scaler(module: Module, scaler: Any) -> Module:
    """Tell the robust layers of a module which GradScaler scales its loss.

    Each layer then divides its rows by the scale, and multiplies the estimate by it. So absolute
    thresholds, as in ``ClipNorm``, are in units of the unscaled loss. An output gradient with NaN
    or infinity is an overflow, whatever the robustifier would make of the rows. The layer's
    gradients become infinite, so the scaler skips the step and lowers the scale.

    Without it thresholds are in units of the scaled loss. Only layers that ran in float16, or under
    autocast to it, take every NaN and infinity for an overflow. The others take them for a bad
    sample. A gradient of which no sample is finite still reaches the scaler, with a warning. The
    scaler is no part of the module: copies and pickles do not have it.

    Args:
        module: the model; all robust layers below are told.
        scaler: ``torch.amp.GradScaler``, or None to forget it.

    Returns:
        the module.

    Raises:
        TypeError: no GradScaler.

    Example:
        >>> import torch, chainrob.torch
        >>> clipped = chainrob.ClipNorm(1.0) >> chainrob.Mean()
        >>> net = chainrob.torch.robustify(torch.nn.Linear(2, 1, bias=False), clipped)
        >>> scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
        >>> net = chainrob.torch.use_grad_scaler(net, scaler)
        >>> scaler.scale(net(torch.full((4, 2), 100.0)).mean()).backward()
        >>> round(float(net.weight.grad.norm() / scaler.get_scale()), 3)
        1.0
    """
    if scaler is not None and not isinstance(scaler, torch.amp.GradScaler):
        raise TypeError(
            f"use_grad_scaler: scaler must be a torch.amp.GradScaler or None, found "
            f"{type(scaler).__name__}"
        )
    for one in module.modules():
        if scaler is None:
            _scalers.pop(one, None)
        else:
            _scalers[one] = scaler
    return module


def scale_of(
    owner: Any, gy: torch.Tensor, in_half: bool = False, ranks: Any = None
) -> tuple[float, bool]:
    """By how much the loss is scaled, and whether its gradient has overflowed on any rank.

    ``in_half`` says that the layer ran under autocast to float16.
    """
    scaler = _scalers.get(owner) if _scalers and owner is not None else None
    scale = float(scaler.get_scale()) if scaler is not None and scaler.is_enabled() else None
    if scale is None and gy.dtype != torch.float16 and not in_half:
        return 1.0, False
    finite = bool(torch.isfinite(gy).all())
    overflow = not (finite if ranks is None else ranks_of_ddp.all_agree(ranks, finite))
    return scale or 1.0, overflow


def leave_to_scaler(error: NonFiniteGradientError) -> None:
    """Return where a GradScaler is there to skip the step; else raise the error.

    A loss that overflowed leaves no finite sample gradient, of which a robustifier can only raise.
    A layer that was told of no scaler cannot know that its loss is scaled, so every scaler that
    has scaled a loss counts; they are looked for here only, when something is wrong anyway.
    """
    kinds = (one for one in gc.get_objects() if issubclass(type(one), torch.amp.GradScaler))
    if not any(one.is_enabled() and one._scale is not None for one in kinds):
        raise error
    warnings.warn(
        f"{error}; taken for an overflow of the scaled loss, the gradient is infinite for the "
        f"GradScaler to skip the step (chainrob.torch.use_grad_scaler(module, scaler) tells the "
        f"layers of it)",
        NonFiniteGradientWarning,
        stacklevel=2,
    )
