"""Is this point a minimum? The measurements, the verdict, and what to do about it."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from chainrob.differentiation._hessian import Hessian
from chainrob.differentiation._minimisers import Problem

__all__ = ["ArgminReport", "NotAMinimumError", "measure", "verify"]

Array = Any


@dataclasses.dataclass(frozen=True)
class ArgminReport:
    """What was measured at the point that a solver returned.

    Attributes:
        value: Objective there.
        residual: Stationarity residual, the Euclidean norm of the gradient in x.
        newton_step: Length of the Newton step from there, relative to max(1, |x|): how far away
            the stationary point is that curvature promises. Infinite where there is none.
        smallest_curvature: Smallest eigenvalue of the Hessian (with damping, if any).
        largest_curvature: Largest one.
        undamped_curvature: Smallest eigenvalue of the Hessian without damping.
        nearby_curvature: ``smallest_curvature`` at a point that ``tolerance`` cannot tell from x;
            far from the one at x where the minimum is degenerate, as that of x**4.
        condition_number: Their ratio; infinite for a Hessian that is singular or indefinite.
        tolerance: Bound on ``newton_step``.
        solver: Name of the solver.
        iterations: Its iterations, -1 if unknown.
        evaluations: Evaluations of the objective, the verification's among them.
        linear_solver: ``'dense'`` or ``'cg'``.
        damping: Tikhonov term added to the Hessian, 0 unless asked for.
    """

    value: float
    residual: float
    newton_step: float
    smallest_curvature: float
    largest_curvature: float
    undamped_curvature: float
    nearby_curvature: float
    condition_number: float
    tolerance: float
    solver: str
    iterations: int
    evaluations: int
    linear_solver: str
    damping: float


class NotAMinimumError(ArithmeticError):
    """The point is no isolated minimum, so its derivative does not exist.

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
    linear_solver: str,
    damping: float,
    tolerance: float,
    solver: str,
    iterations: int,
) -> ArgminReport:
    """Residual, curvature and conditioning at x."""
    hessian = problem.hessian(x, linear_solver, damping)
    curvature = hessian.curvature()
    xp = hessian.xp
    plain = problem.hessian(x, linear_solver, 0.0) if damping else hessian
    undamped = plain.curvature() if damping else curvature
    # Where the Hessian itself is definite it says how far away the stationary point is; else the
    # residual is held against the largest curvature, not against the damping.
    if undamped.smallest > 0:
        step = _newton_step(plain, undamped.smallest)
    else:
        step = float(xp.linalg.norm(plain.gradient)) / max(undamped.largest, 1e-300)
    step = step if curvature.smallest > 0 else math.inf
    moved = xp.asarray(x + _displacement(xp, x, tolerance))
    nearby = problem.hessian(moved, linear_solver, damping)
    return ArgminReport(
        value=hessian.value,
        residual=float(xp.linalg.norm(hessian.gradient)),
        newton_step=step / _scale(xp, x),
        smallest_curvature=curvature.smallest,
        largest_curvature=curvature.largest,
        undamped_curvature=undamped.smallest,
        nearby_curvature=nearby.curvature().smallest,
        condition_number=curvature.condition_number,
        tolerance=tolerance,
        solver=solver,
        iterations=iterations,
        evaluations=problem.evaluations,
        linear_solver="dense" if hessian.dense else "cg",
        damping=damping,
    )


def verify(report: ArgminReport, x: Array) -> None:
    """Raise NotAMinimumError unless the report describes an isolated minimum."""
    eps = float(np.finfo(x.dtype).eps)
    faults = []
    if not (math.isfinite(report.value) and math.isfinite(report.residual)):
        faults.append("the objective or its gradient is not finite")
    elif not report.smallest_curvature > 0:
        faults.append("the smallest curvature is not positive: a saddle, a maximum or a flat place")
    else:
        size = max(1.0, float(abs(x).max()) ** 2)
        if report.undamped_curvature < -1e-6 * max(report.largest_curvature, report.damping):
            faults.append(
                f"without damping the smallest curvature is {report.undamped_curvature:.3g}: a "
                f"saddle or a maximum, which damping does not turn into a minimum"
            )
        nearby = report.nearby_curvature
        if not 0.5 * report.smallest_curvature <= nearby <= 2.0 * report.smallest_curvature:
            faults.append(
                f"the minimum is degenerate: within the tolerance the smallest curvature changes "
                f"from {report.smallest_curvature:.3g} to {nearby:.3g}"
            )
        if report.smallest_curvature * size <= eps * abs(report.value):
            faults.append("the objective is flat to rounding in some direction")
        if report.condition_number > 0.01 / eps:
            faults.append(
                f"the Hessian is singular to two digits in {x.dtype} "
                f"(conditioning above {0.01 / eps:.1e})"
            )
        if not report.newton_step <= report.tolerance:
            faults.append(
                f"the point is not stationary: the relative Newton step {report.newton_step:.3g} "
                f"exceeds the tolerance {report.tolerance:.1e}"
            )
    if not faults:
        return
    remedy = (
        "run the solver longer (or widen tolerance=... where fewer digits will do), start it "
        "elsewhere, or, if the objective has no isolated minimum there, give it one with a term "
        "that grows, such as c * sum(x**2)"
    )
    if report.damping == 0:
        remedy += "; damping=... solves with a shifted Hessian where an approximation will do"
    raise NotAMinimumError(
        f"argmin: {'; '.join(faults)}. Measured: stationarity residual {report.residual:.3g}, "
        f"smallest curvature {report.smallest_curvature:.3g}, "
        f"conditioning {report.condition_number:.3g}, objective {report.value:.6g}. "
        f"Remedy: {remedy}.",
        report,
    )


def _scale(xp: Any, x: Array) -> float:
    return max(1.0, float(xp.linalg.norm(x)))


def _displacement(xp: Any, x: Array, tolerance: float) -> Array:
    """A step of length tolerance times scale, in a direction that no axis is special to."""
    direction = np.random.default_rng(0).normal(size=x.shape)
    direction = xp.asarray(direction / np.linalg.norm(direction)).astype(x.dtype)
    return direction * x.dtype.type(tolerance * _scale(xp, x))


def _newton_step(hessian: Hessian, smallest: float) -> float:
    if not smallest > 0:
        return math.inf
    xp = hessian.xp
    try:
        return float(xp.linalg.norm(hessian.solve(hessian.gradient)))
    except (ArithmeticError, np.linalg.LinAlgError):
        return math.inf
