"""The mean after the extreme values of every coordinate are drawn in."""

from __future__ import annotations

from dataclasses import dataclass

from chainrob.kernels import array_module
from chainrob.robustifiers.headroom import headroom, restored
from chainrob.robustifiers.trimming import Trimming, inner_range
from chainrob.sample_gradients.operator_base import Array, Fused


@dataclass(frozen=True, repr=False)
class WinsorizedMean(Trimming):
    r"""Coordinate-wise winsorized mean: the k smallest values become the (k+1)-th smallest, the k
    largest the (k+1)-th largest, and all N are averaged.

    .. math::
        \hat g = \frac1N \Big(k\, g_{(k+1)} + \sum_{i = k + 1}^{N - k} g_{(i)} +
        k\, g_{(N-k)}\Big)

    Breakdown point k rows. Translation- and scale-equivariant. Cost: two order statistics of every
    coordinate.

    Args:
        fraction: share of the rows drawn in at each end, in [0, 0.5): k = floor(fraction * N).
        count: k itself, instead of a fraction. One of the two must be given.

    Raises:
        ValueError: both or neither given, out of range, or 2 * count >= N at the call.

    Example:
        >>> import numpy as np, chainrob
        >>> chainrob.WinsorizedMean(count=1)(np.array([[1.0], [2.0], [3.0], [-1e9]]))
        array([1.5])

    References:
        J. W. Tukey and D. H. McLaughlin, Less vulnerable confidence and significance procedures for
        location based on a single sample: trimming/winsorization 1, Sankhya A 1963.
    """

    def fused(self, n_samples: int) -> Fused | None:
        return Fused("winsorized_mean", (self.trim(n_samples),))

    def reduce(self, values: Array) -> Array:
        values, exponents = headroom(values)
        return restored(self._drawn_in(values).mean(axis=-2), exponents)

    def coordinate_weights(self, values: Array) -> Array:
        # A value far out counts as the end of the range, so with what it has of the deviation left.
        xp = array_module(values)
        values, _ = headroom(values)
        drawn_in = self._drawn_in(values)
        center = drawn_in.mean(axis=-2, keepdims=True)
        moved = values != drawn_in
        deviations = xp.where(moved, values - center, 1.0)
        return xp.where(moved, (drawn_in - center) / deviations, 1.0)

    def derivative(self, values: Array) -> Array:
        n = values.shape[-2]
        low, high = inner_range(values, self.trim(n))
        inside = (values > low) & (values < high)
        # The ends of the range stand for all values beyond them too; equal values share that.
        at_low, at_high = values == low, (values == high) & (high > low)
        below = (values <= low).sum(axis=-2, keepdims=True)
        above = (values >= high).sum(axis=-2, keepdims=True)
        xp = array_module(values)
        share_low = below / xp.maximum(at_low.sum(axis=-2, keepdims=True), 1)
        share_high = above / xp.maximum(at_high.sum(axis=-2, keepdims=True), 1)
        return (inside + at_low * share_low + at_high * share_high) / n

    def _drawn_in(self, values: Array) -> Array:
        k = self.trim(values.shape[-2])
        if k == 0:
            return values
        low, high = inner_range(values, k)
        return array_module(values).clip(values, low, high)
