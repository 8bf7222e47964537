"""M-estimates of location with an M-estimate of scale, coordinate by coordinate."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from math import floor, log, sqrt
from typing import Any, Literal

import numpy as np

from chainrob.kernels import array_module
from chainrob.kernels.constants import CHI_LEVEL
from chainrob.robustifiers.convergence import report
from chainrob.robustifiers.headroom import headroom, restored
from chainrob.robustifiers.parameters import (
    require_choice,
    require_integer,
    require_open_unit,
    require_positive,
)
from chainrob.robustifiers.robustifier import ConvergenceWarning, CoordinateWise
from chainrob.robustifiers.trimming import median_derivative
from chainrob.sample_gradients.operator_base import AmongZeros, Array, Fused

Rho = Literal["pseudo_huber", "log_cosh", "gudermannian", "catoni"]


@dataclass(frozen=True, repr=False)
class MEstimator(CoordinateWise):
    r"""Holland and Ikeda's M-estimator of location, coordinate by coordinate.

    .. math::
        \sum_i \psi\Big(\frac{g_i - \hat g}{s}\Big) = 0, \qquad
        s = \hat\sigma \sqrt{\frac{N}{\log(2 / \delta)}}, \qquad
        \frac1N \sum_i \chi\Big(\frac{g_i - \gamma}{\hat\sigma}\Big) = 0, \quad
        \chi(u) = \frac{u^2}{1 + u^2} - \beta

    with psi = rho' and beta such that sigma is the standard deviation of normal data. The location
    is found by the fixed-point iteration

    .. math:: \theta \leftarrow \theta + \frac{s}{N} \sum_i \psi\Big(\frac{g_i - \theta}{s}\Big)

    from the pivot gamma, with steps made longer: by Newton's method (division by the mean of psi',
    which is never more than 1) where that stays between the points known to lie on either side of
    the root, and by halving where it does not. The scale, the one root of its equation, is found by
    Newton's method in log sigma. The choices of rho are

    - ``'pseudo_huber'``: 2 (sqrt(1 + u^2 / 2) - 1), psi = u / sqrt(1 + u^2 / 2);
    - ``'log_cosh'``: log cosh u, psi = tanh u;
    - ``'gudermannian'``: psi = 2 arctan(tanh(u / 2));
    - ``'catoni'``: Catoni's widest, psi = sign(u) log(1 + \|u\| + u^2 / 2).

    Breakdown point: 0 with the mean as pivot, for it moves with any row and takes sigma along. With
    ``pilot='median'`` any number of rows below beta N = 0.344 N, with a given ``scale`` (N - 1) //
    2 rows; but 0 with ``'catoni'``, whose psi grows without bound, if slowly: f rows at M carry it
    to the order of M^(f / (N - f)). A coordinate in which more than 1 - beta of the values equal
    the pivot has scale 0, and the estimate is the pivot. Translation- and scale-equivariant unless
    ``scale`` is given. One row: the row. Cost: a few passes over all values for the scale, and a
    few for the location.

    Args:
        rho: ``'pseudo_huber'``, ``'log_cosh'``, ``'gudermannian'`` or ``'catoni'``.
        delta: confidence parameter in (0, 1).
        scale: s itself, in units of one sample's loss gradient; None for the equations above.
        pilot: the pivot gamma, ``'mean'`` (the paper) or ``'median'``; with a given ``scale`` it
            has no part in the equation.
        tolerance: stop when no step is longer than this share of s, or of the distance to the pivot
            where that is longer (in float32, than a few roundings).
        max_iterations: give up after so many steps, with a ConvergenceWarning.

    Raises:
        ValueError: an unknown rho or pilot, or a number out of range.

    Example:
        >>> import numpy as np, chainrob
        >>> rows = np.array([[0.0], [1.0], [2.0], [3.0], [4.0], [1e9]])
        >>> robust = chainrob.MEstimator('log_cosh', pilot='median')
        >>> robust
        MEstimator(rho='log_cosh', pilot='median')
        >>> bool(1.5 < robust(rows)[0] < 3.0)
        True

    References:
        M. J. Holland and K. Ikeda, Efficient learning with robust gradient descent, Machine
        Learning 2019, and Robust regression using biased objectives, Machine Learning 2017. O.
        Catoni, Challenging the empirical mean and empirical variance: a deviation study, 2012.
    """

    rho: Rho = "gudermannian"
    delta: float = field(default=0.005, kw_only=True)
    scale: float | None = field(default=None, kw_only=True)
    pilot: Literal["mean", "median"] = field(default="mean", kw_only=True)
    tolerance: float = field(default=1e-11, kw_only=True)
    max_iterations: int = field(default=200, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_choice(self, "rho", tuple(INFLUENCE))
        require_choice(self, "pilot", ("mean", "median"))
        require_open_unit(self, "delta")
        require_open_unit(self, "tolerance")
        require_integer(self, "max_iterations", 1)
        if self.scale is not None:
            require_positive(self, "scale")

    def fused(self, n_samples: int) -> Fused | None:
        factor = sqrt(n_samples / log(2.0 / self.delta))
        iteration = (self.tolerance, self.max_iterations, self._report)
        return Fused("m_estimator", (self.rho, self._pivot, self.scale, factor, *iteration))

    def among_zeros(self, n_samples: int) -> AmongZeros:
        own = type(self).reduce is not MEstimator.reduce
        if own or self.pilot != "median" or self.scale is not None:
            return AmongZeros()
        # About a pivot of 0 there is no scale then, and the estimate is the pivot.
        return AmongZeros(ignored=floor(CHI_LEVEL * n_samples))

    @property
    def _pivot(self) -> str:
        """What the iteration starts from. The root for a given scale is the same from anywhere, but
        deviations from a mean that one huge row has carried off have lost their digits.
        """
        return self.pilot if self.scale is None else "median"

    def _report(self, unconverged: Array) -> None:
        report(self, unconverged)

    def reduce(self, values: Array) -> Array:
        values, exponents = headroom(values)
        pivot, unit, deviations, scale = self._scaled(values, exponents)
        location = self._location(deviations, scale)
        return restored((pivot + unit * location)[..., 0, :], exponents)

    def coordinate_weights(self, values: Array) -> Array:
        xp = array_module(values)
        _, _, deviations, scale = self._scaled(*headroom(values))
        location = self._location(deviations, scale)
        units = (deviations - location) / xp.where(scale > 0.0, scale, 1.0)
        influence, _ = INFLUENCE[self.rho](units, xp)
        near = units == 0.0
        weights = xp.where(near, 1.0, influence / xp.where(near, 1.0, units))
        # Without a scale the estimate is the pivot, and what differs from it has no say.
        alone = (scale == 0.0) & (deviations != 0.0)
        return xp.where(alone, 0.0, weights)

    def derivative(self, values: Array) -> Array:
        """By the implicit function theorem: the location and the scale are roots of equations."""
        xp = array_module(values)
        n = values.shape[-2]
        _, _, deviations, scale = self._scaled(*headroom(values))
        location = self._location(deviations, scale)
        safe = xp.where(scale > 0.0, scale, 1.0)
        units = (deviations - location) / safe
        _, slopes = INFLUENCE[self.rho](units, xp)
        total = slopes.sum(axis=-2, keepdims=True)
        if self.scale is not None:
            return slopes / total
        if self.pilot == "mean":
            of_pivot = xp.full(values.shape, 1.0 / n)
        else:
            of_pivot = median_derivative(values)
        factor = sqrt(n / log(2.0 / self.delta))
        standard = deviations * (factor / safe)
        bends = standard / (1.0 + standard * standard) ** 2
        pull = (bends * standard).sum(axis=-2, keepdims=True)
        of_sigma = bends - bends.sum(axis=-2, keepdims=True) * of_pivot
        of_sigma = of_sigma / xp.where(pull > 0.0, pull, 1.0)
        by_scale = -(slopes * units).sum(axis=-2, keepdims=True) / total
        return xp.where(scale > 0.0, slopes / total + by_scale * factor * of_sigma, of_pivot)

    def _scaled(self, values: Array, exponents: Array | None) -> tuple[Array, Array, Array, Array]:
        """Pivot and unit (*R, 1, d), deviations from the pivot in that unit, and s in that unit.

        The unit is the largest deviation, so that no square can overflow at any scale. The values
        are as ``headroom`` gave them.
        """
        xp = array_module(values)
        if self._pivot == "mean":
            pivot = values.mean(axis=-2, keepdims=True)
        else:
            pivot = xp.median(values, axis=-2, keepdims=True)
        deviations = values - pivot
        unit = xp.abs(deviations).max(axis=-2, keepdims=True)
        unit = xp.where(unit > 0.0, unit, values.dtype.type(1))
        deviations = deviations / unit
        if self.scale is not None:
            return pivot, unit, deviations, self._given_scale(unit, exponents)
        factor = values.dtype.type(sqrt(values.shape[-2] / log(2.0 / self.delta)))
        return pivot, unit, deviations, factor * chi_scale(deviations)

    def _given_scale(self, unit: Array, exponents: Array | None) -> Array:
        """``scale`` in another unit, within what the dtype can hold.

        At the upper limit psi is linear to the last digit; at the lower it tells signs only.
        """
        xp = array_module(unit)
        info = np.finfo(unit.dtype)
        scale = xp.full(unit.shape, self.scale, np.float64)
        if exponents is not None:
            scale = xp.ldexp(scale, -exponents)
        with np.errstate(over="ignore", under="ignore"):
            scale = scale / unit
        least = 2.0 ** (info.minexp // 2 + info.minexp // 4)
        return xp.clip(scale, least, 1.0 / info.eps).astype(unit.dtype, copy=False)

    def _location(self, deviations: Array, scale: Array) -> Array:
        """Root of the location equation; 0, the pivot, where the scale is 0."""
        xp = array_module(deviations)
        safe = xp.where(scale > 0.0, scale, scale.dtype.type(1))
        tolerance = max(self.tolerance, 4.0 * float(np.finfo(deviations.dtype).eps))
        location = xp.zeros_like(safe)
        # All deviations lie in [-1, 1], and so does the root.
        low, high = -xp.ones_like(safe), xp.ones_like(safe)
        previous, longest = xp.full_like(safe, np.inf), np.inf
        for _ in range(self.max_iterations):
            influence, slope = INFLUENCE[self.rho]((deviations - location) / safe, xp)
            step = influence.mean(axis=-2, keepdims=True)
            step = xp.where(scale > 0.0, step, step.dtype.type(0))
            low, high = xp.where(step > 0.0, location, low), xp.where(step < 0.0, location, high)
            slope = slope.mean(axis=-2, keepdims=True)
            with np.errstate(over="ignore"):  # what is no number is outside the bracket
                newton = step / xp.where(slope > 0.0, slope, 1.0)
                moved = location + safe * newton
            # A step that leaves the bracket, or does not shrink and might go in circles, is
            # replaced by one to the middle of the bracket.
            shrinks = xp.abs(newton) <= xp.maximum(0.5 * xp.abs(previous), tolerance)
            good = (moved >= low) & (moved <= high) & shrinks
            good &= (slope > 0.0) | (step == 0.0)
            halving = (0.5 * (low + high) - location) / safe
            newton = previous = xp.where(good, newton, halving)
            location = location + safe * newton
            # Rounding bounds the step by the distance that was traveled, where that is long.
            traveled = xp.maximum(xp.abs(location) / safe, 1.0)
            longest = float((xp.abs(newton) / traveled).max()) if step.size else 0.0
            if not longest > tolerance:  # NaN, where it may propagate, ends here too
                return location
        warnings.warn(
            f"{self!r} stopped after {self.max_iterations} iterations with a step of {longest:.2g} "
            f"of the scale; raise max_iterations, tolerance or the scale",
            ConvergenceWarning,
            stacklevel=2,
        )
        return location


def chi_scale(deviations: Array) -> Array:
    """The root sigma of mean(u^2 / (1 + u^2)) = beta, u = deviations / sigma: (*R, N, d) to
    (*R, 1, d); 0 where too many deviations are 0 for a root.

    Args:
        deviations: of ordinary size, at most 1 in absolute value.
    """
    xp = array_module(deviations)
    has_root = (deviations != 0.0).mean(axis=-2, keepdims=True) > CHI_LEVEL
    start = (deviations * deviations).mean(axis=-2, keepdims=True, dtype=np.float64)
    # t = log sigma^2. The mean falls with t, so a bracket of its root closes in on it.
    t = xp.log(xp.where(has_root & (start > 0.0), start, 1.0))
    low, high = xp.full(t.shape, -np.inf), xp.full(t.shape, np.inf)
    tolerance = 8.0 * float(np.finfo(deviations.dtype).eps)
    for iteration in range(200):
        units = deviations * xp.exp(-0.5 * t).astype(deviations.dtype)
        with np.errstate(over="ignore"):
            rest = 1.0 / (1.0 + units * units)  # 1 - u^2 / (1 + u^2)
        excess = 1.0 - rest.mean(axis=-2, keepdims=True, dtype=np.float64) - CHI_LEVEL
        slope = (rest * (1.0 - rest)).mean(axis=-2, keepdims=True, dtype=np.float64)
        low, high = xp.where(excess > 0.0, t, low), xp.where(excess > 0.0, high, t)
        reach = 4.0 * 2.0 ** min(iteration, 8)  # the root may be many powers of ten away
        step = xp.clip(excess / xp.where(slope > 0.0, slope, 1e-300), -reach, reach)
        moved = t + step
        # A step that is lost in rounding has arrived, and is no reason to halve the bracket.
        outside = ((moved <= low) | (moved >= high)) & (moved != t)
        moved = xp.where(outside & xp.isfinite(low + high), 0.5 * (low + high), moved)
        moved = xp.where(has_root, moved, t)  # without a root there is nowhere to go
        change = xp.abs(moved - t)
        t = moved
        if not change.size or not float(change.max()) > tolerance:
            break
    return xp.where(has_root, xp.exp(0.5 * t), 0.0).astype(deviations.dtype)


def _pseudo_huber(u: Array, xp: Any) -> tuple[Array, Array]:
    shrink = 1.0 / xp.hypot(u.dtype.type(1), u * u.dtype.type(SQRT_HALF))
    return u * shrink, shrink * shrink * shrink


def _log_cosh(u: Array, xp: Any) -> tuple[Array, Array]:
    psi = xp.tanh(u)
    return psi, 1.0 - psi * psi


def _gudermannian(u: Array, xp: Any) -> tuple[Array, Array]:
    half = xp.tanh(0.5 * u)
    return 2.0 * xp.arctan(half), (1.0 - half * half) / (1.0 + half * half)


def _catoni(u: Array, xp: Any) -> tuple[Array, Array]:
    # 1 + a + a^2 / 2 = (1 + a) (1 + a^2 / (2 (1 + a))), and no square can overflow.
    size = xp.abs(u)
    rest = 0.5 * size * (size / (1.0 + size))
    return xp.sign(u) * (xp.log1p(size) + xp.log1p(rest)), 1.0 / (1.0 + rest)


SQRT_HALF = sqrt(0.5)

INFLUENCE: dict[str, Callable[[Array, Any], tuple[Array, Array]]] = {
    "pseudo_huber": _pseudo_huber,
    "log_cosh": _log_cosh,
    "gudermannian": _gudermannian,
    "catoni": _catoni,
}
"""psi = rho' of each rho, and psi', which is 1 at 0 and never more."""
