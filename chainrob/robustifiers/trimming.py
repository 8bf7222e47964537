"""How many values are cut off at each end of a coordinate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from chainrob.kernels import array_module
from chainrob.robustifiers.parameters import (
    require_below_half,
    require_integer,
    require_minority,
)
from chainrob.robustifiers.robustifier import CoordinateWise
from chainrob.sample_gradients.operator_base import AmongZeros, Array


@dataclass(frozen=True, repr=False)
class Trimming(CoordinateWise):
    """Base of the estimators that treat the k smallest and the k largest values of a coordinate
    apart.

    Args:
        fraction: share of the rows at each end, in [0, 0.5): k = floor(fraction * N).
        count: k itself, instead of a fraction. One of the two must be given.
    """

    fraction: float | None = None
    count: int | None = None

    counts_bad_rows: ClassVar[tuple[str, ...]] = ("count",)

    def __post_init__(self) -> None:
        super().__post_init__()
        name = type(self).__name__
        if (self.fraction is None) == (self.count is None):
            raise ValueError(
                f"{name}: give either fraction or count, found fraction={self.fraction!r}, "
                f"count={self.count!r}"
            )
        if self.fraction is not None:
            require_below_half(self, "fraction")
        if self.count is not None:
            require_integer(self, "count")

    def trim(self, n_samples: int) -> int:
        """k, the number of values at each end."""
        if self.count is not None:
            return int(self.count)
        assert self.fraction is not None
        # A fraction such as 0.29 of 100 must cut 29 although 0.29 * 100 is 28.999...
        # Nor may rounding up cut off all: 2k < N, as fraction < 0.5 says.
        return min(int(np.floor(self.fraction * n_samples + 1e-9)), (n_samples - 1) // 2)

    def among_zeros(self, n_samples: int) -> AmongZeros:
        return AmongZeros(ignored=self.trim(n_samples))

    def check(self, n_samples: int) -> None:
        if self.count is not None:
            require_minority(self, n_samples, "count")


def inner_range(values: Array, k: int) -> tuple[Array, Array]:
    """The values of rank k and N - 1 - k along the sample axis: each (*R, 1, d)."""
    xp = array_module(values)
    n = values.shape[-2]
    ordered = xp.partition(values, sorted({k, n - 1 - k}), axis=-2)
    return ordered[..., k : k + 1, :], ordered[..., n - 1 - k : n - k, :]


def median_derivative(values: Array) -> Array:
    """Derivative of the median in each value of its coordinate: (*R, N, d), almost everywhere."""
    n = values.shape[-2]
    return central_weights(values, (n - 1) // 2) / n


def central_weights(values: Array, k: int) -> Array:
    """N / (N - 2k) for the values of rank k to N - k - 1 along the sample axis, 0 for the others.

    Values that tie at the ends of this range share what is due to them.
    """
    xp = array_module(values)
    n = values.shape[-2]
    low, high = inner_range(values, k)
    inside = (values > low) & (values < high)
    at_low, at_high = values == low, (values == high) & (high > low)

    def count(mask: Array) -> Array:
        return mask.sum(axis=-2, keepdims=True)

    # Of the values equal to the lower end, those of rank k and above (and below N - k) are kept.
    kept_low = xp.minimum(count(values <= low), n - k) - k
    kept_high = xp.minimum(count(values < high) + count(at_high), n - k) - count(values < high)
    share_low = kept_low / xp.maximum(count(at_low), 1)
    share_high = kept_high / xp.maximum(count(at_high), 1)
    return (inside + at_low * share_low + at_high * share_high) * (n / (n - 2 * k))
