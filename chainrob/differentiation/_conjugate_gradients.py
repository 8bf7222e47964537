"""Linear systems with a positive definite matrix of which only products are known."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

import chainer

__all__ = ["LinearSolve", "NegativeCurvatureError", "conjugate_gradients"]

Array = Any
Apply = Callable[[Array], Array]

_RESTARTS = 5


@dataclasses.dataclass(frozen=True)
class LinearSolve:
    """The cost and the accuracy of the solution of one linear system.

    Attributes:
        method: ``'dense'`` or ``'cg'`` (conjugate gradients).
        iterations: Number of products with the Hessian; 0 for a dense solve.
        restarts: Number of times that conjugate gradients restarted from the true residual.
        residual: Norm of the true residual, relative to the norm of the right-hand side.
        condition_number: Largest eigenvalue over smallest eigenvalue. A dense solve uses those of
            the matrix. Conjugate gradients give a lower bound for the preconditioned matrix, from
            the coefficients of the iteration.
    """

    method: str
    iterations: int
    restarts: int
    residual: float
    condition_number: float


class NegativeCurvatureError(ArithmeticError):
    """The iteration found a direction whose curvature is not positive.

    Attributes:
        partial: The solution so far; at the first step, the direction of the right-hand side.
        curvature: The curvature of the direction found.
    """

    def __init__(self, message: str, partial: Array, curvature: float) -> None:
        super().__init__(message)
        self.partial = partial
        self.curvature = curvature


def conjugate_gradients(
    product: Apply,
    target: Array,
    *,
    precondition: Apply | None = None,
    project: Apply | None = None,
    tolerance: float | None = None,
    accept: float | None = None,
    max_iterations: int | None = None,
) -> tuple[Array, LinearSolve]:
    """Solve H z = target for a positive definite H.

    The residual of the recursion drifts away from the true residual. So the true residual is
    computed at the end of each recursion. The iteration restarts from it as long as this helps.

    Args:
        product: A function that maps z to H z.
        target: Right-hand side.
        precondition: A positive definite map, about the inverse of H.
        project: The projection onto the space of the target and the solution. Outside this space
            H gives no information. Without the projection, rounding errors would grow there.
        tolerance: Aim for the residual relative to the target. Default: 10 eps.
        accept: Largest relative residual of a solution. Default: sqrt(eps).
        max_iterations: Largest number of products in total. Default: 10 times the number of
            unknowns, plus 20.

    Returns:
        ``(z, LinearSolve)``.

    Raises:
        NegativeCurvatureError: If H is not positive definite.
        ArithmeticError: If the residual stays above ``accept``.
    """
    xp = chainer.backend.get_array_module(target)
    if project is not None:
        target = project(target)
    eps = float(np.finfo(target.dtype).eps)
    size = float(xp.linalg.norm(target))
    tolerance = 10 * eps if tolerance is None else tolerance
    accept = eps**0.5 if accept is None else accept
    left = 10 * target.size + 20 if max_iterations is None else max_iterations
    allowed = left
    z = xp.zeros_like(target)
    if size == 0:
        return z, LinearSolve("cg", 0, 0, 0.0, 1.0)
    best, error, condition, restarts = z, 1.0, 1.0, 0
    residual = target
    while True:
        step, used, found = _run(
            product, residual, precondition, project, tolerance * size, eps**0.5 * size, left, best
        )
        left -= used
        condition = max(condition, found)
        z = best + step
        residual = target - product(z)
        residual = residual if project is None else project(residual)
        new = float(xp.linalg.norm(residual)) / size
        gain = new / error
        if new < error:
            best, error = z, new
        else:
            residual = target - product(best)
            residual = residual if project is None else project(residual)
        if error <= tolerance or gain > 0.5 or left <= 0 or restarts >= _RESTARTS:
            break
        restarts += 1
    if not error <= accept:
        raise ArithmeticError(
            f"conjugate gradients stopped at a relative residual of {error:.3g} after "
            f"{allowed - left} products; the Hessian is too badly conditioned (about "
            f"{condition:.1e}): try a preconditioner, damping, or linear_solver='dense'"
        )
    return best, LinearSolve("cg", allowed - left, restarts, error, condition)


def _run(
    product: Apply,
    target: Array,
    precondition: Apply | None,
    project: Apply | None,
    limit: float,
    rounding: float,
    steps: int,
    base: Array,
) -> tuple[Array, int, float]:
    """The textbook iteration from 0: (z, iterations, condition estimate)."""
    xp = chainer.backend.get_array_module(target)
    z = xp.zeros_like(target)
    residual = target.copy()
    lifted = residual if precondition is None else precondition(residual)
    direction = lifted.copy()
    square = float(xp.vdot(residual, lifted))
    lengths: list[float] = []
    ratios: list[float] = []
    for k in range(steps):
        if float(xp.linalg.norm(residual)) <= limit or square <= 0:
            return z, k, _condition(lengths, ratios)
        bent = product(direction)
        bend = float(xp.vdot(direction, bent))
        if not bend > 0 and float(xp.linalg.norm(residual)) <= rounding:
            return z, k, _condition(lengths, ratios)  # the residual is only rounding
        if not bend > 0:
            curvature = bend / float(xp.vdot(direction, direction))
            started = bool((base + z != 0).any())
            raise NegativeCurvatureError(
                f"conjugate gradients found a direction of curvature {curvature:.3g}: the Hessian "
                f"is not positive definite",
                base + z if started else direction,
                curvature,
            )
        length = square / bend
        z = z + length * direction
        residual = residual - length * bent
        residual = residual if project is None else project(residual)
        lifted = residual if precondition is None else precondition(residual)
        new = float(xp.vdot(residual, lifted))
        lengths.append(length)
        ratios.append(new / square)
        direction = lifted + (new / square) * direction
        square = new
    return z, steps, _condition(lengths, ratios)


def _condition(lengths: list[float], ratios: list[float]) -> float:
    """Condition number of the Lanczos matrix that the iteration has built."""
    if not lengths:
        return 1.0
    from scipy.linalg import eigh_tridiagonal

    steps, beta = np.array(lengths[:500]), np.array(ratios[: min(len(lengths), 500) - 1])
    diagonal = 1 / steps
    diagonal[1:] += beta / steps[:-1]
    values = eigh_tridiagonal(diagonal, np.sqrt(beta) / steps[:-1], eigvals_only=True)
    return float(values[-1] / values[0]) if values[0] > 0 else float("inf")
