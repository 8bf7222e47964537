"""The time that a robustifier takes."""

from __future__ import annotations

import time
from statistics import median
from typing import Any

import numpy as np

from chainrob.robustifiers import Mean
from chainrob.sample_gradients import OuterProducts

__all__ = ["cost"]


def cost(
    robustifier: Any, *, n: int = 256, shape: tuple[int, int] = (128, 128), repeats: int = 7
) -> float:
    """Time of an estimate for one Linear layer, as a multiple of the plain mean's.

    Mean and robustifier are timed in turns, and the medians are compared. So other load on the
    machine affects both.

    Args:
        robustifier: The robustifier to time.
        n: Samples in the batch.
        shape: Outputs and inputs of the layer.
        repeats: Number of timings of each, after one warm-up.

    Returns:
        float: The ratio; it depends on the machine.

    Example:
        >>> import chainrob
        >>> from chainrob.characteristics import cost
        >>> cost(chainrob.CoordinateMedian(), n=32, shape=(8, 8), repeats=3) > 0
        True
    """
    rng = np.random.default_rng(0)
    gy, x = (rng.standard_normal((n, size)).astype(np.float32) for size in shape)
    rows = OuterProducts(x[:, None], gy[:, None])
    times: dict[Any, list[float]] = {0: [], 1: []}
    for _ in range(repeats + 1):
        for key, one in enumerate((Mean(), robustifier)):
            start = time.perf_counter()
            one(rows)
            times[key].append(time.perf_counter() - start)
    return median(times[1][1:]) / median(times[0][1:])
