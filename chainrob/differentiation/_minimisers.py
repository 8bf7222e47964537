"""Ways to find a minimum: Newton's method here, SciPy's methods, or the user's own."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import chainer
from chainrob.aggregation import exact_backward
from chainrob.differentiation._hessian import Hessian, conjugate_gradients

__all__ = ["Problem", "check_solver", "minimise"]

Array = Any

_SECOND_ORDER = ("newton-cg", "trust-ncg", "trust-krylov", "trust-constr")
_SCIPY = ("bfgs", "l-bfgs-b", "cg", "tnc", "slsqp", *_SECOND_ORDER)

# Newton's last digits take three or four steps among values that no longer fall.
_PATIENCE = 20


class Problem:
    """The objective with its parameters held fixed: arrays in, arrays out, evaluations counted."""

    def __init__(self, objective: Callable[..., Any], parameters: Sequence[Array]) -> None:
        self.objective = objective
        self.parameters = tuple(parameters)
        self.evaluations = 0

    def variable(self, x: Any) -> Any:
        """The objective as a Variable, for a user's own solver."""
        self.evaluations += 1
        return self.objective(x, *[chainer.Variable(p) for p in self.parameters])

    def value(self, x: Array) -> float:
        with chainer.no_backprop_mode():
            return float(self.variable(chainer.Variable(x)).array.reshape(()))

    def value_and_gradient(self, x: Array) -> tuple[float, Array]:
        variable = chainer.Variable(x)
        with chainer.force_backprop_mode(), exact_backward():
            value = self.variable(variable)
            (gradient,) = chainer.grad([value], [variable])
        return float(value.array.reshape(())), gradient.array

    def hessian(self, x: Array, method: str, damping: float = 0.0) -> Hessian:
        self.evaluations += 1
        return Hessian(self.objective, x, self.parameters, method, damping)


def check_solver(solver: Any) -> None:
    """Refuse what is neither callable nor the name of a method that uses gradients."""
    names = ("newton", *_SCIPY)
    if not callable(solver) and not (isinstance(solver, str) and solver.lower() in names):
        raise ValueError(f"solver must be callable or one of {names}, found {solver!r}")


def minimise(
    problem: Problem,
    x: Array,
    solver: str | Callable[..., Any],
    tolerance: float,
    linear_solver: str,
    max_iterations: int,
) -> tuple[Array, int]:
    """Run a solver from x; the place where it stopped, and its iterations (-1 if unknown)."""
    if callable(solver):
        found = solver(problem.variable, x.copy())
        found = getattr(found, "array", found)
        xp = chainer.backend.get_array_module(x)
        found = xp.asarray(found, dtype=x.dtype)
        if found.shape != x.shape:
            raise ValueError(
                f"solver must return x of the shape {x.shape} of x0, found {found.shape}"
            )
        return found, -1
    if solver.lower() == "newton":
        return _newton(problem, x, tolerance, linear_solver, max_iterations)
    found, iterations = _scipy(problem, x, solver, max_iterations)
    # SciPy stops at its own tolerance; Newton's method takes the last digits.
    found, more = _newton(problem, found, tolerance, linear_solver, 20)
    return found, iterations + more


def _newton(
    problem: Problem, x: Array, tolerance: float, linear_solver: str, max_iterations: int
) -> tuple[Array, int]:
    """Newton's method with a modified Hessian and backtracking."""
    xp = chainer.backend.get_array_module(x)
    eps = float(np.finfo(x.dtype).eps)
    lowest, stalled = math.inf, 0
    for iteration in range(max_iterations):
        hessian = problem.hessian(x, linear_solver)
        gradient = hessian.gradient
        scale = max(1.0, float(xp.linalg.norm(x)))
        step = _descent_step(hessian)
        length = float(xp.linalg.norm(step))
        if not math.isfinite(length):
            return x, iteration
        # Where the model is flat the full step would leave the region that it describes.
        step = step * min(1.0, 2 * scale / length) if length > 0 else step
        slope = float((gradient * step).sum())
        rounding = 10 * eps * abs(hessian.value)
        # An objective that only tends to its infimum is flat to rounding in the end: there the
        # gradient is noise, and the iteration would follow it until max_iterations.
        stalled = stalled + 1 if hessian.value >= lowest - rounding else 0
        lowest = min(lowest, hessian.value)
        if stalled > _PATIENCE:
            return x, iteration
        fraction = 1.0
        for _ in range(40):
            candidate = xp.asarray(x + fraction * step, dtype=x.dtype)
            value = problem.value(candidate)
            if value <= hessian.value + 1e-4 * fraction * slope:
                break
            if abs(value - hessian.value) <= rounding:  # values no longer tell, gradients do
                new_gradient = problem.value_and_gradient(candidate)[1]
                if float(xp.linalg.norm(new_gradient)) < float(xp.linalg.norm(gradient)):
                    break
            fraction /= 2
        else:
            return x, iteration
        x = candidate
        if fraction * length <= 1e-3 * tolerance * scale:
            return x, iteration + 1
    return x, max_iterations


def _descent_step(hessian: Hessian) -> Array:
    """Newton's step, with negative curvature turned round so that it always descends."""
    xp = hessian.xp
    gradient = hessian.gradient
    if hessian.dense:
        values, vectors = xp.linalg.eigh(hessian.matrix())
        modulus = abs(values)
        modulus = xp.maximum(modulus, 1e-12 * modulus.max())
        coefficients = vectors.T @ gradient.ravel().astype(np.float64)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            flat = -vectors @ (coefficients / modulus)
        return flat.reshape(gradient.shape).astype(gradient.dtype)
    try:
        flat = conjugate_gradients(
            lambda p: xp.ravel(hessian.product(p.reshape(hessian.shape))), -gradient.ravel()
        )
    except ArithmeticError:
        flat = -gradient.ravel()  # steepest descent, until the Hessian is positive definite
    return flat.reshape(gradient.shape)


def _scipy(problem: Problem, x: Array, method: str, max_iterations: int) -> tuple[Array, int]:
    """A method of scipy.optimize.minimize, in float64 outside and the dtype of x inside."""
    import scipy.optimize

    xp = chainer.backend.get_array_module(x)

    def inside(flat: np.ndarray) -> Array:
        return xp.asarray(flat.reshape(x.shape), dtype=x.dtype)

    def outside(array: Array) -> np.ndarray:
        return np.asarray(chainer.backends.cuda.to_cpu(array), np.float64).ravel()

    def value_and_gradient(flat: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = problem.value_and_gradient(inside(flat))
        return value, outside(gradient)

    def hessian_product(flat: np.ndarray, vector: np.ndarray) -> np.ndarray:
        return outside(problem.hessian(inside(flat), "cg").product(inside(vector)))

    result = scipy.optimize.minimize(
        value_and_gradient,
        outside(x),
        jac=True,
        method=method,
        hessp=hessian_product if method.lower() in _SECOND_ORDER else None,
        options={"maxiter": max_iterations},
    )
    return inside(result.x), int(result.nit)
