"""Losses of many replicas at once. Each replica has its own parameter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["CLASSIFICATION_LOSSES", "REGRESSION_LOSSES", "loss_of"]

Array = NDArray[Any]
Loss = Callable[[Array, Array, Array], tuple[Array, Array]]


def _probabilities(y: Array) -> Array:
    shifted = np.exp(y - y.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)


def _cross_entropy(y: Array, t: Array, _: Array) -> tuple[Array, Array]:
    p, target = _probabilities(y), np.eye(y.shape[-1], dtype=y.dtype)[t]
    of_class = np.take_along_axis(p, t[..., None], axis=-1)[..., 0]
    return -np.log(np.maximum(of_class, 1e-30)), p - target


def _smoothed(y: Array, t: Array, share: Array) -> tuple[Array, Array]:
    """Label smoothing: targets are mixed with a share of the uniform ones (Szegedy et al.)."""
    p, k = _probabilities(y), y.shape[-1]
    target = (1 - share) * np.eye(k, dtype=y.dtype)[t] + share / k
    return -(target * np.log(np.maximum(p, 1e-30))).sum(axis=-1), p - target


def _generalized(y: Array, t: Array, q: Array) -> tuple[Array, Array]:
    """(1 - p^q) / q of the class's probability p (Zhang and Sabuncu, 2018)."""
    p, target = _probabilities(y), np.eye(y.shape[-1], dtype=y.dtype)[t]
    powered = np.take_along_axis(p, t[..., None], axis=-1) ** q
    return ((1 - powered) / q)[..., 0], powered * (p - target)


def _squared(y: Array, t: Array, _: Array) -> tuple[Array, Array]:
    residual = y - t
    return 0.5 * (residual**2).sum(axis=-1), residual


def _huber(y: Array, t: Array, c: Array) -> tuple[Array, Array]:
    residual = y - t
    size = np.abs(residual)
    losses = np.where(size <= c, 0.5 * residual**2, c * (size - 0.5 * c))
    return losses.sum(axis=-1), np.clip(residual, -c, c)


def _absolute(y: Array, t: Array, _: Array) -> tuple[Array, Array]:
    return np.abs(y - t).sum(axis=-1), np.sign(y - t)


def _without_highest(loss: Loss) -> Loss:
    """The loss without the samples that have the highest losses, a share of each batch."""

    def dropped(y: Array, t: Array, share: Array) -> tuple[Array, Array]:
        losses, gradient = loss(y, t, share)
        n = losses.shape[1]
        kept = n - np.floor(share[..., 0] * n).astype(int)  # (T, 1)
        ranks = np.nan_to_num(losses, nan=np.inf).argsort(axis=1).argsort(axis=1)
        weights = np.where(ranks < kept, n / kept, 0).astype(y.dtype)
        return losses, np.where(weights[..., None] > 0, gradient, 0) * weights[..., None]

    return dropped


CLASSIFICATION_LOSSES: dict[str, Loss] = {
    "plain": _cross_entropy,
    "smoothing": _smoothed,
    "generalized": _generalized,
    "dropped": _without_highest(_cross_entropy),
}
REGRESSION_LOSSES: dict[str, Loss] = {
    "plain": _squared,
    "huber": _huber,
    "absolute": _absolute,
    "dropped": _without_highest(_squared),
}


def loss_of(text: str, classification: bool) -> tuple[Loss, float]:
    """A loss written ``NAME`` or ``NAME=PARAMETER``, and its parameter.

    A loss maps scores (T, N, K), targets (T, N) or (T, N, 1) and parameters (T, 1, 1) to losses
    (T, N) and their gradients in the scores (T, N, K).

    Raises:
        ValueError: If the task has no such loss.
    """
    known = CLASSIFICATION_LOSSES if classification else REGRESSION_LOSSES
    name, _, parameter = text.partition("=")
    if name not in known:
        raise ValueError(f"loss must be one of {', '.join(known)}, found {name!r}")
    return known[name], float(parameter or 0)
