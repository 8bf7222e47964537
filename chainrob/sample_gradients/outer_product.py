"""Sample gradients of a weight matrix: each the sum over positions s of an outer product gy_ns
x_ns^T.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from math import prod
from typing import Any

import numpy as np

from chainrob.kernels import array_module, centered_gram, squared_lengths
from chainrob.kernels.matrix_products import product
from chainrob.sample_gradients.dense import Dense
from chainrob.sample_gradients.factored import Factored
from chainrob.sample_gradients.operator_base import (
    TILE_BUDGET,
    Array,
    Derivative,
    Index,
    Reduction,
    RowSquares,
)
from chainrob.sample_gradients.position_pairs import gram_of_pairs, mixed_pairs
from chainrob.sample_gradients.row_index import RowIndex
from chainrob.sample_gradients.rows import centered_products, largest_entry, members_of, products

FEW = 1 << 17
"""Numbers in all rows up to which a kernel's call costs more than one more input does."""


class OuterProducts(Factored):
    """Row n is sum_s gy[n, s] x[n, s]^T, a (Q, P) matrix, known from N * S * (Q + P) numbers.

    A Linear layer has S = 1; further batch axes, the pixels of a convolution and the steps of a
    recurrent layer make S larger. The Gram matrix of S = 1 is (x x^T) * (gy gy^T), elementwise.

    Args:
        x: inputs, (*R, N, S, P); replica axes may be 1 where all replicas share them.
        gy: output gradients, (*R, N, S, Q).
        bias: whether there is one more input that is 1: Gram matrices are then those of the weights
            and the bias together. Only ``Joined`` asks for it.
        by_unit: whether replica q of the last axis is output unit q of a layer: Q is 1, the units
            share x, and the parameter is the vector of the P inputs. The answer is still one
            product, (w * gy)^T x, and the ingredients of a pullback are the layer's.
    """

    def __init__(self, x: Array, gy: Array, *, bias: bool = False, by_unit: bool = False) -> None:
        self.x = x
        self.gy = gy
        self.replicas = gy.shape[:-3]
        if x.shape[:-3] != self.replicas:
            self.replicas = np.broadcast_shapes(x.shape[:-3], self.replicas)
        self.n_samples, self.n_positions = gy.shape[-3:-1]
        self.shape = x.shape[-1:] if by_unit else (gy.shape[-1], x.shape[-1])
        self.dtype = np.promote_types(x.dtype, gy.dtype)
        self.has_bias = bias
        self.by_unit = by_unit
        self.units_share_inputs = by_unit and x.ndim > 3 and x.shape[-4] == 1

    @property
    def xp(self) -> Any:
        return array_module(self.gy)

    @property
    def factors(self) -> tuple[Array, ...]:
        return self.x, self.gy

    def with_factors(self, *factors: Array) -> OuterProducts:
        return OuterProducts(*factors, bias=self.has_bias, by_unit=self.by_unit)

    def sample_axis(self, factor: Array) -> int:
        return factor.ndim - 3

    @property
    def outer_factors(self) -> tuple[Array, Array] | None:  # type: ignore[override]
        return None if self.by_unit else (self.x, self.gy)

    @property
    def input_and_signal(self) -> tuple[Array, Array] | None:  # type: ignore[override]
        if self.by_unit:
            return None
        return self.x.reshape(*self.x.shape[:-2], -1), self.gy.reshape(*self.gy.shape[:-2], -1)

    def bias(self) -> Dense:
        """The sample gradients of the bias beside the weights: rows sum_s gy[n, s], (*R, N, Q).

        Joined with the weights it costs no Gram matrix of its own.
        """
        rows = self.gy[..., 0, :] if self.n_positions == 1 else self.gy.sum(axis=-2)
        return Dense(rows, self.gy.ndim - 3, self)

    def with_bias(self) -> OuterProducts:
        return OuterProducts(self.x, self.gy, bias=True, by_unit=self.by_unit)

    def weighted_sum(self, weights: Array) -> Array:
        weights = weights.astype(self.compute_dtype, copy=False)
        return self._contract(self.gy * weights[..., None, None])

    def mean(self) -> Array:
        # Scaling the sum costs a pass over Q * P numbers, scaling gy one over N * Q: the smaller is
        # scaled.
        return self._contract(
            self.gy.astype(self.compute_dtype, copy=False) * (1.0 / self.n_samples)
        )

    def total(self) -> Array:
        return self._contract(self.gy.astype(self.compute_dtype, copy=False))

    def gram(self) -> Array:
        if self.n_positions != 1:
            return self._positions_gram(centered=False)
        x, gy = self._matrices()
        return (products(x) + float(self.has_bias)) * products(gy)

    def squared_norms(self) -> Array:
        if self.n_positions == 1:
            inputs = squared_lengths(self.x[..., 0, :])
            return (inputs + float(self.has_bias)) * squared_lengths(self.gy[..., 0, :])
        if self.has_bias:
            weights = OuterProducts(self.x, self.gy, by_unit=self.by_unit)
            return weights.squared_norms() + self.bias().squared_norms()
        q, p = self._matrix
        if self.n_positions * (p + q) > p * q:  # few coordinates: the rows themselves cost less
            return super().squared_norms()
        x, gy = (one.astype(np.float64, copy=False) for one in self.factors)
        return (products(x) * products(gy)).sum(axis=(-1, -2))

    def centered_gram(self) -> Array:
        if self.n_positions != 1:
            return self._positions_gram(centered=True)
        constant = float(self.has_bias)
        if not self.replicas:
            gram = centered_gram(self.x[..., 0, :], self.gy[..., 0, :], constant)
            if gram is not None:
                return gram
        return centered_products(*self._matrices(), constant)

    def rectangles(self, budget: int) -> Iterator[Index]:
        n_outputs, n_inputs = self._matrix
        per_coordinate = max(1, prod(self.replicas) * self.n_samples)
        count = max(1, budget // per_coordinate)
        p_step = min(max(n_inputs, 1), count)
        q_step = max(1, count // p_step)
        for q in range(0, n_outputs, q_step):
            for p in range(0, n_inputs, p_step):
                inputs = slice(p, min(p + p_step, n_inputs))
                yield (inputs,) if self.by_unit else (slice(q, min(q + q_step, n_outputs)), inputs)

    def values(self, index: Index) -> Array:
        outputs, inputs = (slice(0, 1), *index) if self.by_unit else index
        dtype = self.compute_dtype
        gy = self.gy[..., outputs].astype(dtype, copy=False)
        x = self.x[..., inputs].astype(dtype, copy=False)
        if self.n_positions == 1:
            values = gy[..., 0, :, None] * x[..., 0, None, :]
        else:
            values = gy.swapaxes(-1, -2) @ x
        width = values.shape[-2] * values.shape[-1]
        return values.reshape((*self.replicas, self.n_samples, width))

    def _reduce(self, reduction: Reduction, dtype: Any, squares: RowSquares | None) -> Any:
        if self.units_share_inputs and squares is None and not reduction.by_replica:
            return self.as_layer()._reduce(reduction, dtype, squares)
        out = reduction.of_outer_products(*self._computed(), squares)
        if out is None:
            return super()._reduce(reduction, dtype, squares)
        out = out.reshape((*self.replicas, *self.shape))
        return out.astype(dtype or self.dtype, copy=False)

    def reduce_with_bias(
        self, reduction: Reduction, dtype: Any, squares: RowSquares | None
    ) -> tuple[Array, Array] | None:
        """``reduce`` of the weights and of the bias beside them, one more input that is 1: a
        single call of a kernel, where the numbers are few; else None.
        """
        if prod(self.replicas) * self.gy.shape[-1] * self.n_samples * (self.x.shape[-1] + 1) > FEW:
            return None
        (x, gy), xp = self._computed(), self.xp
        x = xp.concatenate([x, xp.ones((*x.shape[:-1], 1), x.dtype)], axis=-1)
        out = reduction.of_outer_products(x, gy, squares)
        if out is None:
            return None
        bias = out[..., -1].astype(dtype or self.gy.dtype)
        return out[..., :-1].astype(dtype or self.dtype), bias

    def combined(self, matrix: Array) -> OuterProducts | None:
        """The samples of a mixed row become its positions, with zeros where a row has fewer of them
        than others. None where that would take many.
        """
        members = members_of(matrix)
        if members is None:
            return None
        index, share = members

        share = np.repeat(share, self.n_positions, axis=1)
        gaps = share == 0.0

        def positions(factor: Array) -> Array:
            rows = np.take(factor, index, axis=-3)
            rows = rows.reshape((*factor.shape[:-3], *share.shape, factor.shape[-1]))
            # What fills up a row is zero in both factors: infinity times zero would be NaN.
            rows[..., gaps, :] = 0
            return rows

        gy = positions(self.gy) * share[..., None].astype(self.compute_dtype, copy=False)
        return self.with_factors(positions(self.x), gy)

    def row_sums(self, rows: RowIndex) -> OuterProducts | None:
        """Rows of one sample are positions; a shorter sample is filled up with zeros."""
        if rows.ragged or self.by_unit:
            return None

        def positions(factor: Array) -> Array:
            axis = self.sample_axis(factor)
            array = rows.padded(factor, axis)
            count = array.shape[axis + 1] * array.shape[axis + 2]
            return array.reshape((*array.shape[: axis + 1], count, factor.shape[-1]))

        return self.with_factors(*[positions(one) for one in self.factors])

    def added_up(self, uses: Sequence[Any]) -> OuterProducts:
        lead = (*self.replicas, self.n_samples)

        def joined(arrays: list[Array]) -> Array:
            full = [self.xp.broadcast_to(one, (*lead, *one.shape[-2:])) for one in arrays]
            return self.xp.concatenate(full, axis=-2)

        return self.with_factors(joined([one.x for one in uses]), joined([one.gy for one in uses]))

    def replica(self, index: tuple[int | slice, ...]) -> OuterProducts:
        def pick(array: Array) -> Array:
            array = array[(None,) * (len(self.replicas) + 3 - array.ndim)]
            # What all replicas share stays shared.
            chosen = tuple(
                (0 if isinstance(entry, int | np.integer) else slice(None))
                if array.shape[axis] == 1 != self.replicas[axis]
                else entry
                for axis, entry in enumerate(index)
            )
            return array[chosen]

        return self.with_factors(pick(self.x), pick(self.gy))

    # -- output units

    def units(self) -> OuterProducts:
        if self.by_unit:
            raise ValueError("OuterProducts: one output unit has no output units of its own")
        x = self.x[(..., None, *(slice(None),) * 3)]
        return OuterProducts(x, self.gy[..., None, :, :, :].swapaxes(-1, -4), by_unit=True)

    def as_layer(self) -> OuterProducts:
        if not self.units_share_inputs:
            return self
        return OuterProducts(self.x[..., 0, :, :, :], _side_by_side(self.gy))

    def finite_rows(self) -> Array:
        # The largest entry of a row at one position is the product of the largest factors, so an
        # overflow is seen too.
        dtype = self.compute_dtype
        with np.errstate(over="ignore", invalid="ignore"):
            largest_x, largest_g = (largest_entry(one).astype(dtype) for one in (self.x, self.gy))
            return self.xp.isfinite((largest_x * largest_g).sum(axis=-1))

    def surely_finite(self) -> Array:
        # No product of factors exceeds the roots of their sums of squares. Each sum is one fast
        # pass. If it overflows, the rows may still be finite: the caller looks.
        (x, gy), vdot = self._computed(), self.xp.vdot
        limit = _root_of_largest(x.dtype)
        return (vdot(x, x) < limit) & (vdot(gy, gy) < limit)

    # -- inside

    def _computed(self) -> tuple[Array, Array]:
        """x and gy in ``compute_dtype``."""
        dtype = self.compute_dtype
        return self.x.astype(dtype, copy=False), self.gy.astype(dtype, copy=False)

    @property
    def _matrix(self) -> tuple[int, int]:
        """Q and P."""
        return self.gy.shape[-1], self.x.shape[-1]

    def _contract(self, gy: Array) -> Array:
        """Sum over samples and positions of gy x^T: (*R, *shape)."""
        x = self.x.astype(gy.dtype, copy=False)
        if self.units_share_inputs:
            x, gy = x[..., 0, :, :, :], _side_by_side(gy)
        count = self.n_samples * self.n_positions  # not -1: a layer may have no inputs
        x = x.reshape((*x.shape[:-3], count, x.shape[-1]))
        gy = gy.reshape((*gy.shape[:-3], count, gy.shape[-1]))
        total = product(gy.swapaxes(-1, -2), x)
        return total.reshape((*self.replicas, *self.shape)).astype(self.dtype, copy=False)

    def _matrices(self) -> tuple[Array, Array]:
        """x (*R, N, P) and gy (*R, N, Q) of a layer with S = 1, in float64."""
        x, gy = self.x[..., 0, :], self.gy[..., 0, :]
        return x.astype(np.float64, copy=False), gy.astype(np.float64, copy=False)

    def _positions_gram(self, *, centered: bool) -> Array:
        """The Gram matrix for S > 1, in the cheaper of two ways.

        Through pairs of positions it takes N^2 S^2 (P + Q) products; through the rows themselves, a
        tile of coordinates at a time, N S P Q + N^2 P Q.
        """
        n, s = self.n_samples, self.n_positions * (2 if centered else 1)
        q, p = self._matrix
        if self.has_bias:
            rows = self.bias()
            weights = OuterProducts(self.x, self.gy)._positions_gram(centered=centered)
            return weights + (rows.centered_gram() if centered else rows.gram())
        if n * s * s * (p + q) > (self.n_positions + n) * p * q:
            return self._gram_of_tiles(centered=centered)
        x, gy = self.x.astype(np.float64, copy=False), self.gy.astype(np.float64, copy=False)
        return gram_of_pairs(x, gy, self.replicas, centered=centered)

    # -- double backward

    def projections(self, direction: Array) -> Array:
        dtype = self.compute_dtype
        matrix = direction.reshape((*self.replicas, *self._matrix))
        matrix = matrix.astype(dtype).swapaxes(-1, -2)[..., None, :, :]
        mapped = self.x.astype(dtype, copy=False) @ matrix
        return (mapped * self.gy).sum(axis=(-1, -2), dtype=np.float64)

    def pullback_weights(
        self, weights: Array, mixing: Array | None, cotangent: Array
    ) -> tuple[Any, ...]:
        if not self.units_share_inputs:
            return self._pull_weights(weights, mixing, cotangent)
        # All units in turn, in chunks: their inputs are shared, so their cotangents of x add up.
        *lead, n_units = self.replicas
        weights = self.xp.broadcast_to(weights, (*self.replicas, self.n_samples))
        cotangent = cotangent.reshape((*self.replicas, *self.shape))
        step = max(1, TILE_BUDGET // max(1, prod(lead) * self.x[..., 0, :].size * self.n_samples))
        d_x, d_gy = 0.0, []
        for start in range(0, n_units, step):
            some = (*(slice(None),) * len(lead), slice(start, min(start + step, n_units)))
            piece = mixing if mixing is None else mixing[some]
            part = self.replica(some)
            some_x, some_gy = part._pull_weights(weights[some], piece, cotangent[some])
            d_x = d_x + some_x[..., 0, :, :, :]
            d_gy.append(_side_by_side(some_gy))
        return d_x, self.xp.concatenate(d_gy, axis=-1)

    def _pull_weights(
        self, weights: Array, mixing: Array | None, cotangent: Array
    ) -> tuple[Any, ...]:
        xp, dtype = self.xp, self.compute_dtype
        x, gy = self._computed()
        matrix = cotangent.reshape((*self.replicas, 1, *self._matrix)).astype(dtype)
        share = weights.astype(dtype)[..., None, None]
        d_gy = (share * x) @ matrix.swapaxes(-1, -2)
        d_x = (share * gy) @ matrix
        if mixing is not None:
            mixing = mixing.astype(dtype)
            d_gy = d_gy + mixed_pairs(mixing, x, gy, self.replicas)
            d_x = d_x + mixed_pairs(mixing, gy, x, self.replicas)
        return _unbroadcast(d_x, x.shape, xp), _unbroadcast(d_gy, gy.shape, xp)

    def pullback_coordinates(self, derivative: Derivative, cotangent: Array) -> tuple[Any, ...]:
        if self.units_share_inputs:
            return self.as_layer().pullback_coordinates(derivative, cotangent)
        xp, dtype = self.xp, self.compute_dtype
        x, gy = self._computed()
        replicas, n = self.replicas, self.n_samples
        matrix = cotangent.reshape((*replicas, *self._matrix)).astype(dtype)
        d_x = xp.zeros((*replicas, *x.shape[-3:]), dtype)
        d_gy = xp.zeros((*replicas, *gy.shape[-3:]), dtype)
        for index, values in self.tiles():
            outputs, inputs = (slice(0, 1), *index) if self.by_unit else index
            piece = matrix[..., outputs, inputs]
            rows = derivative(values) * piece.reshape((*replicas, 1, -1))
            rows = rows.reshape((*replicas, n, *piece.shape[-2:]))
            d_gy[..., outputs] += x[..., inputs] @ rows.swapaxes(-1, -2)
            d_x[..., inputs] += gy[..., outputs] @ rows
        return _unbroadcast(d_x, x.shape, xp), _unbroadcast(d_gy, gy.shape, xp)


def _side_by_side(gy: Array) -> Array:
    """Output gradients (..., U, N, S, 1) of the units of a layer as (..., N, S, U)."""
    return gy.swapaxes(-1, -4)[..., 0, :, :, :]


def _unbroadcast(array: Array, shape: tuple[int, ...], xp: Any) -> Array:
    """Sum over the replica axes that the ingredient shares or lacks."""
    array = xp.broadcast_to(array, np.broadcast_shapes(array.shape, shape))
    extra = array.ndim - len(shape)
    if extra:
        array = array.sum(axis=tuple(range(extra)))
    shared = tuple(axis for axis, size in enumerate(shape) if size == 1 and array.shape[axis] != 1)
    return array.sum(axis=shared, keepdims=True) if shared else array


@cache
def _root_of_largest(dtype: np.dtype) -> np.floating:
    return np.sqrt(np.finfo(dtype).max)
