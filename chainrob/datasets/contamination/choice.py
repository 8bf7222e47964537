"""Which rows are corrupted: a seeded choice that every contamination shares."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["choose_rows"]


def choose_rows(n: int, share: float, seed: int | np.random.SeedSequence) -> NDArray[np.int64]:
    """Choose round(share * n) of n rows at random, without repetition.

    The choices for one seed are nested: a larger share corrupts the same rows and some more, so
    results for several shares differ only by the share.

    Args:
        n: Number of rows.
        share: Share of rows to corrupt, 0 to 1.
        seed: The same seed gives the same rows.

    Returns:
        array: Row numbers, sorted; shape (round(share * n),), halves rounding up.

    Raises:
        ValueError: If share is not in [0, 1] or n is negative.

    Example:
        >>> from chainrob.datasets.contamination import choose_rows
        >>> choose_rows(100, 0.02, seed=0).shape
        (2,)
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share must be between 0 and 1, found {share}")
    if n < 0:
        raise ValueError(f"n must not be negative, found {n}")
    # Slightly more than one half, so that 0.145 * 100 counts as 14.5 despite its rounding error.
    count = min(n, int(np.floor(share * n + 0.5 + 1e-9)))
    return np.sort(np.random.default_rng(seed).permutation(n)[:count])
