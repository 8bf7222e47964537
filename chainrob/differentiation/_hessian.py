"""The Hessian of an objective at a point: products, curvatures, and linear solves with it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import chainer
from chainrob.differentiation._closed import closed, gradients

__all__ = ["Curvature", "Hessian", "conjugate_gradients", "solve_hessian"]

Array = Any
Variable = Any
Objective = Callable[..., Any]

DENSE_LIMIT = 128


@dataclasses.dataclass(frozen=True)
class Curvature:
    """Extreme eigenvalues of a Hessian; not ``exact`` where Lanczos found them."""

    smallest: float
    largest: float
    exact: bool

    @property
    def condition_number(self) -> float:
        """Largest over smallest modulus; infinite for a Hessian that is singular or indefinite."""
        largest = max(abs(self.smallest), abs(self.largest))
        return largest / self.smallest if self.smallest > 0 else float("inf")


class Hessian:
    """H = d2f/dx2 + damping at fixed x and parameters, all of it arrays.

    Args:
        objective: ``objective(x, *parameters)``, a Variable of one number.
        x: Array, the point.
        parameters: Arrays.
        method: ``'dense'``, ``'cg'`` or ``'auto'``.
        damping: Tikhonov term.
    """

    def __init__(
        self,
        objective: Objective,
        x: Array,
        parameters: Sequence[Array],
        method: str = "auto",
        damping: float = 0.0,
    ) -> None:
        self.dense = method == "dense" or (method == "auto" and x.size <= DENSE_LIMIT)
        self.shape = x.shape
        self.size = x.size
        self.damping = damping
        self.dtype = x.dtype
        self.xp = chainer.backend.get_array_module(x)
        self.products = 0
        self._x = chainer.Variable(x)
        with chainer.force_backprop_mode():
            value = objective(self._x, *[chainer.Variable(p) for p in parameters])
            (self._slope,) = gradients([value], [self._x])
        self.value = float(value.array.reshape(()))
        self.gradient = self._slope.array
        self._matrix: Array | None = None

    def product(self, v: Array) -> Array:
        """H v for v of the shape of x."""
        self.products += 1
        weight = chainer.Variable(self.xp.asarray(v, dtype=self.dtype))
        (result,) = gradients([self._slope], [self._x], [weight])
        return result.array + self.damping * v

    def matrix(self) -> Array:
        """H as a symmetric matrix in float64."""
        if self._matrix is None:
            units = self.xp.eye(self.size, dtype=self.dtype).reshape(self.size, *self.shape)
            rows = self.xp.stack([self.xp.ravel(self.product(unit)) for unit in units])
            rows = rows.astype(np.float64)
            self._matrix = (rows + rows.T) / 2
        return self._matrix

    def curvature(self) -> Curvature:
        """Extreme eigenvalues: exact for few unknowns, by Lanczos iteration for many."""
        if self.dense:
            values = self.xp.linalg.eigvalsh(self.matrix())
            return Curvature(float(values[0]), float(values[-1]), True)
        from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh

        operator = LinearOperator((self.size,) * 2, matvec=self._flat_product, dtype=np.float64)
        start = np.random.default_rng(0).standard_normal(self.size)
        ends = []
        for which in ("SA", "LA"):
            try:
                found = eigsh(
                    operator, k=1, which=which, v0=start, tol=1e-3, return_eigenvectors=False,
                    ncv=min(self.size, 60), maxiter=20,
                )  # fmt: skip
            except ArpackNoConvergence as error:
                found = error.eigenvalues
            ends.append(float(found[0]) if len(found) else float("nan"))
        return Curvature(ends[0], ends[1], False)

    def _flat_product(self, v: np.ndarray) -> np.ndarray:
        moved = self.xp.asarray(v.reshape(self.shape), dtype=self.dtype)
        return np.asarray(chainer.backends.cuda.to_cpu(self.product(moved)), np.float64).ravel()

    def solve(self, v: Array) -> Array:
        """H^-1 v for v of the shape of x."""
        if self.dense:
            flat = self.xp.linalg.solve(self.matrix(), v.ravel().astype(np.float64))
        else:
            flat = conjugate_gradients(
                lambda p: self.xp.ravel(self.product(p.reshape(self.shape))), v.ravel()
            )
        return self.xp.asarray(flat.reshape(self.shape), dtype=v.dtype)


def conjugate_gradients(product: Callable[[Array], Array], target: Array) -> Array:
    """Solve H z = target for positive definite H by products with H.

    Raises:
        ArithmeticError: If a direction of no positive curvature turns up, or the residual stalls.
    """
    xp = chainer.backend.get_array_module(target)
    eps = float(np.finfo(target.dtype).eps)
    limit = 10 * eps * float(xp.linalg.norm(target))
    z = xp.zeros_like(target)
    residual = target.copy()
    direction = residual.copy()
    square = float(residual @ residual)
    # Exact arithmetic needs as many iterations as unknowns; rounding costs a few times that.
    for _ in range(10 * target.size + 20):
        if square**0.5 <= limit:
            return z
        bent = product(direction)
        bend = float(direction @ bent)
        if not bend > 0:
            raise ArithmeticError(
                "conjugate gradients met a direction of curvature "
                f"{bend / float(direction @ direction):.3g}: the Hessian is not positive definite"
            )
        length = square / bend
        z = z + length * direction
        residual = residual - length * bent
        new = float(residual @ residual)
        direction = residual + (new / square) * direction
        square = new
    # The recursive residual may stall just above the limit; what counts is the true one.
    left = float(xp.linalg.norm(target - product(z))) / float(xp.linalg.norm(target))
    if left <= eps**0.5:
        return z
    raise ArithmeticError(
        f"conjugate gradients stopped at a relative residual of {left:.3g}; "
        "the Hessian is too badly conditioned"
    )


def solve_hessian(
    objective: Objective,
    method: str,
    damping: float,
    x: Variable,
    vector: Variable,
    parameters: Sequence[Variable],
) -> Variable:
    """H(x, parameters)^-1 vector as a node that can itself be differentiated, at every order."""
    (solution,) = _SolveHessian(objective, method, damping).apply((x, vector, *parameters))
    return solution


class _SolveHessian(chainer.FunctionNode):
    r"""v = H^{-1} u, with dv = H^{-1} du - H^{-1} dH v."""

    def __init__(self, objective: Objective, method: str, damping: float) -> None:
        self._options = (objective, method, damping)

    def forward(self, inputs: tuple[Array, ...]) -> tuple[Array]:
        self.retain_inputs(tuple(range(len(inputs))))
        self.retain_outputs((0,))
        objective, method, damping = self._options
        x, vector, *parameters = inputs
        return (Hessian(objective, x, parameters, method, damping).solve(vector),)

    def backward(
        self, indexes: tuple[int, ...], gys: tuple[Variable, ...]
    ) -> tuple[Variable | None, ...]:
        objective = self._options[0]
        x, _, *parameters = self.get_retained_inputs()
        (v,) = self.get_retained_outputs()
        w = solve_hessian(*self._options, x, gys[0], parameters)

        def bilinear_slopes(
            w: Variable, v: Variable, x: Variable, *parameters: Variable
        ) -> tuple[Variable, ...]:
            """d(w^T H v) / d(x, parameters), the damping dropping out."""
            slope = gradients([objective(x, *parameters)], [x])
            product = gradients(slope, [x], [v])
            return gradients(product, [x, *parameters], [w])

        slopes = closed(bilinear_slopes, w, v, x, *parameters)
        every = [-slopes[0], w, *[-slope for slope in slopes[1:]]]
        return tuple(every[i] for i in indexes)
