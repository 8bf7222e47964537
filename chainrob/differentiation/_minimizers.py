"""Ways to find a minimum: our Newton's method, SciPy's methods, or the user's own solver."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

import chainer
from chainrob.aggregation import exact_backward
from chainrob.differentiation._conjugate_gradients import NegativeCurvatureError
from chainrob.differentiation._hessian import Hessian, LinearOptions

__all__ = ["Problem", "check_solver", "minimize", "scipy_minimize"]

Array = Any

_SECOND_ORDER = ("newton-cg", "trust-ncg", "trust-krylov", "trust-constr")
_FULL_HESSIAN = ("dogleg", "trust-exact")
_NO_GRADIENT = ("nelder-mead", "powell", "cobyla", "cobyqa")
_SCIPY = ("bfgs", "l-bfgs-b", "cg", "tnc", "slsqp", *_SECOND_ORDER, *_FULL_HESSIAN, *_NO_GRADIENT)

# In Newton's last three or four steps the values no longer fall.
_PATIENCE = 20


class Problem:
    """The objective with fixed parameters: a function of arrays that counts its evaluations."""

    def __init__(
        self,
        objective: Callable[..., Any],
        parameters: Sequence[Array],
        options: LinearOptions,
        batched: bool = False,
    ) -> None:
        self.objective = objective
        self.parameters = tuple(parameters)
        self.options = options
        self.batched = batched
        self.evaluations = 0

    def variable(self, x: Any) -> Any:
        """The objective as a Variable, for a user's own solver."""
        self.evaluations += 1
        return self.objective(x, *[chainer.Variable(p) for p in self.parameters])

    def values(self, x: Array) -> Array:
        """One number per problem, (B,)."""
        with chainer.no_backprop_mode():
            return self.variable(chainer.Variable(x)).array.reshape(-1).astype(np.float64)

    def value_and_gradient(self, x: Array) -> tuple[float, Array]:
        """The sum over the problems and its gradient."""
        variable = chainer.Variable(x)
        with chainer.force_backprop_mode(), exact_backward():
            value = self.variable(variable)
            ones = chainer.Variable(value.xp.ones_like(value.array))
            (gradient,) = chainer.grad([value], [variable], [ones])
        return float(value.array.sum()), gradient.array

    def hessian(self, x: Array) -> Hessian:
        self.evaluations += 1
        return Hessian(self.objective, x, self.parameters, self.options, self.batched)


def check_solver(solver: Any) -> None:
    """Refuse a solver that is neither callable nor the name of a method."""
    names = ("newton", *_SCIPY)
    if not callable(solver) and not (isinstance(solver, str) and solver.lower() in names):
        raise ValueError(f"solver must be callable or one of {names}, found {solver!r}")


def minimize(
    problem: Problem,
    x: Array,
    solver: str | Callable[..., Any],
    tolerance: float,
    max_iterations: int,
    solver_options: Mapping[str, Any] | None = None,
) -> tuple[Array, int]:
    """Run a solver from x. Returns its last point and its iterations (-1 if unknown)."""
    if callable(solver):
        return own_solver(problem, x, solver), -1
    if solver.lower() == "newton":
        return newton(problem, x, tolerance, max_iterations)
    found, iterations = scipy_minimize(problem, x, solver, max_iterations, solver_options)
    # SciPy stops at its own tolerance; Newton's method takes the last digits.
    found, more = newton(problem, found, tolerance, 20)
    return found, iterations + more


def own_solver(problem: Problem, x: Array, solver: Callable[..., Any]) -> Array:
    """The result of a user's solver, checked."""
    found = solver(problem.variable, x.copy())
    found = getattr(found, "array", found)
    found = chainer.backend.get_array_module(x).asarray(found, dtype=x.dtype)
    if found.shape != x.shape:
        raise ValueError(f"solver must return x of the shape {x.shape} of x0, found {found.shape}")
    return found


