"""The result of a contamination: the corrupted data and the corrupted rows."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["Contaminated", "ContaminatedRegression"]

Seed = int | np.random.SeedSequence


class Contaminated(NamedTuple):
    """Corrupted data and the numbers of the corrupted rows."""

    data: NDArray[Any]
    """A copy of the data, with some rows corrupted."""
    rows: NDArray[np.int64]
    """Numbers of the corrupted rows, sorted."""


class ContaminatedRegression(NamedTuple):
    """A corrupted regression sample and the numbers of the corrupted rows."""

    x: NDArray[Any]
    """Inputs, (n, d)."""
    y: NDArray[Any]
    """Responses, (n,) or (n, k)."""
    rows: NDArray[np.int64]
    """Numbers of the corrupted rows, sorted."""


def draws_apart(seed: Seed) -> tuple[np.random.SeedSequence, np.random.Generator]:
    """The seed that chooses the rows, and a generator for their corruption.

    The two are independent. So the rows depend only on the seed and the share, and two kinds of
    contamination with one seed hit the same rows.
    """
    sequence = seed if isinstance(seed, np.random.SeedSequence) else np.random.SeedSequence(seed)
    children = np.random.SeedSequence(sequence.entropy, spawn_key=(*sequence.spawn_key, 1))
    return sequence, np.random.default_rng(children)


def floating(name: str, values: ArrayLike, *, ndim: int | None = None) -> NDArray[Any]:
    """A floating-point copy (float64 unless it already is floating), checked: not empty, finite."""
    array = np.array(values)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"{name} must hold real numbers, found dtype {array.dtype}")
    if array.dtype.kind != "f":
        array = array.astype(np.float64)
    if array.ndim < 1 or array.size == 0 or (ndim is not None and array.ndim != ndim):
        axes = "at least one axis" if ndim is None else f"{ndim} axes"
        raise ValueError(f"{name} must have {axes} and not be empty, found shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite before it is contaminated, found NaN or infinity")
    return array


def positive(name: str, value: float) -> float:
    """The value, if it is a finite number above zero."""
    if not (np.isfinite(value) and value > 0):
        raise ValueError(f"{name} must be positive and finite, found {value!r}")
    return float(value)
