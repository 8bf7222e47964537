"""The mean of the values nearest to the median of every coordinate."""

from __future__ import annotations

from dataclasses import dataclass

from chainrob.kernels import array_module
from chainrob.robustifiers.bad_rows import BadRows
from chainrob.robustifiers.headroom import headroom, restored
from chainrob.robustifiers.robustifier import CoordinateWise
from chainrob.robustifiers.selection import smallest
from chainrob.sample_gradients.operator_base import Array, Fused


@dataclass(frozen=True, repr=False)
class MeanAround(BadRows, CoordinateWise):
    """Base of the estimators that average, in every coordinate, the N - f values nearest to a
    robust center.
    """

    def center(self, values: Array) -> Array:
        """The center of each coordinate: (*R, N, d) to (*R, 1, d)."""
        raise NotImplementedError

    def reduce(self, values: Array) -> Array:
        values, exponents = headroom(values)
        kept = self._kept(values).astype(values.dtype, copy=False)
        return restored((kept * values).sum(axis=-2) / (values.shape[-2] - self.f), exponents)

    def coordinate_weights(self, values: Array) -> Array:
        n = values.shape[-2]
        return self._kept(values) * (n / (n - self.f))

    def derivative(self, values: Array) -> Array:
        # The center only chooses, and a small move of the values does not change the choice.
        return self._kept(values) / (values.shape[-2] - self.f)

    def _kept(self, values: Array) -> Array:
        values, _ = headroom(values)
        distances = array_module(values).abs(values - self.center(values))
        return smallest(distances, values.shape[-2] - self.f, axis=-2)


@dataclass(frozen=True, repr=False)
class MeanAroundMedian(MeanAround):
    r"""Mean around the median (MeaMed): in every coordinate the mean of the N - f values nearest to
    the median.

    .. math:: \hat g = \frac{1}{N - f} \sum_{i \in S} g_i, \qquad
        S = \text{the } N - f \text{ indices of least } \lvert g_i - \mathrm{med}(g) \rvert

    Values at the same distance where the choice ends share their places. Breakdown point f rows.
    Translation- and scale-equivariant. Cost: two order statistics of every coordinate.

    Args:
        f: number of rows assumed bad, 2f < N.

    Raises:
        ValueError: f is no integer of at least 0, or 2f >= N at the call.

    Example:
        >>> import numpy as np, chainrob
        >>> chainrob.MeanAroundMedian(f=1)(np.array([[1.0], [2.0], [3.0], [4.0], [1e9]]))
        array([2.5])

    References:
        C. Xie, O. Koyejo and I. Gupta, Generalized Byzantine-tolerant SGD, 2018.
    """

    def center(self, values: Array) -> Array:
        return array_module(values).median(values, axis=-2, keepdims=True)

    def fused(self, n_samples: int) -> Fused | None:
        return Fused("mean_around_median", (self.f,))
