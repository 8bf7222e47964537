"""Constraints on x for :func:`argmin`: boxes, simplices and linear equalities."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

import chainer
import chainer.functions as F

__all__ = ["Box", "Constraint", "LinearEqualities", "Simplex"]

Variable = Any


class Constraint:
    """A convex set. Its numbers may be Variables; then gradients flow to them."""


@dataclasses.dataclass(frozen=True, eq=False)
class Box(Constraint):
    r"""Bounds of every coordinate.

    .. math:: l_j \le x_j \le u_j

    Args:
        lower: l, a number, array or Variable that broadcasts to the shape of x; None for no bound.
        upper: u, likewise.

    Example:
        >>> import chainer.functions as F
        >>> from chainrob.differentiation import Box, argmin
        >>> x = argmin(lambda x, t: F.sum((x - t) ** 2), [0.5, 0.5], [[2.0, 0.3]],
        ...            constraints=Box(0, 1))
        >>> print(x.array)
        [1.  0.3]
    """

    lower: Any = None
    upper: Any = None


@dataclasses.dataclass(frozen=True, eq=False)
class Simplex(Constraint):
    r"""Nonnegative numbers with a given sum; in a batch, for each problem.

    .. math:: x_j \ge 0, \qquad \sum_j x_j = s

    Args:
        total: s, a positive number, array (B,) or Variable.
    """

    total: Any = 1.0


@dataclasses.dataclass(frozen=True, eq=False)
class LinearEqualities(Constraint):
    r"""Linear equations; in a batch, for each problem.

    .. math:: A \, x = b

    Args:
        matrix: A, (m, n) if x (or x of one problem) has n numbers, or (B, m, n). Its rows must be
            independent.
        right: b, (m,) or (B, m).
    """

    matrix: Any
    right: Any


def standard_form(
    constraints: Constraint | Sequence[Constraint] | None,
    shape: tuple[int, ...],
    like: Any,
    batched: bool,
) -> tuple[Variable, ...]:
    """(lower, upper, A, b) as Variables of shapes (B, n), (B, n), (B, m, n), (B, m); () for none.

    Raises:
        TypeError: If something is not a constraint.
        ValueError: If shapes do not fit, bounds cross, there are two boxes, or rows are dependent.
    """
    given = constraints if isinstance(constraints, (tuple, list)) else (constraints,)
    given = [one for one in given if one is not None]
    if not given:
        return ()
    problems = shape[0] if batched else 1
    size = int(np.prod(shape)) // problems
    boxes, rows, rights = [], [], []
    for one in given:
        if isinstance(one, Box):
            boxes.append(one)
        elif isinstance(one, Simplex):
            boxes.append(Box(0.0, None))
            rows.append(_variable(np.ones((problems, 1, size)), like))
            total = _variable(one.total, like)
            if total.shape not in ((), (1,), (problems,)) or not (total.array > 0).all():
                raise ValueError(
                    f"total of the simplex must be positive, one number or {problems}, "
                    f"found {one.total!r}"
                )
            total = F.broadcast_to(F.reshape(total, (-1, 1)), (problems, 1))
            rights.append(total)
        elif isinstance(one, LinearEqualities):
            matrix, right = _variable(one.matrix, like), _variable(one.right, like)
            count = matrix.shape[-2] if matrix.ndim in (2, 3) else -1
            if matrix.shape not in ((count, size), (problems, count, size)):
                raise ValueError(
                    f"matrix must have shape (m, {size})"
                    + (f" or ({problems}, m, {size})" if batched else "")
                    + f" for x of shape {shape}, found {matrix.shape}"
                )
            if right.shape not in ((count,), (problems, count)):
                raise ValueError(
                    f"right must have shape {(count,)}, as the matrix has {count} rows, "
                    f"found {right.shape}"
                )
            rows.append(F.broadcast_to(matrix, (problems, count, size)))
            rights.append(F.broadcast_to(right, (problems, count)))
        else:
            raise TypeError(
                f"constraints must be Box, Simplex, LinearEqualities or a list of them, "
                f"found {type(one).__name__}"
            )
    if len(boxes) > 1:
        raise ValueError(
            f"constraints must hold at most one Box or Simplex, found {len(boxes)}; join the bounds"
        )
    lower, upper = _bounds(boxes[0] if boxes else Box(), shape, like, (problems, size))
    empty = (np.zeros((problems, 0, size)), np.zeros((problems, 0)))
    matrix = F.concat(rows, axis=1) if rows else _variable(empty[0], like)
    right = F.concat(rights, axis=1) if rights else _variable(empty[1], like)
    _check_rows(matrix.array, right.array)
    return lower, upper, matrix, right


def _bounds(
    box: Box, shape: tuple[int, ...], like: Any, flat: tuple[int, int]
) -> tuple[Variable, Variable]:
    ends = []
    for name, value, missing in (("lower", box.lower, -np.inf), ("upper", box.upper, np.inf)):
        bound = _variable(missing if value is None else value, like)
        try:
            ends.append(F.reshape(F.broadcast_to(bound, shape), flat))
        except Exception as error:
            raise ValueError(
                f"{name} must broadcast to the shape {shape} of x, found {bound.shape}"
            ) from error
        if bool(like.xp.isnan(bound.array).any()):
            raise ValueError(f"{name} must not be NaN, found NaN")
    if not bool((ends[0].array < ends[1].array).all()):
        raise ValueError("lower must be smaller than upper everywhere, found lower >= upper")
    return ends[0], ends[1]


def _check_rows(matrix: Any, right: Any) -> None:
    host = chainer.backends.cuda.to_cpu(matrix).astype(np.float64)
    if not (np.isfinite(host).all() and np.isfinite(chainer.backends.cuda.to_cpu(right)).all()):
        raise ValueError("matrix and right of the equalities must be finite, found NaN or infinity")
    if host.shape[1]:
        values = np.linalg.svd(host, compute_uv=False)
        if host.shape[1] > host.shape[2] or (values[:, -1] <= 1e-10 * values[:, 0]).any():
            raise ValueError(
                f"the rows of the equalities must be independent, found {host.shape[1]} rows with "
                f"a smallest singular value of {values[:, -1].min():.3g}"
            )


def _variable(value: Any, like: Any) -> Variable:
    """A Variable in the dtype and on the device of x."""
    if isinstance(value, chainer.Variable):
        return value if value.dtype == like.dtype else F.cast(value, like.dtype)
    return chainer.Variable(like.xp.asarray(value, like.dtype), requires_grad=False)
