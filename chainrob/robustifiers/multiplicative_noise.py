"""Soft truncation, smoothed by noise that multiplies the values."""

from __future__ import annotations

from dataclasses import dataclass
from math import log, pi, sqrt
from typing import Any, NamedTuple

import numpy as np

from chainrob.kernels import array_module, normal_cdf
from chainrob.robustifiers.soft_truncation import SQRT2, Pilot, SoftTruncation
from chainrob.sample_gradients.operator_base import Array, Fused

CERTAIN = 30.0
"""Standard deviations beyond which nothing is left of the normal distribution in float64."""


@dataclass(frozen=True, repr=False)
class MultiplicativeNoise(SoftTruncation):
    r"""Soft truncation smoothed by multiplicative Gaussian noise, in closed form.

    .. math::
        \hat g = m + \frac{s}{N} \sum_i \mathrm{E}\, \psi\!\left(\frac{(g_i - m)(1 + \epsilon)}{s}
        \right), \qquad \epsilon \sim \mathcal N(0, 1/\beta), \quad \beta = 2 \log(1/\delta),
        \quad s^2 = \frac{N \sigma^2}{2 \log(1/\delta)}

    with psi, the pilot location m and sigma as in ``SoftTruncation``. The expectation over the
    noise needs no draws: with a = (g - m) / s, b = |a| / sqrt(beta) and the truncated moments
    :math:`I_k = \mathrm E[z^k;\, |a + b z| \le \sqrt2]` of a standard normal z it is

    .. math:: a I_0 + b I_1 - \tfrac16 (a^3 I_0 + 3 a^2 b I_1 + 3 a b^2 I_2 + b^3 I_3)
        + \tfrac{2\sqrt2}{3} \big(\mathrm P(a + bz > \sqrt2) - \mathrm P(a + bz < -\sqrt2)\big)

    No value has a kink in it, and large values are truncated a little earlier than without noise.
    The paper's estimator has m = 0 and a bound of the second moment for sigma^2, and moves towards
    zero; deviations from a pilot make it translation-equivariant, and the pilot costs it what it
    costs ``SoftTruncation``: with the mean its breakdown point is 0, with the median that of the
    median.

    Translation- and scale-equivariant as long as ``min_variance`` is 0. Cost: two values of the
    normal distribution function for every value, tile by tile.

    Args:
        delta: confidence parameter in (0, 1); smaller truncates earlier, with less noise.
        pilot: ``'mean'`` or ``'median'``.
        min_variance: floor of sigma^2, in squared units of one sample's loss gradient.

    Raises:
        ValueError: delta outside (0, 1), an unknown pilot, or a negative floor.

    Example:
        >>> import numpy as np, chainrob
        >>> rows = np.array([[0.0], [1.0], [2.0], [3.0], [4.0], [100.0]])
        >>> bool(chainrob.MultiplicativeNoise(pilot='median')(rows)[0] < 3.1)
        True

    References:
        M. J. Holland, Robust descent using smoothed multiplicative noise, AISTATS 2019. O. Catoni
        and I. Giulini, Dimension-free PAC-Bayesian bounds for matrices, vectors, and linear least
        squares regression, 2017.
    """

    def fused(self, n_samples: int) -> Fused | None:
        return None

    def reduce(self, values: Array) -> Array:
        xp = array_module(values)
        pilot = self._pilot(values)
        let_in = pilot.scale * self._smoothed(pilot).value
        # A scale beyond all floats truncates nothing, but zero times it would be no number.
        let_in = xp.where(self._truncates(pilot), let_in, pilot.deviations).astype(values.dtype)
        estimate = pilot.center + let_in.mean(axis=-2, keepdims=True)
        return (xp.clip(estimate, *pilot.ends) * pilot.unit)[..., 0, :]

    def coordinate_weights(self, values: Array) -> Array:
        xp = array_module(values)
        pilot = self._pilot(values)
        smoothed = self._smoothed(pilot)
        moves = self._truncates(pilot) & (smoothed.units != 0.0)
        return xp.where(moves, smoothed.value / xp.where(moves, smoothed.units, 1.0), 1.0)

    def derivative(self, values: Array) -> Array:
        pilot = self._pilot(values)
        smoothed = self._smoothed(pilot)
        of_center, of_scale = self._pilot_derivatives(pilot)
        by_center = 1.0 - smoothed.slope.mean(axis=-2, keepdims=True)
        # d/ds of s h(d / s) is h(u) - u h'(u).
        by_scale = (smoothed.value - smoothed.units * smoothed.slope).mean(axis=-2, keepdims=True)
        return smoothed.slope / values.shape[-2] + by_center * of_center + by_scale * of_scale

    def delta_derivative(self, gradients: Array) -> Array:
        raise NotImplementedError("MultiplicativeNoise: the derivative in delta is not known")

    @staticmethod
    def _truncates(pilot: Pilot) -> Array:
        xp = array_module(pilot.deviations)
        return (pilot.scale > 0.0) & xp.isfinite(pilot.scale)

    def _smoothed(self, pilot: Pilot) -> Smoothed:
        """h(u) = E psi(u (1 + epsilon)) and h'(u) of the deviations u in units of s."""
        xp = array_module(pilot.deviations)
        safe = xp.where(self._truncates(pilot), pilot.scale, 1.0).astype(np.float64)
        units = xp.where(self._truncates(pilot), pilot.deviations / safe, 0.0)
        # h is odd, and constant to the last bit far out, where powers would overflow.
        size = xp.clip(xp.abs(units), 1e-150, 1e60)
        value, slope = _of_positive(size, sqrt(2.0 * log(1.0 / self.delta)), xp)
        return Smoothed(units, xp.where(units == 0.0, 0.0, xp.sign(units) * value), slope)


