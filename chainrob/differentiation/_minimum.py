"""Measurements that decide whether a point is a minimum, the verdict, and its error message."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

import chainer
from chainrob.differentiation._conjugate_gradients import LinearSolve
from chainrob.differentiation._constrained import Optimum
from chainrob.differentiation._hessian import Curvature, Hessian
from chainrob.differentiation._minimizers import Problem
from chainrob.differentiation._tangent import Tangent, whole_space

__all__ = ["ArgminReport", "NotAMinimumError", "measure", "verify"]

Array = Any

_INFINITE = math.inf


@dataclasses.dataclass(frozen=True)
class ArgminReport:
    """The measurements at the point of a solver. They tell how reliable its derivative is.

    For a batch, each measurement is that of the worst problem. Curvatures are measured without
    damping, along the active constraints.

    Attributes:
        verdict: ``'founded'``: an isolated minimum, whose derivative has at least half of the
            digits of the dtype. ``'weak'``: an isolated minimum with fewer digits. ``'refused'``:
            the derivative does not exist.
        reasons: Why the verdict is weak or refused, as sentences.
        digits: Decimal digits to expect of the derivative, from the condition number and from the
            distance to the stationary point.
        value: Objective at the point; for a batch, the sum.
        residual: Stationarity residual: the Euclidean norm of the gradient in x along the active
            constraints.
        newton_step: Length of the Newton step from the point, relative to max(1, |x|). It estimates
            the distance to the stationary point. Infinite if the curvature predicts none.
        smallest_curvature: Smallest eigenvalue of the Hessian.
        largest_curvature: Largest eigenvalue of the Hessian.
        nearby_curvature: ``smallest_curvature`` at a point so near that ``tolerance`` cannot tell
            it from x. At a degenerate minimum, such as that of x**4, the two are very different.
        condition_number: Largest over smallest curvature; infinite if the Hessian is singular or
            indefinite.
        violation: Largest violation of the constraints.
        smallest_multiplier: Smallest multiplier of an active bound, relative to the gradient.
            Strict complementarity requires a positive one. Infinite if no bound is active.
        active: Number of active bounds.
        tolerance: Bound on ``newton_step``.
        solver: Name of the solver.
        iterations: Number of its iterations; -1 if unknown.
        evaluations: Number of evaluations of the objective, including those of the verification.
        linear_solver: ``'dense'`` or ``'cg'``.
        damping: Tikhonov term in the linear solves of the derivative; the default is 0.
        problems: Number of problems in the batch; 1 without a batch.
        solves: Records of the linear solves of derivatives. Each solve adds its own.
    """

    verdict: str
    reasons: tuple[str, ...]
    digits: float
    value: float
    residual: float
    newton_step: float
    smallest_curvature: float
    largest_curvature: float
    nearby_curvature: float
    condition_number: float
    violation: float
    smallest_multiplier: float
    active: int
    tolerance: float
    solver: str
    iterations: int
    evaluations: int
    linear_solver: str
    damping: float
    problems: int
    solves: list[LinearSolve] = dataclasses.field(default_factory=list, compare=False)


class NotAMinimumError(ArithmeticError):
    """The point is not an isolated minimum, so its derivative does not exist.

    Attributes:
        report: The measurements, an :class:`ArgminReport`.
    """

    def __init__(self, message: str, report: ArgminReport) -> None:
        super().__init__(message)
        self.report = report

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.args[0], self.report)


def measure(
    problem: Problem,
    x: Array,
    *,
    tolerance: float,
    solver: str,
    iterations: int,
    optimum: Optimum | None = None,
    data: Sequence[Array] = (),
) -> ArgminReport:
    """Measure residual, curvature and condition number at x, and judge them."""
    hessian = problem.hessian(x)
    xp = hessian.xp
    shape = (hessian.problems, hessian.size)
    tangent = whole_space(xp, *shape) if optimum is None else Tangent(optimum.free, data[2])
    curvature = hessian.curvature(tangent)
    smallest, largest = curvature.smallest, curvature.largest
    slope = tangent.project(hessian.gradient)
    flat = x.reshape(shape)
    scale = _host(xp.maximum(1.0, xp.linalg.norm(flat.astype(np.float64), axis=-1)))
    with np.errstate(over="ignore", invalid="ignore"):
        residuals = _host(xp.linalg.norm(slope.astype(np.float64), axis=-1))
    steps = _newton_steps(hessian, tangent, smallest, residuals, scale)
    moved = xp.asarray(flat + tangent.project(_displacement(xp, flat, tolerance))).astype(x.dtype)
    beside = problem.hessian(moved.reshape(x.shape))
    if curvature.iterated:
        nearby = np.full(len(smallest), beside.quotient(curvature.weakest))
    else:
        nearby = beside.curvature(tangent).smallest
    follows = _follows(problem, x, hessian, curvature, tolerance, scale)
    values = _host(hessian.values)
    limits = [_Limits() for _ in values] if optimum is None else _limits(optimum, data, tolerance)
    judged = [
        _faults(
            x.dtype, tolerance, values[k], residuals[k], steps[k], smallest[k], nearby[k],
            float(curvature.condition_number[k]), float(abs(flat[k]).max()), limits[k],
            bool(follows[k]),
        )
        for k in range(len(values))
    ]  # fmt: skip
    reasons = _collected(judged)
    condition = float(curvature.condition_number.max())
    error = condition * max(float(np.finfo(x.dtype).eps), float(np.max(steps)))
    digits = max(0.0, -math.log10(error)) if 0 < error < math.inf else 0.0
    worst = int(np.argmax(abs(np.log(np.maximum(nearby, 1e-300) / np.maximum(smallest, 1e-300)))))
    verdict = "refused" if reasons else "founded"
    if not reasons and digits < 0.5 * -math.log10(np.finfo(x.dtype).eps):
        verdict = "weak"
        reasons = (
            f"the derivative has only about {digits:.0f} digits: condition number {condition:.1e}, "
            f"relative Newton step {float(np.max(steps)):.1e}",
        )
    return ArgminReport(
        verdict=verdict,
        reasons=reasons,
        digits=0.0 if verdict == "refused" else digits,
        value=float(values.sum()),
        residual=float(residuals.max()),
        newton_step=float(np.max(steps)),
        smallest_curvature=float(smallest.min()),
        largest_curvature=float(largest.max()),
        nearby_curvature=float(nearby[worst]),
        condition_number=condition,
        violation=max(one.violation for one in limits),
        smallest_multiplier=min(one.multiplier for one in limits),
        active=sum(one.active for one in limits),
        tolerance=tolerance,
        solver=solver,
        iterations=iterations,
        evaluations=problem.evaluations,
        linear_solver="dense" if hessian.dense else "cg",
        damping=problem.options.damping,
        problems=hessian.problems,
    )


def verify(report: ArgminReport) -> None:
    """Raise NotAMinimumError unless the report describes an isolated minimum."""
    if report.verdict != "refused":
        return
    hint = ""
    if report.linear_solver == "cg" and report.smallest_curvature == 0:
        hint = (
            " Conjugate gradients cannot tell a flat direction from bad conditioning: try "
            "preconditioner='diagonal' or linear_solver='dense'."
        )
    raise NotAMinimumError(
        f"argmin: {'; '.join(report.reasons)}. Measured: stationarity residual "
        f"{report.residual:.3g}, smallest curvature {report.smallest_curvature:.3g}, "
        f"condition number {report.condition_number:.3g}, objective {report.value:.6g}. "
        f"Remedy: run the solver longer (or increase tolerance if fewer digits are enough), start "
        f"it elsewhere, or, if the objective has no isolated minimum there, add a growing term, "
        f"such as c * sum(x**2).{hint}",
        report,
    )


@dataclasses.dataclass(frozen=True)
class _Limits:
    """The state of the constraints of one problem."""

    violation: float = 0.0
    multiplier: float = _INFINITE
    slack: float = _INFINITE
    active: int = 0
    independent: bool = True


def _limits(optimum: Optimum, data: Sequence[Array], tolerance: float) -> list[_Limits]:
    lower, upper, matrix, right = (_host(one).astype(np.float64) for one in data)
    independent = _host(Tangent(optimum.free, data[2]).independent)
    at_lower, at_upper, pull = (_host(one) for one in (optimum.lower, optimum.upper, optimum.pull))
    x = _host(optimum.x).reshape(lower.shape).astype(np.float64)
    found = []
    for k in range(len(x)):
        scale = max(1.0, float(np.linalg.norm(x[k])))
        gap = np.minimum(x[k] - lower[k], upper[k] - x[k])
        missing = np.append(abs(matrix[k] @ x[k] - right[k]), np.maximum(-gap, 0)).max()
        force = np.append(pull[k][at_lower[k]], -pull[k][at_upper[k]])
        size = max(float(abs(pull[k]).max()), 1e-300)
        free = ~(at_lower[k] | at_upper[k])
        found.append(
            _Limits(
                violation=float(missing) / scale,
                multiplier=float(force.min()) / size if len(force) else _INFINITE,
                slack=float(gap[free].min()) / scale if free.any() else _INFINITE,
                active=len(force),
                independent=bool(independent[k]),
            )
        )
    return found


def _faults(
    dtype: Any, tolerance: float, value: float, residual: float, step: float, smallest: float,
    nearby: float, condition: float, largest_x: float, limits: _Limits, follows: bool,
) -> list[str]:  # fmt: skip
    """The reasons why a point of one problem is not an isolated minimum; empty if it is."""
    eps = float(np.finfo(dtype).eps)
    if not (math.isfinite(value) and math.isfinite(residual)):
        return ["the objective or its gradient is not finite"]
    faults = []
    if limits.violation > 10 * tolerance:
        faults.append(f"the constraints are violated by {limits.violation:.3g}")
    if not limits.independent:
        faults.append("the active constraints depend on each other, so multipliers do not exist")
    if limits.multiplier < -tolerance:
        faults.append(
            f"an active bound has a multiplier of the wrong sign, {limits.multiplier:.3g} of the "
            f"largest: the objective decreases away from the bound"
        )
    elif limits.multiplier <= tolerance or limits.slack <= tolerance:
        faults.append(
            f"strict complementarity fails: x is at a bound or near it without a force on it "
            f"(multiplier {limits.multiplier:.3g}, smallest slack {limits.slack:.3g}), so the "
            f"derivatives from the two sides differ"
        )
    if math.isnan(smallest):
        return [*faults, "the smallest curvature could not be found: the Lanczos iteration failed"]
    if not smallest > 0:
        return [
            *faults,
            "the smallest curvature is not positive: a saddle, a maximum or a flat place",
        ]
    size = max(1.0, largest_x**2)
    if not 0.5 * smallest <= nearby <= 2.0 * smallest:
        faults.append(
            f"the minimum is degenerate: within the tolerance the smallest curvature changes "
            f"from {smallest:.3g} to {nearby:.3g}"
        )
    if not follows:
        faults.append(
            "the gradient is lost in rounding: a small step does not change it as much as the "
            "smallest curvature predicts"
        )
    if smallest * size <= eps * abs(value):
        faults.append("the objective is flat to rounding in some direction")
    if condition > 0.01 / eps:
        faults.append(
            f"the Hessian is singular up to two digits in {np.dtype(dtype)} "
            f"(condition number above {0.01 / eps:.1e})"
        )
    if not step <= tolerance:
        faults.append(
            f"the point is not stationary: the relative Newton step {step:.3g} "
            f"exceeds the tolerance {tolerance:.1e}"
        )
    return faults


def _collected(judged: list[list[str]]) -> tuple[str, ...]:
    """The faults of the first bad problem of a batch, with the number of bad problems."""
    bad = [k for k, faults in enumerate(judged) if faults]
    if not bad:
        return ()
    faults = judged[bad[0]]
    if len(judged) == 1:
        return tuple(faults)
    return (
        f"{len(bad)} of {len(judged)} problems have no isolated minimum; problem {bad[0]}: "
        f"{faults[0]}",
        *faults[1:],
    )


def _newton_steps(
    hessian: Hessian, tangent: Tangent, smallest: Array, residuals: Array, scale: Array
) -> Array:
    """Relative Newton steps (B,); infinite if the curvature predicts no stationary point."""
    xp = hessian.xp
    steps = np.full(len(residuals), _INFINITE)
    good = smallest > 0
    if not good.any() or not np.isfinite(residuals).all():
        return steps
    try:
        step = hessian.solve(hessian.gradient, tangent, tolerance=1e-2, accept=0.5)[0]
    except (ArithmeticError, np.linalg.LinAlgError):
        return steps
    lengths = _host(xp.linalg.norm(step.astype(np.float64), axis=-1)) / scale
    return np.where(good, lengths, _INFINITE)


def _follows(
    problem: Problem, x: Array, hessian: Hessian, curvature: Curvature, tolerance: float,
    scale: Array,
) -> Array:  # fmt: skip
    """Whether the gradient changes along the weakest direction (B,), as it must at a minimum.

    Some objectives only tend to their infimum, such as softplus(-x). Far out the terms of their
    gradient cancel to an exact zero. The curvature is a product and stays positive.
    """
    count = len(curvature.smallest)
    if curvature.weakest is None:
        return np.ones(count, bool)
    xp, eps = hessian.xp, float(np.finfo(x.dtype).eps)
    rounding = eps * np.where(curvature.smallest > 0, curvature.condition_number, 1.0)
    relative = np.maximum(tolerance, 100 * rounding)
    asked = (curvature.smallest > 0) & (relative < 1e-2)  # larger: rounding could hide it
    lengths = xp.asarray(np.where(asked, relative, 0.0) * scale)[:, None]
    unit = curvature.weakest / xp.linalg.norm(curvature.weakest, axis=-1, keepdims=True).clip(
        1e-300
    )
    flat = x.reshape(unit.shape)
    moved = (flat + lengths * unit).astype(x.dtype)
    with np.errstate(all="ignore"):
        slopes = problem.value_and_gradient(moved.reshape(x.shape))[1].reshape(unit.shape)
        gained = ((slopes - hessian.gradient) * unit).sum(axis=-1).astype(np.float64)
        promised = (hessian.product((moved - flat).astype(x.dtype)) * unit).sum(axis=-1)
    gained, promised = _host(gained), _host(promised.astype(np.float64))
    told = asked & np.isfinite(gained) & (promised > 0)
    return ~(told & (gained < 0.1 * promised))


def _displacement(xp: Any, flat: Array, tolerance: float) -> Array:
    """Steps of length tolerance times scale, in a random direction."""
    direction = np.random.default_rng(0).normal(size=flat.shape)
    direction = direction / np.linalg.norm(direction, axis=-1, keepdims=True)
    lengths = xp.maximum(1.0, xp.linalg.norm(flat.astype(np.float64), axis=-1))[:, None]
    return xp.asarray(direction) * tolerance * lengths


def _host(array: Any) -> Any:
    return chainer.backends.cuda.to_cpu(array)
