"""Cross-check the implicit derivative of an argmin by solving again nearby."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import chainer
from chainrob.differentiation.argmin import argmin

__all__ = ["ArgminCheck", "check_argmin"]


@dataclasses.dataclass(frozen=True)
class ArgminCheck:
    """The two derivatives of ``sum(cotangent * x_star)``.

    Attributes:
        implicit: One array per parameter, by the implicit function theorem.
        differences: The same by central differences of the solver's result; NaN for unchecked
            entries.
        error: Largest difference, relative to the largest derivative checked.
        solves: Number of minimizations for the differences.
    """

    implicit: tuple[np.ndarray, ...]
    differences: tuple[np.ndarray, ...]
    error: float
    solves: int


def check_argmin(
    objective: Callable[..., Any],
    x0: Any,
    parameters: Sequence[Any] | Any,
    *,
    cotangent: Any = None,
    step: float | None = None,
    max_entries: int = 100,
    seed: int = 0,
    **options: Any,
) -> ArgminCheck:
    r"""Compare the gradient through :func:`argmin` with central differences, in float64.

    .. math:: \frac{x^*(\theta + h e_j) - x^*(\theta - h e_j)}{2 h} \cdot c

    Args:
        objective: As for :func:`argmin`; evaluated in float64.
        x0: Start of the first minimization; the others start at its result.
        parameters: Sequence of Variables or arrays.
        cotangent: c, weights of the entries of x*. Default: ones.
        step: Positive h. Default: ``eps ** (1/3) * max(1, abs(theta))``.
        max_entries: Largest number of parameter entries to check. If there are more, a random
            sample is checked.
        seed: Seed of that sample.
        options: For :func:`argmin`.

    Returns:
        An :class:`ArgminCheck`.

    Raises:
        NotAMinimumError: As :func:`argmin`, at any of the points.

    Example:
        >>> import chainer.functions as F
        >>> check = check_argmin(lambda x, t: F.sum(F.exp(x) - t * x), 0.0, 2.0)
        >>> print(check.implicit[0], check.error < 1e-8)
        0.5 True
    """
    if not isinstance(parameters, (tuple, list)):
        parameters = (parameters,)
    arrays = [_to_float64(theta) for theta in parameters]
    thetas = [chainer.Variable(array) for array in arrays]
    x = argmin(objective, _to_float64(x0), thetas, **options)
    weights = np.ones_like(x.array) if cotangent is None else _to_float64(cotangent)
    if weights.shape != x.shape:
        raise ValueError(f"cotangent must have the shape {x.shape} of x0, found {weights.shape}")
    if step is not None and not (np.isfinite(step) and step > 0):
        raise ValueError(f"step must be positive and finite, found {step!r}")
    x.grad = weights
    x.backward()

    entries = [(k, j) for k, array in enumerate(arrays) for j in range(array.size)]
    if len(entries) > max_entries:
        chosen = np.random.default_rng(seed).choice(len(entries), max_entries, replace=False)
        entries = [entries[i] for i in sorted(chosen)]
    differences = tuple(np.full(array.shape, np.nan) for array in arrays)
    for k, j in entries:
        center = float(arrays[k].flat[j])
        h = np.finfo(np.float64).eps ** (1 / 3) * max(1.0, abs(center)) if step is None else step
        ends = []
        for value in (center + h, center - h):
            moved = [array.copy() for array in arrays]
            moved[k].flat[j] = value
            ends.append(float((argmin(objective, x.array, moved, **options).array * weights).sum()))
        differences[k].flat[j] = (ends[0] - ends[1]) / (2 * h)
    implicit = tuple(np.asarray(theta.grad) for theta in thetas)
    gap = max(float(abs(implicit[k].flat[j] - differences[k].flat[j])) for k, j in entries)
    size = max(float(abs(differences[k].flat[j])) for k, j in entries)
    return ArgminCheck(implicit, differences, gap / size if size > 0 else gap, 2 * len(entries))


def _to_float64(value: Any) -> np.ndarray:
    value = getattr(value, "array", value)
    return np.array(chainer.backends.cuda.to_cpu(value), dtype=np.float64)
