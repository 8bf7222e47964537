"""The mean of what is left when the smallest and the largest values of every coordinate are cut
off.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from chainrob.kernels import array_module
from chainrob.robustifiers.base import CoordinateWise
from chainrob.sample_gradients.base import Array


@dataclass(frozen=True, repr=False)
class TrimmedMean(CoordinateWise):
    r"""Coordinate-wise trimmed mean: drop the k smallest and the k largest values, average the
    others.

    .. math:: \\hat g = \\frac{1}{N - 2k} \\sum_{i = k + 1}^{N - k} g_{(i)}

    Breakdown point k rows. Translation- and scale-equivariant. Cost: order statistics of every
    coordinate.

    Args:
        fraction: share of the rows cut off at each end, in [0, 0.5): k = floor(fraction * N).
        count: k itself, instead of a fraction. One of the two must be given.

    Raises:
        ValueError: both or neither given, out of range, or 2 * count >= N at the call.

    Example:
        >>> import numpy as np, chainrob
        >>> chainrob.TrimmedMean(count=1)(np.array([[1.0], [2.0], [3.0], [-1e9]]))
        array([1.5])

    References:
        D. Yin, Y. Chen, K. Ramchandran and P. Bartlett, Byzantine-robust distributed learning:
        towards optimal statistical rates, ICML 2018 (option II).
    """

    fraction: float | None = None
    count: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.fraction is None) == (self.count is None):
            raise ValueError(
                f"TrimmedMean: give either fraction or count, found fraction={self.fraction!r}, count={self.count!r}"
            )
        if self.fraction is not None and not 0.0 <= self.fraction < 0.5:
            raise ValueError(f"TrimmedMean: fraction must lie in [0, 0.5), found {self.fraction!r}")
        if self.count is not None and (
            isinstance(self.count, bool) or self.count != int(self.count) or self.count < 0
        ):
            raise ValueError(
                f"TrimmedMean: count must be an integer of at least 0, found {self.count!r}"
            )

    def trim(self, n_samples: int) -> int:
        """k, the number of values cut off at each end."""
        if self.count is not None:
            return int(self.count)
        assert self.fraction is not None
        # A fraction such as 0.29 of 100 must cut 29 although 0.29 * 100 is 28.999...
        return int(np.floor(self.fraction * n_samples + 1e-9))

    def check(self, n_samples: int) -> None:
        if self.count is not None and 2 * self.count >= n_samples:
            raise ValueError(
                f"TrimmedMean: 2 * count must be below the number of samples, found count={self.count} with "
                f"{n_samples} samples"
            )

    def reduce(self, values: Array) -> Array:
        xp = array_module(values)
        n, k = values.shape[-2], self.trim(values.shape[-2])
        if k == 0:
            return values.mean(axis=-2)
        ordered = (
            xp.partition(values, (k, n - k - 1), axis=-2) if xp is np else xp.sort(values, axis=-2)
        )
        return ordered[..., k : n - k, :].mean(axis=-2)

    def coordinate_weights(self, values: Array) -> Array:
        return central_weights(values, self.trim(values.shape[-2]))


def central_weights(values: Array, k: int) -> Array:
    """N / (N - 2k) for the values of rank k to N - k - 1 along the sample axis, 0 for the
    others.
    """
    xp = array_module(values)
    n = values.shape[-2]
    ranks = xp.argsort(xp.argsort(values, axis=-2), axis=-2)
    kept = (ranks >= k) & (ranks < n - k)
    return kept * (n / (n - 2 * k))
