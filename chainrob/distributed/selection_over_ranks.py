"""Order statistics of values that are distributed over ranks. No value is sent."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from chainrob.distributed.ranks import Ranks
from chainrob.kernels import array_module
from chainrob.sample_gradients.operator_base import Array

__all__ = ["largest", "order_statistics"]


def order_statistics(values: Array, ks: Sequence[int], total: int, ranks: Ranks) -> list[Array]:
    r"""The k-th smallest values (k from 0) along the sample axis, over all MPI ranks, exactly.

    The bits of floating-point numbers can be read as integers in the same order. The method is a
    bisection on these integers:

    .. math:: x_{(k)} = \min\{m : \#\{i : x_i \le m\} > k\}

    Every round adds up one count per coordinate over the ranks. A coordinate is finished when its
    bracket holds a single value. So about 10 to 30 rounds are needed, and never more than there are
    bits. Zero is tried first, because after a ReLU it is by far the most frequent value.

    Args:
        values: This rank's values (*R, n, d), float32 or float64.
        ks: The wanted k, each below ``total``.
        total: Number of samples on all ranks.
        ranks: The MPI ranks.

    Returns:
        One array (*R, d) for each k; NaN if any value of the coordinate is NaN.
    """
    xp = array_module(values)
    dtype = values.dtype
    lead, extent = values.shape[:-2], values.shape[-1]
    keys = xp.moveaxis(_ordered(values), -2, 0)
    keys = keys.reshape((values.shape[-2], prod(lead) * extent))
    low, high = _range(keys, ranks)
    infinite = [int(_ordered(np.array([sign * np.inf], dtype))[0]) for sign in (-1, 1)]
    bad = (low < infinite[0]) | (high > infinite[1])
    bracket = _Bracket(keys, low, high, ks, total)
    bracket.close(ranks)
    found = bracket.answer(ranks)
    out = []
    for key in found:
        value = _floating(key, dtype)
        value[bad] = np.nan
        out.append(value.reshape((*lead, extent)))
    return out


def largest(values: Array, ranks: Ranks) -> Array:
    """The largest value (*R, d) of every coordinate over all ranks, or NaN if any is NaN."""
    xp = array_module(values)
    lowest = np.iinfo(_integer(values.dtype)).min
    keys = xp.where(xp.isnan(values), ~_integer(values.dtype).type(lowest), _ordered(values))
    return _floating(ranks.allreduce(keys.max(axis=-2, initial=lowest), "max"), values.dtype)


class _Bracket:
    """For each k and column, an interval of keys [low, high] that contains the answer."""

    def __init__(self, keys: Array, low: Array, high: Array, ks: Sequence[int], total: int) -> None:
        self.xp = array_module(keys)
        self.keys = keys
        self.low = self.xp.stack([low] * len(ks))
        self.high = self.xp.stack([high] * len(ks))
        self.k = self.xp.asarray(np.asarray(ks)[:, None])
        # The numbers of keys below low, and of keys up to high.
        self.below = self.xp.zeros(self.low.shape, np.int64)
        self.up_to = self.xp.full(self.low.shape, total, np.int64)
        self.count_type = np.int16 if total < 2**15 else np.int32 if total < 2**31 else np.int64

    def close(self, ranks: Ranks) -> None:
        xp = self.xp
        keys, columns = self.keys, xp.arange(self.keys.shape[1])
        probes = [-1, 0]
        while True:
            open_ = (self.low < self.high) & (self.up_to - self.below > 1)
            active = xp.flatnonzero(open_.any(axis=0))
            if not active.size:
                return
            if 2 * active.size <= columns.size:
                keys, columns = self.keys[:, active], active
            low, high = self.low[:, columns], self.high[:, columns]
            middle = (low & high) + ((low ^ high) >> 1)  # the mean without overflow
            if probes:
                probe = probes.pop()
                middle = xp.where((low <= probe) & (probe < high), probe, middle)
            mine = xp.stack([(keys <= one).sum(axis=0, dtype=self.count_type) for one in middle])
            count = ranks.allreduce(mine).astype(np.int64)
            above, moving = count <= self.k, open_[:, columns]
            up, down = above & moving, ~above & moving
            self.low[:, columns] = xp.where(up, middle + 1, low)
            self.high[:, columns] = xp.where(down, middle, high)
            self.below[:, columns] = xp.where(up, count, self.below[:, columns])
            self.up_to[:, columns] = xp.where(down, count, self.up_to[:, columns])

    def answer(self, ranks: Ranks) -> Array:
        """The largest key of each bracket: (K, columns)."""
        lowest = np.iinfo(self.keys.dtype).min
        mine = self.xp.stack(
            [
                self.xp.where(self.keys <= high, self.keys, lowest).max(axis=0, initial=lowest)
                for high in self.high
            ]
        )
        return ranks.allreduce(mine, "max")


def _range(keys: Array, ranks: Ranks) -> tuple[Array, Array]:
    """Smallest and largest key of every column over all ranks, in one message."""
    lowest = np.iinfo(keys.dtype).min
    ends = [(~keys).max(axis=0, initial=lowest), keys.max(axis=0, initial=lowest)]
    both = ranks.allreduce(array_module(keys).stack(ends), "max")
    return ~both[0], both[1]


def _integer(dtype: np.dtype) -> np.dtype:
    return np.dtype(np.int32 if dtype == np.float32 else np.int64)


def _ordered(values: Array) -> Array:
    """Integers in the order of the floating point numbers (-0 just before 0)."""
    integer = _integer(values.dtype)
    bits = array_module(values).ascontiguousarray(values).view(integer)
    return bits ^ ((bits >> (8 * integer.itemsize - 1)) & np.iinfo(integer).max)


def _floating(keys: Array, dtype: np.dtype) -> Array:
    """The floating point numbers of ordered integers. The transformation is its own inverse."""
    integer = keys.dtype
    bits = keys ^ ((keys >> (8 * integer.itemsize - 1)) & np.iinfo(integer).max)
    return array_module(keys).ascontiguousarray(bits).view(dtype)