class Smoothed(NamedTuple):
    """The smoothed truncation of a tile of deviations, each (*R, N, d), float64."""

    units: Array
    value: Array
    slope: Array


def _of_positive(a: Array, root_beta: float, xp: Any) -> tuple[Array, Array]:
    """E psi(u) and d/da E psi(u) = E[u psi'(u)] / a for u = a + b z, b = a / root_beta, a > 0."""
    b = a / root_beta
    low = xp.maximum((-SQRT2 - a) / b, -CERTAIN)
    high = xp.clip((SQRT2 - a) / b, -CERTAIN, CERTAIN)
    below, above = normal_cdf(low), normal_cdf(-high)
    inside = normal_cdf(high) - below
    at_low, at_high = _density(low, xp), _density(high, xp)
    first = at_low - at_high
    second = inside + low * at_low - high * at_high
    third = 2.0 * first + low * low * at_low - high * high * at_high
    # Moments of u over the share of the noise that leaves it untruncated, in units of a.
    c = 1.0 / root_beta
    mean = inside + c * first
    cube = a * a * (inside + 3.0 * c * first + 3.0 * c * c * second + c**3 * third)
    value, slope = a * (mean - cube / 6.0), mean - cube / 2.0
    far = a > 4.0 * max(root_beta**2, 1.0)
    if xp is not np or far.any():
        for target, cubic in ((value, 6.0), (slope, 2.0)):
            target[...] = xp.where(
                far, _far_out(xp.where(far, a, 1.0), root_beta, cubic, xp), target
            )
        slope[...] = xp.where(far, slope / a, slope)
    return value + 2.0 * SQRT2 / 3.0 * (above - below), slope


def _far_out(a: Array, root_beta: float, cubic: float, xp: Any) -> Array:
    """E[u - u^3 / cubic; |u| <= sqrt 2], where the density of u = a + b z hardly varies there and
    the moments would cancel: by Gauss-Legendre quadrature.
    """
    total = xp.zeros_like(a)
    for node, weight in zip(*np.polynomial.legendre.leggauss(8), strict=True):
        u = SQRT2 * float(node)
        density = _density(root_beta * (u / a - 1.0), xp) * (root_beta / a)
        total += (SQRT2 * float(weight) * (u - u**3 / cubic)) * density
    return total


def _density(z: Array, xp: Any) -> Array:
    return xp.exp(-0.5 * z * z) / sqrt(2.0 * pi)
