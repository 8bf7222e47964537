"""A coordinate-wise reduction of sample gradients, and the weights of the samples in it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from chainrob.kernels import array_module, fused, is_array

Array = Any
"""A NumPy or CuPy array."""


class Fused(NamedTuple):
    """A reduction's name in ``chainrob.kernels`` and its parameters, in the kernel's order."""

    name: str
    parameters: tuple[Any, ...] = ()


class AmongZeros(NamedTuple):
    """What a reduction makes of a coordinate that is zero in most samples."""

    ignored: int = 0
    """So many values that are not zero leave the estimate where zeros alone have it, and have no
    weight in it."""
    reduce: Callable[[Array, int, bool], tuple[Array, Array | None]] | None = None
    """From some values (M, d) and the number of further values, all zero, the estimates (d,); and,
    if asked for, the weights (M + 1, d) of the values and of a zero."""
    equivariant: bool = False
    """Whether the estimate of a multiple of the values is that multiple of the estimate."""


class Reduction(NamedTuple):
    """What is done to the N values of every coordinate."""

    reduce: Callable[[Array], Array]
    """(*R, N, d) -> (*R, d): the definition."""
    weights: Callable[[Array], Array] | None = None
    """(*R, N, d) -> (*R, N, d): the weight of each value, 1 in a plain mean."""
    fused: Fused | None = None
    """The compiled form of ``reduce``, where there is one."""
    mix: Callable[[Array], Array] | None = None
    """(*R, N, d) -> (*R, M, d): what is done to the values first; see ``Mixed``."""
    among_zeros: Callable[[int], AmongZeros] | None = None
    """N to shorter ways for coordinates that are zero in most samples."""
    by_replica: bool = False
    """Whether tiles must have their replica axes; else an operator may leave them out, which only a
    reduction that differs between replicas can tell."""

    def of_values(self, values: Array, squares: RowSquares | None = None) -> Array:
        """The estimate (*R, d) from a tile (*R, N, d), whose squares are added to ``squares``.

        A compiled form takes values as outer products with a single output whose gradient is one.
        """
        if self.mix is not None:
            values = self.mix(values)
        if self.fused is not None and is_array(values):
            ones = array_module(values).ones((*values.shape[:-1], 1, 1), values.dtype)
            out = fused(*self.fused, values[..., None, :], ones, squares)
            if out is not None:
                return out[..., 0, :]
        if squares is not None:
            if self.weights is None:
                raise TypeError("reduce: squares need the reduction's weights, found none")
            squares.add_tile(values, self.weights(values))
        return self.reduce(values)

    def of_outer_products(self, x: Array, gy: Array, squares: RowSquares | None) -> Array | None:
        """The compiled estimate (*R, Q, P) of outer products, or None where there is none.

        Args:
            x: inputs (*R, N, S, P); replica axes may be 1.
            gy: output gradients (*R, N, S, Q), of the same dtype.
            squares: what the squares are added to.
        """
        if self.fused is None or self.mix is not None:
            return None
        return fused(*self.fused, x, gy, squares)


class RowSquares:
    r"""How much of each row's squared deviation a reduction let in, added up over coordinates.

    .. math:: w_n = \frac{\sum_j w_{nj} (g_{nj} - m_j)^2}{\sum_j (g_{nj} - m_j)^2}

    with w_nj the weight of a value in its coordinate's estimate and m_j the weighted mean. The sums
    add over tiles, parts and layers.

    Args:
        xp: NumPy or CuPy.
        shape: (*R, N).
        exponent: deviations are taken in units of 2^exponent, for their squares' sake.

    Attributes:
        let_in: numerators (*R, N), float64.
        total: denominators (*R, N), float64.
    """

    def __init__(self, xp: Any, shape: tuple[int, ...], exponent: Any = 0) -> None:
        self.exponent = exponent
        self.let_in: Array = xp.zeros(shape, np.float64)
        self.total: Array = xp.zeros(shape, np.float64)

    @classmethod
    def of(cls, gradients: Any) -> RowSquares:
        """Empty sums for the rows of an operator."""
        # Squares of float32 numbers are at home in float64; float64 is brought to ordinary size.
        exponent = gradients.magnitude() if gradients.compute_dtype == np.float64 else 0
        return cls(gradients.xp, (*gradients.replicas, gradients.n_samples), exponent)

    def like(self) -> RowSquares:
        """Empty sums for the same rows."""
        return RowSquares(array_module(self.total), self.total.shape, self.exponent)

    def add(self, let_in: Array, total: Array) -> None:
        """Add sums (*R, N) of other coordinates, in the same units."""
        self.let_in += let_in
        self.total += total

    def add_tile(self, values: Array, weights: Array) -> None:
        """Add the coordinates of one tile.

        Args:
            values: the rows at some coordinates, (*R, N, d).
            weights: the weight of each value, (*R, N, d).
        """
        weights = weights.astype(np.float64, copy=False)
        squares = self.of_tile(values, weights)
        self.add((weights * squares).sum(axis=-1), squares.sum(axis=-1))

    def of_tile(self, values: Array, weights: Array, copies: int = 1) -> Array:
        """The squared deviations of the values from their weighted means, (*R, N, d), float64.

        Args:
            values: (*R, N, d).
            weights: the weight of each value, (*R, N, d), float64.
            copies: how many times the last value counts.
        """
        xp = array_module(values)
        counted = weights
        if copies != 1:
            counted = xp.concatenate([weights[..., :-1, :], copies * weights[..., -1:, :]], axis=-2)
        shares = counted / counted.sum(axis=-2, keepdims=True)
        deviations = values - (shares * values).sum(axis=-2, keepdims=True)
        # What rounding leaves of a mean of equal values is no deviation.
        rounding = (values.shape[-2] - 1 + copies) * float(np.finfo(np.float64).eps)
        noise = rounding * (shares * xp.abs(values)).sum(axis=-2, keepdims=True)
        deviations = xp.where(xp.abs(deviations) > noise, deviations, 0.0)
        return self.of_deviations(deviations)

    def of_deviations(self, deviations: Array) -> Array:
        """Their squares, in the unit of the sums."""
        xp = array_module(deviations)
        deviations = deviations.astype(np.float64, copy=False)
        return xp.clip(xp.ldexp(deviations, -self.exponent), -1e150, 1e150) ** 2

    def weights(self) -> Array:
        """The weight of each row, (*R, N): 1 where it does not deviate."""
        xp = array_module(self.total)
        still = self.total == 0.0
        return xp.where(still, 1.0, self.let_in / xp.where(still, 1.0, self.total))
