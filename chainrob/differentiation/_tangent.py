"""The directions in which x may move while its active constraints stay active."""

from __future__ import annotations

from typing import Any

import numpy as np

import chainer

__all__ = ["Tangent", "whole_space"]

Array = Any


class Tangent:
    """The null space of the active constraints, for B problems of n unknowns each.

    Active constraints are the equalities A x = b and the bounds of the coordinates that are not
    free.

    Args:
        free: Booleans (B, n), true for coordinates at no bound.
        matrix: A, (B, m, n), float64; m may be 0.
    """

    def __init__(self, free: Array, matrix: Array) -> None:
        self.xp = chainer.backend.get_array_module(free)
        self.free = free
        self.matrix = matrix
        self.is_whole = matrix.shape[1] == 0 and bool(free.all())
        self._reduced = matrix * free[:, None, :]
        gram = self._reduced @ self._reduced.swapaxes(-1, -2)
        values = self.xp.linalg.eigvalsh(gram) if gram.shape[-1] else self.xp.ones((len(gram), 1))
        self.independent = values[:, 0] > 1e-14 * self.xp.maximum(values[:, -1], 1e-300)
        scale = self.xp.where(self.independent, 0.0, 1.0)[:, None, None]
        self._inverse = self.xp.linalg.inv(gram + scale * self.xp.eye(gram.shape[-1]))

    def lift(self, r: Array) -> Array:
        """The smallest free v (B, n) with A v = r, for r (B, m)."""
        dual = (self._inverse @ r[..., None]).astype(np.float64)
        return (self._reduced.swapaxes(-1, -2) @ dual)[..., 0]

    def multipliers(self, r: Array) -> Array:
        """The y (B, m) for which A^T y is nearest to r (B, n) on the free coordinates."""
        return (self._inverse @ (self._reduced @ r[..., None]))[..., 0]

    def project(self, v: Array) -> Array:
        """The projection of v (B, n) onto the tangent space, in the dtype of v."""
        if self.is_whole:
            return v
        v = v * self.free
        if self.matrix.shape[1]:
            v = v - self.lift((self._reduced @ v[..., None])[..., 0]).astype(v.dtype)
        return v

    def projector(self) -> Array:
        """The projection as matrices (B, n, n)."""
        unit = self.xp.eye(self.free.shape[-1]) * self.free[:, :, None]
        if self.matrix.shape[1]:
            unit = unit - self._reduced.swapaxes(-1, -2) @ self._inverse @ self._reduced
        return unit


def whole_space(xp: Any, problems: int, size: int) -> Tangent:
    """The tangent space without constraints."""
    return Tangent(xp.ones((problems, size), bool), xp.zeros((problems, 0, size)))
