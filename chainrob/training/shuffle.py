"""An order of the samples that depends only on a seed, not on other random draws."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chainer.iterators import OrderSampler

__all__ = ["SeededShuffle"]


class SeededShuffle(OrderSampler):
    r"""Shuffle every epoch with a permutation that depends on the seed and the previous epoch.

    .. math::
        \pi_{e+1} = \mathrm{permutation}(\mathrm{seed}, H(\pi_e)), \qquad \pi_0 = (0, 1, \dots)

    H is a hash (SHA-256). Chainer's own shuffling draws from NumPy's global stream. Iterators with
    a background thread or process draw ahead of time, and at a snapshot it is left to chance how
    far ahead they are. The only state of this sampler is the order itself, which every snapshot
    holds. So runs with any iterator can be repeated and resume exactly.

    Args:
        seed: Not negative.

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
