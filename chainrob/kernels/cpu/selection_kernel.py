"""The choice of the smallest of a few keys; see ``robustifiers.selection``.

Measured gain over the array code: 6 to 7 for the scores of 64 to 256 rows, 0.03 ms: a fifth of
Krum at 2 -> 10 with 100 samples, and nothing at 784 -> 1000. For a whole matrix of 256 x 256 it is
0.8.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from chainrob.kernels.cpu.compiling import Kernel
from chainrob.kernels.cpu.vector_operations import ranked


def smallest(keys: np.ndarray, count: int, tie: float) -> np.ndarray:
    """1 for the ``count`` smallest keys along the last axis, 0 for the others; ties share.

    Args:
        keys: array (*R, N), float64.
        count: 1 to N.
        tie: relative difference up to which keys count as equal.
    """
    keys = keys if keys.flags.carray else keys.copy()
    chosen = np.empty(keys.shape)
    n = keys.shape[-1]
    _smallest(keys.reshape(-1, n), count, tie, chosen.reshape(-1, n))
    return chosen


@Kernel
def _smallest(keys: Any, count: int, tie: float, chosen: Any) -> None:
    n = keys.shape[1]
    for replica in range(len(keys)):
        row, out = keys[replica], chosen[replica]
        out[:] = row
        cut = ranked(out, count - 1)
        low, high = cut * (1.0 - tie), cut * (1.0 + tie)
        inside, tied = 0, 0
        for i in range(n):
            inside += row[i] < low
            tied += low <= row[i] <= high
        share = (count - inside) / max(tied, 1)
        for i in range(n):
            if row[i] < low:
                out[i] = 1.0
            else:
                out[i] = share if row[i] <= high else 0.0
