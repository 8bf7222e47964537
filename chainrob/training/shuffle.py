"""An order of the samples that depends on a seed alone, whatever else draws random numbers."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chainer.iterators import OrderSampler

__all__ = ["SeededShuffle"]


class SeededShuffle(OrderSampler):
    r"""Shuffle every epoch by a permutation that follows from the seed and the epoch before.

    .. math::
        \pi_{e+1} = \mathrm{permutation}(\mathrm{seed}, H(\pi_e)), \qquad \pi_0 = (0, 1, \dots)

    with H a hash (SHA-256). Chainer's own shuffling takes numbers from NumPy's global stream, which
    iterators with a background thread or process do ahead of time: how far they got when a snapshot
    is taken is chance. This sampler has no state but the order itself, which is in every snapshot,
    so runs with any iterator are repeatable and resume exactly.

    Args:
        seed (int): Not negative.

    Raises:
        ValueError: The seed is negative.
        TypeError: The seed is not an integer.

    Example:
        >>> import chainrob
        >>> import chainer
        >>> order_sampler = chainrob.training.SeededShuffle(seed=1)
        >>> batches = chainer.iterators.SerialIterator(range(6), 6, order_sampler=order_sampler)
        >>> again = chainer.iterators.SerialIterator(range(6), 6, order_sampler=order_sampler)
        >>> batches.next() == again.next(), sorted(batches.next())
        (True, [0, 1, 2, 3, 4, 5])
    """

    def __init__(self, seed: int) -> None:
        if isinstance(seed, bool) or not isinstance(seed, int | np.integer):
            raise TypeError(f"seed must be an integer, found {seed!r}")
        if seed < 0:
            raise ValueError(f"seed must not be negative, found {seed}")
        self.seed = int(seed)

    def __call__(self, current_order: NDArray[Any], current_position: int) -> NDArray[np.int64]:
        """The order of the next epoch."""
        content = np.ascontiguousarray(current_order, dtype="<i8").tobytes()
        digest = int.from_bytes(hashlib.sha256(content).digest(), "little")
        rng = np.random.default_rng(np.random.SeedSequence([self.seed, digest]))
        return rng.permutation(len(current_order))

    def __repr__(self) -> str:
        return f"SeededShuffle(seed={self.seed})"
