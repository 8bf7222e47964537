"""Double backward's last step: from cotangents of the rows to cotangents of what the rows are made
of.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from chainrob.sample_gradients.reduction import Array

Derivative = Callable[[Array], Array]
"""Values (*R, N, d) to the derivatives (*R, N, d) of each coordinate's estimate in them."""


class Differentiable:
    """What an operator answers in double backward.

    An estimate e = R(G) has, for a cotangent v of e, one cotangent C_n for each row g_n. No N x D
    array of them is built either. Two forms are enough for all robustifiers:

    - coordinate-wise: C_n = a_n * v, with a_n the derivative of each coordinate's estimate in row
      n;
    - by weights: C_n = w_n v + sum_m M_nm g_m, with N weights w and an N x N matrix M.

    The answer of a pullback is the cotangents of the operator's ingredients: a tuple (x, gy) for
    outer products, (rows,) for dense rows, one tuple a part for joined parameters.
    """

    def projections(self, direction: Any) -> Array:
        """G v: the inner products (*R, N), float64, of the rows with one vector (*R, *shape)."""
        raise NotImplementedError(f"{type(self).__name__} has no projections")

    def pullback_weights(
        self, weights: Array, mixing: Array | None, cotangent: Any
    ) -> tuple[Any, ...]:
        """Cotangents of the ingredients for C_n = w_n v + sum_m M_nm g_m.

        Args:
            weights: w, (*R, N).
            mixing: M, (*R, N, N), or None for zero.
            cotangent: v, (*R, *shape); one a part for joined parameters.
        """
        raise NotImplementedError(f"{type(self).__name__} has no pullback")

    def pullback_coordinates(self, derivative: Derivative, cotangent: Any) -> tuple[Any, ...]:
        """Cotangents of the ingredients for C_n = derivative(rows)_n * v, tile by tile.

        Args:
            derivative: values (*R, N, d) to the derivatives (*R, N, d) of each coordinate's
                estimate in them.
            cotangent: v, (*R, *shape); one a part for joined parameters.
        """
        raise NotImplementedError(f"{type(self).__name__} has no pullback")

    def with_pullback(self) -> Any:
        """The operator itself, or its rows as an array where it can only give tiles."""
        return self

    def pulled_units(self, pulled: tuple[Array, ...]) -> tuple[Array, ...]:
        """A pullback through ``units()`` as cotangents of this operator's ingredients."""
        return pulled
