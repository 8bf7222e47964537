"""To which sample each row of a layer belongs."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np

from chainrob.kernels import array_module

Array = Any
"""A NumPy or CuPy array."""

PADDING_LIMIT = 4
"""How many times the rows may grow when every sample is filled up to the size of the largest."""


class RowIndex:
    """To which sample each row belongs.

    Args:
        index: integers (rows,) from 0 to ``n_samples`` - 1, on the host.
        n_samples: N; a sample without rows has a gradient of zero.
    """

    def __init__(self, index: np.ndarray, n_samples: int) -> None:
        self.index = index
        self.n_samples = n_samples

    @cached_property
    def slots(self) -> np.ndarray:
        """The rows of each sample, (N, S) with S of the largest sample; -1 where there is none."""
        order = np.argsort(self.index, kind="stable")
        counts = np.bincount(self.index, minlength=self.n_samples)
        starts = np.cumsum(counts) - counts
        slots = np.full((self.n_samples, self.most), -1)
        within = np.arange(order.size) - np.repeat(starts, counts)
        slots[self.index[order], within] = order
        return slots

    @property
    def most(self) -> int:
        """S, the number of rows of the largest sample."""
        return int(np.bincount(self.index, minlength=1).max())

    @property
    def ragged(self) -> bool:
        """Whether filling up would cost more than it saves."""
        return self.n_samples * self.most > PADDING_LIMIT * max(self.index.size, self.n_samples)

    def padded(self, array: Array, axis: int = 0, fill: Any = 0) -> Array:
        """An array with a row axis as one with a sample axis and a position axis in its place."""
        xp, slots = array_module(array), self.slots
        shape = (*array.shape[:axis], *slots.shape, *array.shape[axis + 1 :])
        if not slots.size or not array.shape[axis]:
            return xp.full(shape, fill, array.dtype)
        out = xp.take(array, xp.asarray(np.maximum(slots, 0).ravel()), axis=axis).reshape(shape)
        missing = slots < 0
        if missing.any():
            out[(*(slice(None),) * axis, xp.asarray(missing))] = fill
        return out

    def sums(self, array: Array, axis: int = 0) -> Array:
        """The sums over the rows of each sample, N in the place of the row axis."""
        xp = array_module(array)
        out = xp.zeros((*array.shape[:axis], self.n_samples, *array.shape[axis + 1 :]), array.dtype)
        if self.index.size:
            order = np.argsort(self.index, kind="stable")
            present, starts = np.unique(self.index[order], return_index=True)
            ordered = xp.take(array, xp.asarray(order), axis=axis)
            lead = (slice(None),) * axis
            out[(*lead, xp.asarray(present))] = xp.add.reduceat(
                ordered, xp.asarray(starts), axis=axis
            )
        return out