def newton(problem: Problem, x: Array, tolerance: float, max_iterations: int) -> tuple[Array, int]:
    """Newton's method with a modified Hessian and backtracking, separately for each problem."""
    xp = chainer.backend.get_array_module(x)
    eps = float(np.finfo(x.dtype).eps)
    count = len(x) if problem.batched else 1
    lowest = xp.full(count, math.inf)
    stalled = xp.zeros(count, int)
    active = xp.ones(count, bool)
    horizon = max(1.0, float(abs(x).max())) / eps**2  # points beyond it run away

    def norms(rows: Array) -> Array:
        return xp.linalg.norm(rows.reshape(count, -1).astype(np.float64), axis=-1)

    def spread(numbers: Array) -> Array:
        """One number per problem, spread over the shape of x."""
        full = numbers.reshape((count,) + (1,) * (x.ndim - 1)) if problem.batched else numbers[0]
        return xp.asarray(full, x.dtype)

    for iteration in range(max_iterations):
        hessian = problem.hessian(x)
        gradient, values = hessian.gradient, hessian.values
        scale = xp.maximum(1.0, norms(x))
        step = _descent_step(hessian)
        length = norms(step)
        active = active & xp.isfinite(length) & (scale <= horizon)
        # If the quadratic model is flat, a full step leaves the region where the model is good.
        short = xp.minimum(1.0, 2 * scale / xp.maximum(length, 1e-300))
        step = xp.where(active[:, None], step * short[:, None], 0).astype(x.dtype)
        slope = (gradient * step).sum(axis=-1).astype(np.float64)
        step = step.reshape(x.shape)
        rounding = 10 * eps * abs(values)
        # An objective that only tends to its infimum becomes flat up to rounding. There the
        # gradient is noise, and the iteration would follow it until max_iterations.
        stalled = xp.where(values >= lowest - rounding, stalled + 1, 0)
        lowest = xp.minimum(lowest, values)
        active = active & (stalled <= _PATIENCE)
        fraction = xp.ones(count)
        waiting = active.copy()
        candidate = x
        for _ in range(40):
            if not bool(waiting.any()):
                break
            candidate = xp.asarray(x + spread(xp.where(active, fraction, 0.0)) * step, x.dtype)
            new = problem.values(candidate)
            good = new <= values + 1e-4 * fraction * slope
            level = abs(new - values) <= rounding
            if bool((waiting & ~good & level).any()):  # values are equal: compare gradients
                slopes = norms(problem.value_and_gradient(candidate)[1])
                good = good | (level & (slopes < norms(gradient)))
            waiting = waiting & ~good
            fraction = xp.where(waiting, fraction / 2, fraction)
        moved = active & ~waiting
        x = xp.asarray(x + spread(xp.where(moved, fraction, 0.0)) * step, x.dtype)
        active = moved & (fraction * length > 1e-3 * tolerance * scale)
        if not bool(active.any()):
            return x, iteration + 1
    return x, max_iterations


def _descent_step(hessian: Hessian) -> Array:
    """Newton's steps (B, n). The sign of negative curvature is reversed, so all steps descend."""
    xp = hessian.xp
    gradient = hessian.gradient
    if hessian.dense:
        inverse = absolute(xp, hessian.matrix())
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            return -inverse(gradient.astype(np.float64)).astype(gradient.dtype)
    try:
        # Far from the minimum an inexact step is as good as an exact one.
        largest = float(xp.linalg.norm(gradient))
        forcing = min(0.1, largest / (1 + float(abs(hessian.values).max())))
        forcing = max(forcing, 1e-4)  # at most four digits per step
        return hessian.solve(-gradient, tolerance=forcing, accept=math.inf)[0]
    except NegativeCurvatureError as error:
        return error.partial  # the partial step descends


def absolute(xp: Any, matrix: Array) -> Callable[[Array], Array]:
    """The map of v to |H|^-1 v for symmetric H (B, n, n), from the absolute eigenvalues.

    Eigenvalues near zero are raised to 1e-12 of the largest.
    """
    values, vectors = xp.linalg.eigh(matrix)
    modulus = abs(values)
    modulus = xp.maximum(modulus, 1e-12 * modulus.max(axis=-1, keepdims=True))

    def apply(v: Array) -> Array:
        coefficients = (vectors.swapaxes(-1, -2) @ v[..., None])[..., 0]
        return (vectors @ (coefficients / modulus)[..., None])[..., 0]

    return apply


def scipy_minimize(
    problem: Problem,
    x: Array,
    method: str,
    max_iterations: int,
    solver_options: Mapping[str, Any] | None = None,
    **constraints: Any,
) -> tuple[Array, int]:
    """Run a method of scipy.optimize.minimize. SciPy uses float64, the objective the dtype of x."""
    import scipy.optimize

    xp = chainer.backend.get_array_module(x)
    name = method.lower()

    def inside(flat: np.ndarray) -> Array:
        return xp.asarray(flat.reshape(x.shape), dtype=x.dtype)

    def outside(array: Array) -> np.ndarray:
        return np.asarray(chainer.backends.cuda.to_cpu(array), np.float64).ravel()

    def value_and_gradient(flat: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = problem.value_and_gradient(inside(flat))
        return value, outside(gradient)

    def value_alone(flat: np.ndarray) -> float:
        return float(problem.values(inside(flat)).sum())

    def hessian_product(flat: np.ndarray, vector: np.ndarray) -> np.ndarray:
        hessian = problem.hessian(inside(flat))
        rows = inside(vector).reshape(hessian.problems, hessian.size)
        return outside(hessian.product(rows))

    def hessian_matrix(flat: np.ndarray) -> np.ndarray:
        blocks = problem.hessian(inside(flat)).matrix()
        import scipy.linalg

        return scipy.linalg.block_diag(*chainer.backends.cuda.to_cpu(blocks))

    more: dict[str, Any] = dict(constraints)
    if name in _SECOND_ORDER:
        more["hessp"] = hessian_product
    if name in _FULL_HESSIAN:
        more["hess"] = hessian_matrix
    limit = {"maxfun" if name == "tnc" else "maxiter": max_iterations}
    result = scipy.optimize.minimize(
        value_alone if name in _NO_GRADIENT else value_and_gradient,
        outside(x),
        jac=None if name in _NO_GRADIENT else True,
        method=method,
        options={**limit, **(solver_options or {})},
        **more,
    )
    return inside(result.x), int(result.get("nit", -1))
