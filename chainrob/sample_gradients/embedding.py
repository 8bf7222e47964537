"""Sample gradients of an embedding matrix: each is zero but for the rows whose ids the sample
holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import numpy as np

from chainrob.kernels import array_module
from chainrob.sample_gradients.operator_base import (
    TILE_BUDGET,
    Array,
    Index,
    Reduction,
    RowSquares,
    SampleGradients,
)
from chainrob.sample_gradients.row_index import RowIndex
from chainrob.sample_gradients.tiled import Tiled

RARE = 4
"""An id is rare where at most one in so many samples holds it."""

FEW = 1 << 18
"""Numbers in all touched rows up to which it costs less to look at all than to count zeros."""


class Entries(NamedTuple):
    """What is not zero: each pair (id, sample) once, ordered by id and then by sample."""

    ids: Array
    """(M,)"""
    samples: Array
    """(M,)"""
    values: Array
    """(M, Q), in compute_dtype"""


class EmbeddingGradients(Tiled):
    """Row n is sum_s e(ids[n, s]) gy[n, s]^T, a (V, Q) matrix, known from N * S * Q numbers.

    Its Gram matrix joins equal ids only, and a coordinate-wise reduction looks at the touched ids
    only: V costs nothing but the zeros of the answer. An output unit is a column of the matrix.

    Args:
        ids: integers (N, S) in [0, V); others are ignored.
        gy: output gradients (N, S, Q).
        n_ids: V.
    """

    sparse: ClassVar[bool] = True
    of_signals = True
    units_come_first: ClassVar[bool] = False

    def __init__(self, ids: Array, gy: Array, n_ids: int) -> None:
        self.ids = ids
        self.gy = gy
        self.n_samples = ids.shape[0]
        self.shape = self.full_shape = (n_ids, gy.shape[-1])
        self.dtype = gy.dtype

    @property
    def xp(self) -> Any:
        return array_module(self.gy)

    @property
    def factors(self) -> tuple[Array, ...]:
        return self.ids, self.gy

    def _made_of(self, *factors: Array) -> EmbeddingGradients:
        ids, gy = factors
        return EmbeddingGradients(ids, gy, self.full_shape[0])

    def row_sums(self, rows: RowIndex) -> EmbeddingGradients | None:
        if rows.ragged:
            return None
        ids = rows.padded(self.ids, fill=-1)
        ids = ids.reshape((rows.n_samples, ids.shape[1] * ids.shape[2]))
        gy = rows.padded(self.gy).reshape((*ids.shape, self.gy.shape[-1]))
        return EmbeddingGradients(ids, gy, self.full_shape[0])

    def added_up(self, uses: Sequence[Any]) -> EmbeddingGradients:
        ids = self.xp.concatenate([one.ids for one in uses], axis=1)
        gy = self.xp.concatenate([one.gy for one in uses], axis=1)
        return EmbeddingGradients(ids, gy, self.full_shape[0])

    @cached_property
    def entries(self) -> Entries:
        xp = self.xp
        ids = self.ids.reshape(-1).astype(np.int64)
        samples = xp.repeat(xp.arange(self.n_samples), self.ids.shape[1])
        values = self.gy.reshape((-1, self.full_shape[1])).astype(self.compute_dtype, copy=False)
        keys = ids * max(self.n_samples, 1) + samples
        order = xp.argsort(keys, kind="stable")
        order = order[((ids >= 0) & (ids < self.full_shape[0]))[order]]
        starts = _starts(keys[order])
        if not starts.size:
            return Entries(ids[:0], samples[:0], values[:0])
        first = order[starts]
        sums = xp.add.reduceat(values[order], starts, axis=0)
        return Entries(ids[first], samples[first], sums)

    def touched(self) -> EmbeddingGradients:
        """The operator of the rows that some sample touched; the others are zero in all samples."""
        return self._of_ids(self.touched_ids)

    def _of_ids(self, rows: Array) -> EmbeddingGradients:
        """The operator of some rows, given in order."""
        xp, entries = self.xp, self.entries
        place = xp.full(self.shape[0] + 1, rows.size, np.int64)  # ignored here as well
        place[rows] = xp.arange(rows.size)
        valid = (self.ids >= 0) & (self.ids < self.shape[0])
        small = EmbeddingGradients(
            place[xp.where(valid, self.ids, self.shape[0])], self.gy, int(rows.size)
        )
        # What is known is handed on: entries are costly to find.
        if rows is not self.touched_ids:
            entries = Entries(*(part[place[entries.ids] < rows.size] for part in entries))
        small.__dict__["entries"] = entries._replace(ids=place[entries.ids])
        return small

    @cached_property
    def touched_ids(self) -> Array:
        """The ids that some sample holds, in order."""
        return self.xp.unique(self.entries.ids)

    def _values(self, index: Index) -> Array:
        rows, columns = index
        found = self._run(rows)
        shape = (self.n_samples, rows.stop - rows.start, columns.stop - columns.start)
        out = self.xp.zeros(shape, self.compute_dtype)
        out[found.samples, found.ids - rows.start] = found.values[:, columns]
        return out.reshape((self.n_samples, -1))

    def _weighted_sum(self, weights: Array) -> Array:
        weights = weights.astype(self.compute_dtype, copy=False)
        entries = self.entries
        return self._gather(entries.values * weights[entries.samples][:, None])

    def squared_norms(self) -> Array:
        if self.unit is not None:
            return super().squared_norms()
        values = self.entries.values.astype(np.float64, copy=False)
        squares = self.xp.einsum("ik,ik->i", values, values)
        return self.xp.bincount(self.entries.samples, squares, minlength=self.n_samples)

    def gram(self) -> Array:
        if self.unit is not None:
            return super().gram()
        n, m = self.n_samples, len(self.entries.ids)
        if m * m > n * n * self.touched().shape[0]:
            return self.touched()._gram_of_tiles(centered=False)
        return self._pairs(self.entries)

    def centered_gram(self) -> Array:
        if self.unit is not None:
            return super().centered_gram()
        # The center is the row of a whole sample. Where it is zero the differences are the rows
        # themselves, and only pairs of equal ids meet; where it is not, all samples differ from it,
        # and these few ids are taken as ordinary rows.
        entries = self.entries
        if not len(entries.ids):
            return self.xp.zeros((self.n_samples, self.n_samples))
        small = self.touched()
        m, touched = len(entries.ids), small.shape[0]
        if m * m > self.n_samples**2 * touched:
            return small._gram_of_tiles(centered=True)
        xp = self.xp
        norms = xp.zeros(self.n_samples)
        largest = xp.abs(entries.values).max(axis=-1).astype(np.float64)
        xp.maximum.at(norms, entries.samples, largest)
        center = int(xp.argsort(norms)[(self.n_samples - 1) // 2])
        common = small.entries.ids[small.entries.samples == center]
        inside = xp.isin(small.entries.ids, common)
        out = self._pairs(Entries(*(part[~inside] for part in small.entries)))
        step = max(1, TILE_BUDGET // max(1, self.n_samples * self.shape[1]))
        for start in range(0, int(common.size), step):
            chosen = common[start : start + step]
            rows = xp.zeros((self.n_samples, int(chosen.size), self.shape[1]))
            here = xp.isin(small.entries.ids, chosen)
            place = xp.searchsorted(chosen, small.entries.ids[here])
            rows[small.entries.samples[here], place] = small.entries.values[here]
            rows = (rows - rows[center]).reshape((self.n_samples, -1))
            out += xp.matmul(rows, rows.T)
        return out

    def _reduce(self, reduction: Reduction, dtype: Any, squares: RowSquares | None) -> Array:
        if self.unit is not None:
            return super()._reduce(reduction, dtype, squares)
        out = self.xp.zeros(self.shape, dtype or self.dtype)
        rows = self.touched_ids
        if rows.size < self.shape[0] and out.size:
            # All the other coordinates are N zeros: they are reduced once for all.
            known = reduction.of_values(self.xp.zeros((self.n_samples, 1), self.compute_dtype))
            if self.xp is not np or known.any():
                out[...] = known
        counted = reduction.mix is None and reduction.among_zeros is not None
        if counted and self.xp is np and out.size:
            rows = self._reduce_rare(reduction, out, squares)
        if rows.size:
            out[rows] = SampleGradients._reduce(self._of_ids(rows), reduction, dtype, squares)
        return out

    def _reduce_rare(
        self, reduction: Reduction, out: np.ndarray, squares: RowSquares | None
    ) -> np.ndarray:
        """Fill in the rows that few samples touched, where the reduction knows a shorter way than
        to look at the zeros of all others; answers with the ids that are left.
        """
        assert reduction.among_zeros is not None
        ids, values, n = self.entries.ids, self.entries.values, self.n_samples
        if not np.isfinite(values).all():  # where it may propagate, it must show
            return self.touched_ids
        ignored, reduce, equivariant = reduction.among_zeros(n)
        starts = _starts(ids)
        users = np.diff(starts, append=len(ids))
        alike = users <= ignored
        if alike.any():
            out[ids[starts[alike]]] = reduction.of_values(np.zeros((n, 1), values.dtype))
            if squares is not None:
                here = np.repeat(alike, users)
                found = squares.of_deviations(values[here]).sum(axis=-1)
                squares.add(0.0, self._by_sample(found, here))
        if reduce is None or n * values.shape[1] * len(starts) <= FEW:
            return ids[starts[~alike]]
        rare = ~alike & (RARE * users <= n)
        of_zeros = np.zeros((len(starts), 2))
        size = 1
        while RARE * size < 2 * n:  # filled up with zeros to a power of two
            chosen = np.flatnonzero(rare & (users <= size) & (2 * users > size))
            step = max(1, TILE_BUDGET // (size * values.shape[1]))
            for start in range(0, chosen.size, step):
                some = chosen[start : start + step]
                place = np.arange(size)[:, None]
                there = place < users[some]
                entries = starts[some] + np.where(there, place, 0)
                tile = np.where(there[..., None], values[entries], values.dtype.type(0))
                tile = tile.reshape((size, -1))
                # A single value among zeros is a multiple of one.
                given = np.ones((1, 1), tile.dtype) if equivariant and size == 1 else tile
                found, weights = reduce(given, n - size, squares is not None)
                if given is not tile:
                    found = tile * found
                out[ids[starts[some]]] = found.reshape((some.size, -1))
                if squares is not None:
                    assert weights is not None
                    let_in, total = _squares_of_rare(squares, tile, weights, n - size, some.size)
                    of_zeros[some] = np.stack([let_in[-1], total[-1]], axis=-1)
                    for_users = (one[:-1][there] for one in (let_in, total))
                    squares.add(*(self._by_sample(one, entries[there]) for one in for_users))
            size *= 2
        if squares is not None:
            self._add_zeros_of_rare(squares, of_zeros[rare], rare, users)
        return ids[starts[~alike & ~rare]]

    def _by_sample(self, numbers: np.ndarray, entries: np.ndarray) -> np.ndarray:
        """Add up numbers of some entries by their samples: (N,)."""
        return np.bincount(self.entries.samples[entries], numbers, minlength=self.n_samples)

    def _add_zeros_of_rare(
        self, squares: RowSquares, of_zeros: np.ndarray, rare: np.ndarray, users: np.ndarray
    ) -> None:
        """Add to every sample's squares those of the rare ids that it does not hold.

        They are added up and not taken off a sum over all ids: that would cost digits.

        Args:
            of_zeros: the part that is let in and all of it, (rare ids, 2).
            rare, users: whether an id is rare and how many samples hold it, of all touched ids.
        """
        held = np.repeat(rare, users)
        samples, place = self.entries.samples[held], np.repeat(np.cumsum(rare) - 1, users)[held]
        step = max(1, TILE_BUDGET // self.n_samples)
        for start in range(0, len(of_zeros), step):
            part = of_zeros[start : start + step]
            absent = np.ones((self.n_samples, len(part)))
            inside = (place >= start) & (place < start + step)
            absent[samples[inside], place[inside] - start] = 0.0
            squares.add(*(absent @ part).T)

    def finite_rows(self) -> Array:
        if self.unit is not None:
            return super().finite_rows()
        entries = self.entries
        bad = ~self.xp.isfinite(entries.values).all(axis=-1)
        out = self.xp.ones(self.n_samples, bool)
        out[entries.samples[bad]] = False
        return out

    # -- output units: the columns

    @property
    def n_units(self) -> int:
        return self.full_shape[1]

    @property
    def unit_shape(self) -> tuple[int, ...]:
        return self.full_shape[:1]

    def _unit_values(self, units: slice, index: Index) -> Array:
        values = self._values((*index, units))
        values = values.reshape((self.n_samples, -1, units.stop - units.start))
        return values.transpose((2, 0, 1))

    def _unit_weighted_sum(self, weights: Array, units: slice) -> Array:
        weights = weights.astype(self.compute_dtype, copy=False).T
        entries = self.entries
        return self._gather(entries.values[:, units] * weights[entries.samples]).T

    def join_units(self, estimate: Array) -> Array:
        return estimate.T

    # -- inside

    def _run(self, rows: slice) -> Entries:
        """The entries of a run of ids."""
        bounds = self.xp.asarray([rows.start, rows.stop])
        start, stop = (int(one) for one in self.xp.searchsorted(self.entries.ids, bounds))
        return Entries(*(part[start:stop] for part in self.entries))

    def _gather(self, values: Array) -> Array:
        """Sum values (M, q) of the entries by id: (V, q), in ``dtype``."""
        out = self.xp.zeros((self.full_shape[0], values.shape[1]), self.dtype)
        starts = _starts(self.entries.ids)
        if starts.size:
            out[self.entries.ids[starts]] = self.xp.add.reduceat(values, starts, axis=0)
        return out

    def _pairs(self, entries: Entries) -> Array:
        """Inner products of all pairs of entries with one id, added up by sample."""
        xp, n = self.xp, self.n_samples
        out = xp.zeros((n, n))
        count = len(entries.ids)
        values = entries.values.astype(np.float64, copy=False)
        step = max(1, TILE_BUDGET // max(1, count))
        for start in range(0, count, step):
            part = slice(start, min(start + step, count))
            # Entries are ordered by id: those that can meet this run are a run themselves.
            ends = xp.searchsorted(entries.ids, entries.ids[[part.start]])[0]
            stop = xp.searchsorted(entries.ids, entries.ids[[part.stop - 1]], side="right")[0]
            others = slice(int(ends), int(stop))
            products = xp.matmul(values[part], values[others].T)
            products = xp.where(entries.ids[part][:, None] == entries.ids[others], products, 0.0)
            i, j = xp.nonzero(products)
            pairs = entries.samples[part][i] * n + entries.samples[others][j]
            out += xp.bincount(pairs, products[i, j], minlength=n * n).reshape((n, n))
        return out


def _squares_of_rare(
    squares: RowSquares, values: np.ndarray, weights: np.ndarray, zeros: int, n_ids: int
) -> tuple[np.ndarray, np.ndarray]:
    """What some values of each of several ids, and last of all a zero, have let in and in all.

    Args:
        squares: gives the unit.
        values: (M, ids * Q).
        weights: of the values and of a zero, (M + 1, ids * Q), or (M + 1, 1).
        zeros: the number of zeros beside the values.
        n_ids: how many ids.

    Returns:
        two arrays (M + 1, ids).
    """
    values = np.concatenate([values, np.zeros((1, values.shape[1]), values.dtype)])
    weights = weights.astype(np.float64, copy=False)
    total = squares.of_tile(values, weights, zeros)
    let_in, total = (one.reshape((len(values), n_ids, -1)) for one in (weights * total, total))
    return let_in.sum(axis=-1), total.sum(axis=-1)


def _starts(keys: Array) -> Array:
    """Where runs of equal sorted keys begin."""
    xp = array_module(keys)
    if not keys.size:
        return xp.zeros(0, np.int64)
    return xp.concatenate([xp.zeros(1, np.int64), xp.flatnonzero(keys[1:] != keys[:-1]) + 1])
