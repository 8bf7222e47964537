"""Seeded splits of a sample into a training and a test part."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Split", "random_split"]


class Split(NamedTuple):
    """The row numbers for training and for testing."""

    train: NDArray[np.int64]
    test: NDArray[np.int64]


def random_split(n: int, n_train: int, seed: int | np.random.SeedSequence) -> Split:
    """Split n rows at random. Every split is equally likely.

    Args:
        n: Number of rows.
        n_train: Number of rows for training, 1 to n - 1. The other n - n_train are for testing.
        seed: The same seed gives the same split.

    Returns:
        Split: ``train`` (n_train,) and ``test`` (n - n_train,), row numbers in random order.

    Raises:
        ValueError: If n_train leaves no training or no test row.

    Example:
        >>> from chainrob.datasets import random_split
        >>> split = random_split(5, 3, seed=1)
        >>> sorted([*split.train.tolist(), *split.test.tolist()])
        [0, 1, 2, 3, 4]
    """
    if not 0 < n_train < n:
        raise ValueError(f"n_train must be between 1 and n - 1 = {n - 1}, found {n_train}")
    order = np.random.default_rng(seed).permutation(n)
    return Split(train=order[:n_train], test=order[n_train:])
