"""Minima under bounds and linear equalities: an interior-point method, then Newton steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

import chainer
from chainrob.differentiation._hessian import Hessian
from chainrob.differentiation._minimizers import Problem, own_solver, scipy_minimize
from chainrob.differentiation._tangent import Tangent

__all__ = ["Optimum", "minimize_constrained", "optimum_at"]

Array = Any

_BOUNDS_ONLY = ("l-bfgs-b", "tnc", "powell", "nelder-mead")
_CONSTRAINED = ("slsqp", "trust-constr", "cobyla", "cobyqa")
_ROUNDS = 50


class Optimum(NamedTuple):
    """A point with its active set. Arrays are (B, n), y is (B, m); all but x are float64.

    ``lower`` and ``upper`` are booleans: whether a coordinate is at that bound. ``pull`` is the
    gradient in x of the Lagrangian without the bounds' part. It is zero at free coordinates. At the
    others it is the multiplier of the bound.
    """

    x: Array
    lower: Array
    upper: Array
    multipliers: Array
    pull: Array

    @property
    def free(self) -> Array:
        return ~(self.lower | self.upper)


def minimize_constrained(
    problem: Problem,
    x: Array,
    data: Sequence[Array],
    solver: str | Callable[..., Any],
    tolerance: float,
    max_iterations: int,
    solver_options: Mapping[str, Any] | None = None,
) -> tuple[Optimum, int]:
    """Run a solver from x under the constraints.

    Returns:
        tuple: The optimum, and the number of iterations (-1 if it is unknown).
    """
    if callable(solver):
        return optimum_at(problem, own_solver(problem, x, solver), data, tolerance), -1
    name = solver.lower()
    if name == "newton":
        probe = problem.hessian(x)
        if probe.dense:
            found, iterations = _interior_point(problem, x, data, tolerance, max_iterations)
            return _polished(problem, found, data, tolerance), iterations
        name = "trust-constr" if data[2].shape[1] else "l-bfgs-b"
    allowed = _CONSTRAINED if data[2].shape[1] else (*_BOUNDS_ONLY, *_CONSTRAINED)
    if name not in allowed:
        raise ValueError(
            f"solver must be callable, 'newton' or one of {allowed} with these constraints, "
            f"found {solver!r}"
        )
    found, iterations = _by_scipy(problem, x, data, name, max_iterations, solver_options)
    return _polished(problem, found, data, tolerance), iterations


def optimum_at(problem: Problem, x: Array, data: Sequence[Array], tolerance: float) -> Optimum:
    """A given point, with the bounds that it is at (within the tolerance) and the multipliers."""
    hessian = problem.hessian(x)
    lower, upper, matrix, _ = data
    flat = x.reshape(lower.shape).astype(np.float64)
    near = tolerance * _scale(hessian.xp, flat)
    at_lower, at_upper = flat - lower <= near, upper - flat <= near
    return _optimum(hessian, x, at_lower, at_upper, matrix)


def _optimum(
    hessian: Hessian, x: Array, at_lower: Array, at_upper: Array, matrix: Array
) -> Optimum:
    tangent = Tangent(~(at_lower | at_upper), matrix)
    slope = hessian.gradient.astype(np.float64)
    y = -tangent.multipliers(slope)
    pull = slope + (matrix.swapaxes(-1, -2) @ y[..., None])[..., 0]
    return Optimum(x, at_lower, at_upper, y, pull)


def _scale(xp: Any, flat: Array) -> Array:
    return xp.maximum(1.0, xp.linalg.norm(flat, axis=-1))[:, None]


def _interior_point(
    problem: Problem, x: Array, data: Sequence[Array], tolerance: float, max_iterations: int
) -> tuple[Array, int]:
    """Primal-dual interior-point method with backtracking on the barrier function, per problem.

    Nocedal and Wright, Numerical Optimization, chapter 19. The eigenvalues of the Hessian are
    replaced by their absolute values, so it is positive definite and each step descends.
    """
    xp = chainer.backend.get_array_module(x)
    lower, upper, matrix, right = data
    bounded_below, bounded_above = xp.isfinite(lower), xp.isfinite(upper)
    count = xp.maximum(bounded_below.sum(axis=-1) + bounded_above.sum(axis=-1), 1)
    flat = _inside(xp, x.reshape(lower.shape).astype(np.float64), lower, upper)
    below, above = bounded_below.astype(float), bounded_above.astype(float)
    y = xp.zeros(right.shape)
    identity = xp.eye(flat.shape[-1])
    penalty = xp.ones(len(flat))
    stuck = 0

    def gaps(z: Array) -> tuple[Array, Array]:
        return (
            xp.where(bounded_below, z - lower, 1.0),
            xp.where(bounded_above, upper - z, 1.0),
        )

    def merit(z: Array, barrier: Array) -> Array:
        down, up = gaps(z)
        with np.errstate(invalid="ignore", divide="ignore"):
            logs = xp.log(down).sum(axis=-1) + xp.log(up).sum(axis=-1)
        violation = abs((matrix @ z[..., None])[..., 0] - right).sum(axis=-1)
        values = problem.values(z.reshape(x.shape).astype(x.dtype))
        return values - barrier * logs + penalty * violation

    for iteration in range(max_iterations):
        hessian = problem.hessian(flat.reshape(x.shape).astype(x.dtype))
        slope = hessian.gradient.astype(np.float64)
        down, up = gaps(flat)
        gap = (below * down * bounded_below + above * up * bounded_above).sum(axis=-1) / count
        fault = slope + (matrix.swapaxes(-1, -2) @ y[..., None])[..., 0] - below + above
        missing = right - (matrix @ flat[..., None])[..., 0]
        size = 1 + abs(slope).max(axis=-1)
        done = (gap <= 1e-2 * tolerance * size) & (abs(fault).max(axis=-1) <= tolerance * size)
        if right.shape[1]:
            done = done & (abs(missing).max(axis=-1) <= tolerance * _scale(xp, flat)[:, 0])
        if bool(done.all()):
            return flat.reshape(x.shape).astype(x.dtype), iteration
        barrier = xp.maximum(xp.minimum(0.2 * gap, gap**1.5), 1e-2 * gap)[:, None]
        curved = hessian.matrix()
        values, vectors = xp.linalg.eigh(curved)
        values = xp.maximum(
            abs(values), 1e-10 * xp.maximum(abs(values).max(axis=-1), 1e-8)[:, None]
        )
        stiff = below / down * bounded_below + above / up * bounded_above
        system = (vectors * values[:, None, :]) @ vectors.swapaxes(-1, -2)
        system = system + stiff[:, :, None] * identity
        push = barrier / down * bounded_below - barrier / up * bounded_above
        pull = -(slope - push)
        # Scale it to a unit diagonal, because the bounds' part grows without limit.
        weight = 1 / xp.sqrt(xp.diagonal(system, axis1=-2, axis2=-1))
        system = system * weight[:, :, None] * weight[:, None, :]

        def inverse(columns: Array, system: Array = system, weight: Array = weight) -> Array:
            return weight[:, :, None] * xp.linalg.solve(system, weight[:, :, None] * columns)

        first = inverse(pull[..., None])[..., 0]
        if right.shape[1]:
            spread = inverse(matrix.swapaxes(-1, -2))
            gram = matrix @ spread
            new_y = xp.linalg.solve(
                gram, ((matrix @ first[..., None])[..., 0] - missing)[..., None]
            )[..., 0]
            step = first - (spread @ new_y[..., None])[..., 0]
        else:
            new_y, step = y, first
        step_below = (barrier / down - below - below * step / down) * bounded_below
        step_above = (barrier / up - above + above * step / up) * bounded_above
        primal = xp.minimum(_reach(xp, down, step), _reach(xp, up, -step))
        dual = xp.minimum(
            _reach(xp, xp.where(bounded_below, below, 1.0), step_below),
            _reach(xp, xp.where(bounded_above, above, 1.0), step_above),
        )
        penalty = xp.maximum(penalty, 2 * abs(new_y).max(axis=-1, initial=0.0))
        here = merit(flat, barrier[:, 0])
        descent = (slope * step - push * step).sum(axis=-1) - penalty * abs(missing).sum(axis=-1)
        for _ in range(30):
            there = merit(flat + primal[:, None] * step, barrier[:, 0])
            fine = there <= here + 1e-4 * primal * descent + 1e-12 * (1 + abs(here))
            if bool(fine.all()):
                break
            primal = xp.where(fine, primal, primal / 2)
        moves = ~done
        stuck = stuck + 1 if float((primal * moves).max()) < 1e-6 else 0
        if stuck > 3:
            break
        flat = flat + (primal * moves)[:, None] * step
        y = xp.where(moves[:, None], y + primal[:, None] * (new_y - y), y)
        below = below + (dual * moves)[:, None] * step_below
        above = above + (dual * moves)[:, None] * step_above
    return flat.reshape(x.shape).astype(x.dtype), iteration + 1


def _inside(xp: Any, flat: Array, lower: Array, upper: Array) -> Array:
    """The point, moved away from the bounds."""
    width = xp.where(xp.isfinite(upper - lower), upper - lower, xp.inf)
    margin = xp.minimum(0.1 * width, 0.1 * xp.maximum(1.0, abs(flat)))
    margin = xp.minimum(margin, 0.4 * width)
    return xp.minimum(xp.maximum(flat, lower + margin), upper - margin)


def _reach(xp: Any, gap: Array, step: Array) -> Array:
    """The largest fraction of a step, at most 1, that keeps at least 0.5 % of every gap."""
    with np.errstate(divide="ignore", invalid="ignore"):
        most = xp.where(step < 0, -0.995 * gap / step, 1.0)
    return xp.minimum(most.min(axis=-1), 1.0)


def _polished(problem: Problem, x: Array, data: Sequence[Array], tolerance: float) -> Optimum:
    """Newton steps with a fixed active set. Crossed bounds and wrong signs correct the set."""
    xp = chainer.backend.get_array_module(x)
    lower, upper, matrix, right = data
    hessian = problem.hessian(x)
    flat = x.reshape(lower.shape).astype(np.float64)
    guess = optimum_at(problem, x, data, 1e3 * tolerance)
    # A coordinate that the objective pushes away from its bound is not active, even if it is near.
    weak = 1e-6 * (1 + abs(hessian.gradient).max())
    at_lower = guess.lower & (guess.pull > weak)
    at_upper = guess.upper & (guess.pull < -weak)
    for _ in range(_ROUNDS):
        flat = xp.where(at_lower, lower, xp.where(at_upper, upper, flat))
        x = flat.reshape(x.shape).astype(x.dtype)
        hessian = problem.hessian(x)
        tangent = Tangent(~(at_lower | at_upper), matrix)
        slope = hessian.gradient.astype(np.float64)
        repair = tangent.lift(right - (matrix @ flat[..., None])[..., 0])
        bent = hessian.product(repair.astype(x.dtype)) if bool((repair != 0).any()) else 0.0
        try:
            target = (-slope - bent).astype(x.dtype)
            step = hessian.solve(target, tangent, tolerance=1e-4, accept=np.inf)[0]
        except (ArithmeticError, np.linalg.LinAlgError):
            break
        step = step.astype(np.float64) + repair
        if not bool(xp.isfinite(step).all()):
            break
        new = flat + step
        under, over = (new < lower) & tangent.free, (new > upper) & tangent.free
        short = abs(step).max(axis=-1) <= 1e-2 * tolerance * _scale(xp, flat)[:, 0]
        flat = xp.minimum(xp.maximum(new, lower), upper)
        found = _optimum(hessian, x, at_lower, at_upper, matrix)
        wrong = (at_lower & (found.pull < -weak)) | (at_upper & (found.pull > weak))
        changed = bool((under | over).any()) or bool((wrong & short[:, None]).any())
        at_lower = (at_lower | under) & ~(wrong & short[:, None])
        at_upper = (at_upper | over) & ~(wrong & short[:, None])
        if bool(short.all()) and not changed:
            break
    flat = xp.where(at_lower, lower, xp.where(at_upper, upper, flat))
    x = flat.reshape(x.shape).astype(x.dtype)
    return _optimum(problem.hessian(x), x, at_lower, at_upper, matrix)


def _by_scipy(
    problem: Problem,
    x: Array,
    data: Sequence[Array],
    name: str,
    max_iterations: int,
    solver_options: Mapping[str, Any] | None,
) -> tuple[Array, int]:
    """SciPy's methods with constraints. They treat all problems of a batch as one problem."""
    import scipy.linalg
    from scipy.optimize import Bounds, LinearConstraint

    lower, upper, matrix, right = (
        np.asarray(chainer.backends.cuda.to_cpu(one), np.float64) for one in data
    )
    more: dict[str, Any] = {}
    if np.isfinite(lower).any() or np.isfinite(upper).any():
        more["bounds"] = Bounds(lower.ravel(), upper.ravel())
    if matrix.shape[1]:
        whole = scipy.linalg.block_diag(*matrix)
        more["constraints"] = LinearConstraint(whole, right.ravel(), right.ravel())
    xp = chainer.backend.get_array_module(x)
    start = xp.clip(x, data[0].reshape(x.shape), data[1].reshape(x.shape)).astype(x.dtype)
    return scipy_minimize(problem, start, name, max_iterations, solver_options, **more)
