"""The Hessian of an objective at a point: products, curvatures, and linear solves."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import chainer
from chainrob.differentiation._closed import gradients
from chainrob.differentiation._conjugate_gradients import (
    LinearSolve,
    NegativeCurvatureError,
    conjugate_gradients,
)
from chainrob.differentiation._tangent import Tangent, whole_space

__all__ = ["Curvature", "Hessian", "LinearOptions"]

Array = Any
Objective = Callable[..., Any]

DENSE_LIMIT = 128
LANCZOS_LIMIT = 16
PROBES = 32


@dataclasses.dataclass(frozen=True)
class LinearOptions:
    """Options for linear systems with the Hessian.

    Args:
        method: ``'dense'``, ``'cg'`` or ``'auto'``: dense up to 128 unknowns per problem.
        damping: Tikhonov term in the solves of the derivative.
        preconditioner: None, ``'diagonal'``, or a callable v -> about H^-1 v.
        tolerance: Aim for the relative residual; None is 10 eps.
    """

    method: str = "auto"
    damping: float = 0.0
    preconditioner: str | Callable[[Array], Array] | None = None
    tolerance: float | None = None


@dataclasses.dataclass(frozen=True)
class Curvature:
    """Extreme eigenvalues (B,) on the tangent space. They are not ``exact`` if Lanczos was used."""

    smallest: Array
    largest: Array
    exact: bool
    weakest: Array | None = None
    """Directions (B, n) of the smallest eigenvalue, of length 1."""
    iterated: bool = False
    """Whether inverse iteration found the smallest eigenvalue."""

    @property
    def condition_number(self) -> Array:
        """Largest over smallest absolute eigenvalue; infinite if singular or indefinite."""
        largest = np.maximum(abs(self.smallest), abs(self.largest))
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(self.smallest > 0, largest / self.smallest, np.inf)


class Hessian:
    """H = d2f/dx2 at fixed x and parameters, which are all arrays.

    With ``batched`` the first axis of x counts B independent problems. So H has B diagonal blocks,
    and n products give all columns of all blocks. Otherwise B = 1.

    Args:
        objective: ``objective(x, *parameters)``, a Variable of one number, or of (B,).
        x: The point, an array.
        parameters: The parameters, arrays.
        options: Options of the linear solves.
        batched: Whether there are B problems.
    """

    def __init__(
        self,
        objective: Objective,
        x: Array,
        parameters: Sequence[Array],
        options: LinearOptions,
        batched: bool = False,
    ) -> None:
        self.problems = len(x) if batched else 1
        self.size = x.size // self.problems
        self.dense = options.method == "dense" or (
            options.method == "auto" and self.size <= DENSE_LIMIT
        )
        self.options = options
        self.shape = x.shape
        self.dtype = x.dtype
        self.xp = chainer.backend.get_array_module(x)
        self._x = chainer.Variable(x)
        with chainer.force_backprop_mode():
            value = objective(self._x, *[chainer.Variable(p) for p in parameters])
            (self._slope,) = gradients([value], [self._x])
        self.values = value.array.reshape(self.problems).astype(np.float64)
        self.gradient = self._slope.array.reshape(self.problems, self.size)
        self._matrix: Array | None = None

    def product(self, v: Array) -> Array:
        """H v for v of shape (B, n)."""
        weight = chainer.Variable(self.xp.asarray(v.reshape(self.shape), dtype=self.dtype))
        (result,) = gradients([self._slope], [self._x], [weight])
        return result.array.reshape(v.shape)

    def matrix(self) -> Array:
        """H as symmetric matrices (B, n, n) in float64."""
        if self._matrix is None:
            columns = []
            for j in range(self.size):
                unit = self.xp.zeros((self.problems, self.size), self.dtype)
                unit[:, j] = 1
                columns.append(self.product(unit))
            rows = self.xp.stack(columns, axis=1).astype(np.float64)
            self._matrix = (rows + rows.swapaxes(-1, -2)) / 2
        return self._matrix

    def _norm(self) -> Array:
        """An upper bound (B,) of all eigenvalues; 1 if all are zero."""
        bound = abs(self.matrix()).sum(axis=-1).max(axis=-1)
        return self.xp.where(bound > 0, bound, 1.0)

    def quotient(self, v: Array) -> float:
        """The Rayleigh quotient of v (B, n)."""
        v = v / self.xp.linalg.norm(v)
        return float(self.xp.vdot(v, self.product(v)))

    def curvature(self, tangent: Tangent | None = None) -> Curvature:
        """Extreme eigenvalues: exact for few unknowns, by Lanczos iteration for many.

        The Lanczos iteration treats all problems of a batch as one problem.
        """
        tangent = tangent or whole_space(self.xp, self.problems, self.size)
        if not self.dense and self.size > LANCZOS_LIMIT:
            return self._lanczos(tangent)
        matrix = self.matrix()
        top = matrix
        if not tangent.is_whole:
            # Directions that are not tangent get eigenvalues that are not the extreme ones.
            projector = tangent.projector()
            rest = self._norm()[:, None, None] * (self.xp.eye(self.size) - projector)
            matrix = projector @ matrix @ projector
            top, matrix = matrix - rest, matrix + rest
        values, vectors = self.xp.linalg.eigh(matrix)
        largest = self.xp.linalg.eigvalsh(top)[:, -1]
        to_host = chainer.backends.cuda.to_cpu
        smallest, largest = to_host(values[:, 0]), to_host(largest)
        return Curvature(smallest, np.maximum(largest, smallest), True, vectors[:, :, 0])

    def _lanczos(self, tangent: Tangent) -> Curvature:
        from scipy.sparse.linalg import ArpackError, ArpackNoConvergence, LinearOperator, eigsh

        total = self.problems * self.size
        to_host = chainer.backends.cuda.to_cpu
        ones = np.ones(self.problems)
        start = np.random.default_rng(0).standard_normal(total)

        def inside(flat: np.ndarray) -> Array:
            return self.xp.asarray(flat.reshape(self.problems, self.size), dtype=self.dtype)

        def extreme(which: str, shift: float, tolerance: float) -> tuple[float, Array] | None:
            def apply(flat: np.ndarray) -> np.ndarray:
                moved = inside(flat)
                along = tangent.project(moved)
                bent = tangent.project(self.product(along)) + shift * (moved - along)
                return np.asarray(to_host(bent), np.float64).ravel()

            operator = LinearOperator((total, total), matvec=apply, dtype=np.float64)
            try:
                values, vectors = eigsh(
                    operator, k=1, which=which, v0=start, tol=tolerance, maxiter=5,
                    ncv=min(total, 30 if which == "LA" else 60),
                )  # fmt: skip
            except ArpackNoConvergence:
                return None
            except ArpackError:  # the first product is zero
                return 0.0, inside(start)
            return float(values[0]), inside(vectors[:, 0])

        top = extreme("LA", 0.0, 1e-2)
        if top is None:
            return Curvature(np.nan * ones, np.nan * ones, False)
        shift = 0.0 if tangent.is_whole else 2 * abs(top[0]) + 1e-300
        bottom = extreme("SA", shift, 1e-2)
        iterated = bottom is None
        if bottom is None:
            bottom = self._by_inverse_iteration(tangent, inside(start))
        return Curvature(bottom[0] * ones, top[0] * ones, False, bottom[1], iterated)

    def _by_inverse_iteration(self, tangent: Tangent, v: Array) -> tuple[float, Array]:
        """An estimate of the smallest eigenvalue, from above, if the Lanczos iteration is too slow.

        If conjugate gradients solve a system with a random right-hand side, H is positive definite.
        The reason: with positive pivots the residual polynomial is 1 at 0 and larger at negative
        numbers. So a part of the right-hand side with negative eigenvalues could not vanish.
        """
        tolerance = max(1e-6, 100 * float(np.finfo(self.dtype).eps))
        for _ in range(5):
            try:
                v = self.solve(v, tangent, tolerance=tolerance, accept=2 * tolerance)[0]
            except NegativeCurvatureError as error:
                return error.curvature, v
            except ArithmeticError:
                return 0.0, v  # a direction that is flat up to rounding
            v = v / self.xp.linalg.norm(v)
            tolerance = 1e-2
        return self.quotient(v), v

    def solve(
        self, v: Array, tangent: Tangent | None = None, damping: float = 0.0, **limits: Any
    ) -> tuple[Array, LinearSolve]:
        """(P H P + damping)^-1 v on the tangent space, for v (B, n), in the dtype of v."""
        tangent = tangent or whole_space(self.xp, self.problems, self.size)
        xp = self.xp
        v = tangent.project(v)
        if not self.dense:
            lift = self._preconditioner(tangent, damping)

            def apply(z: Array) -> Array:
                return tangent.project(self.product(z)) + damping * z

            limits = {"tolerance": self.options.tolerance, **limits}
            project = None if tangent.is_whole else tangent.project
            return conjugate_gradients(apply, v, precondition=lift, project=project, **limits)
        # A dense solve is exact and needs no tolerance.
        matrix = self.matrix() + damping * xp.eye(self.size)
        if not tangent.is_whole:
            projector = tangent.projector()
            rest = self._norm()[:, None, None] * (xp.eye(self.size) - projector)
            matrix = projector @ matrix @ projector + rest
        target = v.astype(np.float64)
        z = xp.linalg.solve(matrix, target[..., None])[..., 0]
        norms = xp.linalg.norm(target, axis=-1)
        errors = xp.linalg.norm((matrix @ z[..., None])[..., 0] - target, axis=-1)
        residual = float((errors / xp.maximum(norms, 1e-300)).max())
        ends = self.curvature(tangent)
        ends = Curvature(ends.smallest + damping, ends.largest + damping, True)
        condition = float(ends.condition_number.max())
        return z.astype(v.dtype), LinearSolve("dense", 0, 0, residual, condition)

    def _preconditioner(self, tangent: Tangent, damping: float) -> Callable[[Array], Array] | None:
        given = self.options.preconditioner
        if given is None:
            return None
        if callable(given):

            def lift(v: Array) -> Array:
                found = given(v.reshape(self.shape))
                return self.xp.asarray(getattr(found, "array", found), v.dtype).reshape(v.shape)

        else:
            diagonal = abs(self.diagonal() + damping)
            diagonal = self.xp.maximum(diagonal, 1e-6 * diagonal.max())

            def lift(v: Array) -> Array:
                return (v / diagonal).astype(v.dtype)

        return lambda v: tangent.project(lift(tangent.project(v)))

    def diagonal(self) -> Array:
        """An estimate of the diagonal (B, n) from products with vectors of random signs.

        It is exact if H is diagonal.

        Bekas, Kokiopoulou and Saad, An estimator for the diagonal of a matrix (2007).
        """
        rng = np.random.default_rng(0)
        total = self.xp.zeros((self.problems, self.size))
        for _ in range(PROBES):
            signs = self.xp.asarray(rng.integers(0, 2, total.shape) * 2 - 1).astype(self.dtype)
            total += signs * self.product(signs)
        return total / PROBES
