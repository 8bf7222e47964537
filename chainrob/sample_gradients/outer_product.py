"""Sample gradients of a weight matrix: each the sum over positions s of an outer product gy_ns
x_ns^T.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache, lru_cache
from math import prod
from typing import Any

import numpy as np

from chainrob.kernels import array_module, centered_gram
from chainrob.kernels import fused as compiled
from chainrob.sample_gradients.base import (
    TILE_BUDGET,
    Array,
    Fused,
    Index,
    SampleGradients,
    central_row,
)
from chainrob.sample_gradients.dense import Dense

TRUST = 1e-6
"""Share of the mean square below which a variance found as a difference is found otherwise."""


class OuterProducts(SampleGradients):
    """Row n is sum_s gy[n, s] x[n, s]^T, a (Q, P) matrix, known from N * S * (Q + P) numbers.

    A Linear layer has S = 1; further batch axes, the pixels of a convolution and the steps of a
    recurrent layer make S larger. The Gram matrix of S = 1 is (x x^T) * (gy gy^T), elementwise.

    Args:
        x: inputs, (*R, N, S, P); replica axes may be 1 where all replicas share them.
        gy: output gradients, (*R, N, S, Q).
    """

    def __init__(self, x: Array, gy: Array) -> None:
        self.x = x
        self.gy = gy
        self.replicas = gy.shape[:-3]
        if x.shape[:-3] != self.replicas:
            self.replicas = np.broadcast_shapes(x.shape[:-3], self.replicas)
        self.n_samples, self.n_positions = gy.shape[-3:-1]
        self.shape = (gy.shape[-1], x.shape[-1])
        self.dtype = np.promote_types(x.dtype, gy.dtype)

        self._bias: Dense | None = None

    @property
    def xp(self) -> Any:
        return array_module(self.gy)

    def bias(self) -> Dense:
        """The sample gradients of the bias beside the weights: rows sum_s gy[n, s], (*R, N, Q).

        Joined with the weights it costs no Gram matrix of its own.
        """
        rows = self.gy[..., 0, :] if self.n_positions == 1 else self.gy.sum(axis=-2)
        self._bias = Dense(rows, self.gy.ndim - 3)
        return self._bias

    def weighted_sum(self, weights: Array) -> Array:
        dtype = self.compute_dtype
        scaled = self.gy * weights.astype(dtype, copy=False)[..., None, None]
        return self._contract(scaled).astype(self.dtype, copy=False)

    def mean(self) -> Array:
        # Scaling the sum costs a pass over Q * P numbers, scaling gy one over N * Q: the smaller is
        # scaled.
        scaled = self.gy.astype(self.compute_dtype, copy=False) * (1.0 / self.n_samples)
        return self._contract(scaled).astype(self.dtype, copy=False)

    def gram(self) -> Array:
        if self.n_positions == 1:
            x, gy = self._matrices()
            return _products(x) * _products(gy)
        return self._positions_gram(centered=False)

    def squared_norms(self) -> Array:
        if self.n_positions != 1:
            return super().squared_norms()
        x, gy = self._matrices()
        return (x * x).sum(axis=-1) * (gy * gy).sum(axis=-1)

    def moments(self, ddof: int = 0) -> tuple[Array, Array]:
        """As ``SampleGradients.moments``, by two matrix products in float64 where S = 1; tile by
        tile if a variance lost its digits to a large mean.
        """
        if self.n_positions != 1:
            return super().moments(ddof)
        x, gy = self._matrices()
        xp, n = self.xp, self.n_samples
        with np.errstate(over="ignore", invalid="ignore"):
            mean = xp.matmul(gy.swapaxes(-1, -2), x) / n
            second = xp.matmul((gy * gy).swapaxes(-1, -2), x * x) / n
            variance = second - mean * mean
        if bool(((variance > TRUST * second) | (second == 0.0)).all()):
            dtype, share = self.compute_dtype, n / max(n - ddof, 1)
            return mean.astype(dtype, copy=False), (variance * share).astype(dtype, copy=False)
        return super().moments(ddof)

    def centered_gram(self) -> Array:
        if self.n_positions != 1:
            return self._positions_gram(centered=True)
        return self._centered_gram(0.0)

    def owns(self, bias: SampleGradients) -> bool:
        """Whether that is the ``bias`` of these weights."""
        return bias is self._bias

    def joint_gram(self, bias: SampleGradients, *, centered: bool) -> Array | None:
        """The Gram matrix of the weights and their bias together; None if it is not their ``bias``.

        The bias is the weight of one more input that is 1 throughout.
        """
        if bias is not self._bias or self.n_positions != 1:
            return None
        if centered:
            return self._centered_gram(1.0)
        x, gy = self._matrices()
        return (_products(x) + 1.0) * _products(gy)

    def _centered_gram(self, constant: float) -> Array:
        """The centred Gram matrix for S = 1, with one more input of the square ``constant``."""
        if not self.replicas:
            gram = centered_gram(self.x[..., 0, :], self.gy[..., 0, :], constant)
            if gram is not None:
                return gram
        # With x = xc + dx and gy = gc + dg, the centred row is dg x^T + gc dx^T: its Gram matrix
        # comes from the two Gram matrices of the differences, so that what the rows have in common
        # never meets their differences.
        x, gy = self._matrices()
        xc, gc = central_row(x), central_row(gy)
        dx, dg = x - xc, gy - gc
        along_x = _inner(dx, xc)
        along_g = _inner(dg, gc)
        dx_dx = _products(dx)
        x_dx = dx_dx + along_x[..., None, :]
        x_x = x_dx + (along_x + (_inner(xc, xc) + constant))[..., :, None]
        cross = along_g[..., :, None] * x_dx
        norm = _inner(gc, gc)[..., None]
        return _products(dg) * x_x + cross + cross.swapaxes(-1, -2) + norm * dx_dx

    def tiles(self, budget: int | None = None) -> Iterator[tuple[Index, Array]]:
        n_outputs, n_inputs = self.shape
        per_coordinate = max(1, prod(self.replicas) * self.n_samples)
        count = max(1, (budget or TILE_BUDGET) // per_coordinate)
        p_step = min(max(n_inputs, 1), count)
        q_step = max(1, count // p_step)
        for q in range(0, n_outputs, q_step):
            for p in range(0, n_inputs, p_step):
                index = (slice(q, min(q + q_step, n_outputs)), slice(p, min(p + p_step, n_inputs)))
                yield index, self._values(*index)

    def reduce(self, reduction: Any, dtype: Any = None, fused: Fused | None = None) -> Any:
        if fused is not None:
            factors = (one.astype(self.compute_dtype, copy=False) for one in (self.x, self.gy))
            out = compiled(*fused, *factors)
            if out is not None:
                out = out.reshape((*self.replicas, *self.shape))
                return out.astype(dtype or self.dtype, copy=False)
        return super().reduce(reduction, dtype, fused)

    def grouped(self, n_blocks: int) -> OuterProducts:
        """The means of blocks as outer products: the samples of a block become its positions, with
        zeros where a block is one sample short. For S = 1.
        """
        index, share = map(self.xp.asarray, _blocks(self.n_samples, n_blocks))
        x, gy = self.x[..., 0, :], self.gy[..., 0, :]
        # What pads a block is zero in both factors: infinity times zero would be NaN.
        x = self.xp.where(share[..., None] > 0, self.xp.take(x, index, axis=-2), x.dtype.type(0))
        share = share.astype(self.compute_dtype, copy=False)[..., None]
        return OuterProducts(x, self.xp.take(gy, index, axis=-2) * share)

    def take(self, rows: Array) -> OuterProducts:
        take = self.xp.take
        return OuterProducts(take(self.x, rows, axis=-3), take(self.gy, rows, axis=-3))

    def replica(self, index: tuple[int | slice, ...]) -> OuterProducts:
        def pick(array: Array) -> Array:
            full = self.xp.broadcast_to(array, (*self.replicas, *array.shape[-3:]))
            return full[index]

        return OuterProducts(pick(self.x), pick(self.gy))

    def units(self) -> SampleGradients:
        from chainrob.sample_gradients.output_units import OutputUnits  # a view of this class

        return OutputUnits(self)

    def finite_rows(self) -> Array:
        # The largest entry of a row at one position is the product of the largest factors, so an
        # overflow is seen too.
        dtype = self.compute_dtype
        with np.errstate(over="ignore", invalid="ignore"):
            largest_x, largest_g = (_largest(one).astype(dtype) for one in (self.x, self.gy))
            return self.xp.isfinite((largest_x * largest_g).sum(axis=-1))

    def surely_finite(self) -> Array:
        # No product of factors exceeds the roots of their sums of squares, which are one fast pass
        # each; their overflow is a doubt only.
        dtype, vdot = self.compute_dtype, self.xp.vdot
        x, gy = self.x.astype(dtype, copy=False), self.gy.astype(dtype, copy=False)
        limit = _root_of_largest(dtype)
        return (vdot(x, x) < limit) & (vdot(gy, gy) < limit)

    # -- inside

    def _contract(self, gy: Array) -> Array:
        """Sum over samples and positions of gy x^T: (*R, Q, P)."""
        x = self.x.astype(gy.dtype, copy=False)
        count = self.n_samples * self.n_positions  # not -1: a layer may have no inputs
        x = x.reshape((*x.shape[:-3], count, x.shape[-1]))
        gy = gy.reshape((*gy.shape[:-3], count, gy.shape[-1]))
        return self.xp.matmul(gy.swapaxes(-1, -2), x)

    def _matrices(self) -> tuple[Array, Array]:
        """x (*R, N, P) and gy (*R, N, Q) of a layer with S = 1, in float64."""
        x, gy = self.x[..., 0, :], self.gy[..., 0, :]
        return x.astype(np.float64, copy=False), gy.astype(np.float64, copy=False)

    def _values(self, outputs: slice, inputs: slice) -> Array:
        """All rows at a rectangle of coordinates: (*R, N, q * p)."""
        dtype = self.compute_dtype
        gy = self.gy[..., outputs].astype(dtype, copy=False)
        x = self.x[..., inputs].astype(dtype, copy=False)
        if self.n_positions == 1:
            values = gy[..., 0, :, None] * x[..., 0, None, :]
        else:
            values = self.xp.matmul(gy.swapaxes(-1, -2), x)
        return values.reshape((*self.replicas, self.n_samples, -1))

    def _positions_gram(self, *, centered: bool) -> Array:
        """The Gram matrix for S > 1, in the cheaper of two ways.

        Through pairs of positions it takes N^2 S^2 (P + Q) products; through the rows themselves, a
        tile of coordinates at a time, N S P Q + N^2 P Q.
        """
        n, s = self.n_samples, self.n_positions * (2 if centered else 1)
        q, p = self.shape
        if n * s * s * (p + q) > (self.n_positions + n) * p * q:
            return self._tiled_gram(centered=centered)
        x, gy = self.x.astype(np.float64, copy=False), self.gy.astype(np.float64, copy=False)
        if centered:
            xc, gc = _central_sample(x), _central_sample(gy)
            gc = self.xp.broadcast_to(gc, gy.shape)
            x = self.xp.concatenate([x, x - xc], axis=-2)
            gy = self.xp.concatenate([gy - gc, gc], axis=-2)
        out = self.xp.empty((*self.replicas, n, n), np.float64)
        step = max(1, TILE_BUDGET // max(1, prod(self.replicas) * n * s * s))
        xt = x.reshape((*x.shape[:-3], n * s, p)).swapaxes(-1, -2)
        gt = gy.reshape((*gy.shape[:-3], n * s, q)).swapaxes(-1, -2)
        for start in range(0, n, step):
            stop = min(start + step, n)
            left_x = x[..., start:stop, :, :].reshape((*x.shape[:-3], -1, p))
            left_g = gy[..., start:stop, :, :].reshape((*gy.shape[:-3], -1, q))
            pairs = self.xp.matmul(left_x, xt) * self.xp.matmul(left_g, gt)
            out[..., start:stop, :] = pairs.reshape((*self.replicas, stop - start, s, n, s)).sum(
                axis=(-3, -1)
            )
        return out

    def _tiled_gram(self, *, centered: bool) -> Array:
        out = self.xp.zeros((*self.replicas, self.n_samples, self.n_samples), np.float64)
        for _, values in self.tiles():
            rows = values.astype(np.float64, copy=False)
            out += _products(rows - central_row(rows) if centered else rows)
        return out


@lru_cache(maxsize=32)
def _blocks(n_samples: int, n_blocks: int) -> tuple[np.ndarray, np.ndarray]:
    """The samples of every block, and their shares in its mean: 0 for what pads a block."""
    edges = (np.arange(n_blocks + 1) * n_samples) // n_blocks
    counts = np.diff(edges)
    index = np.minimum(edges[:-1, None] + np.arange(counts.max()), n_samples - 1)
    inside = np.arange(counts.max()) < counts[:, None]
    return index, inside / counts[:, None]


@cache
def _root_of_largest(dtype: np.dtype) -> np.floating:
    return np.sqrt(np.finfo(dtype).max)


def _largest(array: Array) -> Array:
    """The largest absolute value along the last axis; 0 where it is empty."""
    xp = array_module(array)
    return xp.abs(array).max(axis=-1) if array.shape[-1] else xp.zeros(array.shape[:-1])


def _products(rows: Array) -> Array:
    return array_module(rows).matmul(rows, rows.swapaxes(-1, -2))


def _inner(rows: Array, row: Array) -> Array:
    """Inner products of (*R, N, K) rows with one (*R, 1, K): (*R, N)."""
    return array_module(rows).matmul(rows, row.swapaxes(-1, -2))[..., 0]


def _central_sample(array: Array) -> Array:
    """As ``central_row``, for samples (*R, N, S, K): the whole sample (*R, 1, S, K)."""
    flat = array.reshape((*array.shape[:-2], -1))
    return central_row(flat).reshape((*array.shape[:-3], 1, *array.shape[-2:]))
