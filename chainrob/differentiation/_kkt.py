"""The linear system of the implicit function theorem as a Chainer node, right to every order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import chainer
import chainer.functions as F
from chainrob.differentiation._closed import closed, gradients
from chainrob.differentiation._conjugate_gradients import LinearSolve
from chainrob.differentiation._hessian import Hessian, LinearOptions
from chainrob.differentiation._tangent import Tangent, whole_space

__all__ = ["System"]

Array = Any
Variable = Any


class System:
    r"""The matrix of the optimality conditions at a minimum, with the active constraints fixed.

    .. math:: K = \begin{pmatrix} H & A^\top & I_a^\top \\ A & 0 & 0 \\ I_a & 0 & 0 \end{pmatrix}

    where a are the coordinates at a bound. Without constraints K = H.

    Args:
        objective: ``objective(x, *parameters)``.
        options: Options of the linear solves.
        batched: Whether the first axis of x counts problems.
        free: Booleans (B, n), true for coordinates at no bound; None without constraints.
        solves: A list to which the record of every solve is added.
    """

    def __init__(
        self,
        objective: Callable[..., Any],
        options: LinearOptions,
        batched: bool,
        free: Array | None,
        solves: list[LinearSolve],
    ) -> None:
        self.objective = objective
        self.options = options
        self.batched = batched
        self.free = free
        self.solves = solves

    def flat(self, x: Any) -> tuple[int, int]:
        """(B, n) for this x."""
        problems = len(x) if self.batched else 1
        return problems, x.size // problems

    def solve(
        self, x: Variable, right: Sequence[Variable], matrix: Variable | None, *thetas: Variable
    ) -> tuple[Variable, ...]:
        """K^-1 right, as Variables that can be differentiated.

        Args:
            x: The minimum.
            right: A Variable of the shape of x. With constraints two more: one (B, m), and one of
                the shape of x, of which only the entries at the bounds are used.
            matrix: A, (B, m, n); None without constraints.
            thetas: The parameters.
        """
        constraints = () if matrix is None else (matrix,)
        node = _Solve(self, len(right))
        found: tuple[Variable, ...] = node.apply((x, *right, *constraints, *thetas))
        return found

    def apply_inverse(
        self, x: Array, right: Sequence[Array], matrix: Array | None, thetas: Sequence[Array]
    ) -> tuple[Array, ...]:
        """As ``solve``, with arrays."""
        hessian = Hessian(self.objective, x, thetas, self.options, self.batched)
        xp, damping = hessian.xp, self.options.damping
        shape = (hessian.problems, hessian.size)
        ux = right[0].reshape(shape)
        if matrix is None:
            tangent = whole_space(xp, *shape)
            v, record = hessian.solve(ux, tangent, damping)
            self.solves.append(record)
            return (v.reshape(x.shape),)
        tangent = Tangent(self.free, matrix.astype(np.float64))
        ul, um = right[1].astype(np.float64), right[2].reshape(shape)
        fixed = xp.where(self.free, 0.0, um.astype(np.float64))
        fixed = fixed + tangent.lift(ul - (tangent.matrix @ fixed[..., None])[..., 0])
        moved = fixed.astype(x.dtype)
        v, record = hessian.solve((ux - hessian.product(moved)).astype(x.dtype), tangent, damping)
        self.solves.append(record)
        v = v + moved
        left = (ux - hessian.product(v)).astype(np.float64)
        if damping:
            left = left - damping * tangent.project(v).astype(np.float64)
        dual = tangent.multipliers(left)
        pull = left - (tangent.matrix.swapaxes(-1, -2) @ dual[..., None])[..., 0]
        bound = xp.where(self.free, 0.0, pull)
        dtype = x.dtype
        return (
            v.reshape(x.shape),
            dual.astype(dtype),
            bound.reshape(x.shape).astype(dtype),
        )

    def equality_multipliers(self, x: Variable, matrix: Variable, *thetas: Variable) -> Variable:
        """The multipliers y of the equalities at a minimum, as a Variable in the graph."""
        problems, size = self.flat(x)
        free: Any = self.free
        if not matrix.shape[1]:
            return chainer.Variable(x.xp.zeros(matrix.shape[:2], x.dtype))

        def dual(x: Variable, matrix: Variable, *thetas: Variable) -> tuple[Variable]:
            (slope,) = gradients([self.objective(x, *thetas)], [x])
            mask = chainer.Variable(
                x.xp.broadcast_to(free[:, None, :], matrix.shape).astype(matrix.dtype)
            )
            reduced = matrix * mask
            gram = F.matmul(reduced, reduced, transb=True)
            right = F.matmul(reduced, F.reshape(slope, (problems, size, 1)))
            return (-F.reshape(F.matmul(F.batch_inv(gram), right), matrix.shape[:2]),)

        return closed(dual, x, matrix, *thetas)[0]


class _Solve(chainer.FunctionNode):
    r"""v = K^{-1} u, with dv = K^{-1} du - K^{-1} dK v."""

    def __init__(self, system: System, blocks: int) -> None:
        self._system = system
        self._blocks = blocks

    def _parts(self, inputs: Sequence[Any]) -> tuple[Any, Sequence[Any], Any, Sequence[Any]]:
        x, right, rest = inputs[0], inputs[1 : 1 + self._blocks], inputs[1 + self._blocks :]
        if self._blocks == 1:
            return x, right, None, rest
        return x, right, rest[0], rest[1:]

    def forward(self, inputs: tuple[Array, ...]) -> tuple[Array, ...]:
        self.retain_inputs(tuple(range(len(inputs))))
        self.retain_outputs(tuple(range(self._blocks)))
        return self._system.apply_inverse(*self._parts(inputs))

    def backward(
        self, indexes: tuple[int, ...], gys: tuple[Variable | None, ...]
    ) -> tuple[Variable | None, ...]:
        system = self._system
        x, _, matrix, thetas = self._parts(self.get_retained_inputs())
        v = self.get_retained_outputs()
        right = [
            chainer.Variable(one.xp.zeros_like(one.array)) if g is None else g
            for one, g in zip(v, gys, strict=True)
        ]
        w = system.solve(x, right, matrix, *thetas)

        def bilinear_slopes(
            w: Variable, v: Variable, x: Variable, *thetas: Variable
        ) -> tuple[Variable, ...]:
            """d(w^T H v) / d(x, thetas). The damping is constant and has no part in it."""
            slope = gradients([system.objective(x, *thetas)], [x])
            product = gradients(slope, [x], [v])
            return gradients(product, [x, *thetas], [w])

        slopes = closed(bilinear_slopes, w[0], v[0], x, *thetas)
        every = [-slopes[0], *w]
        if matrix is not None and 1 + self._blocks in indexes:
            problems, size = system.flat(x)
            every.append(-outer(w[1], v[0], problems, size) - outer(v[1], w[0], problems, size))
        elif matrix is not None:
            every.append(matrix)  # a placeholder: its gradient is not requested
        every.extend(-slope for slope in slopes[1:])
        return tuple(every[i] for i in indexes)


def outer(dual: Variable, v: Variable, problems: int, size: int) -> Variable:
    """y v^T, (B, m, n), for y (B, m) and a v of B n numbers in any shape."""
    count = dual.shape[1]
    left = F.broadcast_to(F.reshape(dual, (problems, count, 1)), (problems, count, size))
    right = F.broadcast_to(F.reshape(v, (problems, 1, size)), (problems, count, size))
    return left * right
