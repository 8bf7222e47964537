"""The mean of the values nearest to the trimmed mean of every coordinate."""

from __future__ import annotations

from dataclasses import dataclass

from chainrob.robustifiers.mean_around_median import MeanAround
from chainrob.robustifiers.trimmed_mean import trimmed_mean
from chainrob.sample_gradients.operator_base import Array, Fused


@dataclass(frozen=True, repr=False)
class Phocas(MeanAround):
    r"""Phocas: in every coordinate the mean of the N - f values nearest to the trimmed mean.

    .. math:: \hat g = \frac{1}{N - f} \sum_{i \in S} g_i, \qquad
        S = \text{the } N - f \text{ indices of least } \lvert g_i - \mathrm{Trmean}_f(g) \rvert

    where the trimmed mean drops f values at each end. Values at the same distance where the choice
    ends share their places. Breakdown point f rows. Translation- and scale-equivariant. Cost: three
    order statistics of every coordinate.

    Args:
        f: number of rows assumed bad, 2f < N.

    Raises:
        ValueError: f is no integer of at least 0, or 2f >= N at the call.

    Example:
        >>> import numpy as np, chainrob
        >>> chainrob.Phocas(f=1)(np.array([[1.0], [2.0], [3.0], [4.5], [1e9]]))
        array([2.625])

    References:
        C. Xie, O. Koyejo and I. Gupta, Phocas: dimensional Byzantine-resilient stochastic gradient
        descent, 2018.
    """

    def center(self, values: Array) -> Array:
        return trimmed_mean(values, self.f)[..., None, :]

    def fused(self, n_samples: int) -> Fused | None:
        return Fused("phocas", (self.f,))
