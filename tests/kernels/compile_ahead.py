"""Compile the kernels once, before two processes of tests would each compile all of them."""

from __future__ import annotations

import logging
import warnings

import numpy as np

import chainrob
from chainrob.sample_gradients import OuterProducts
from tests.robustifiers.cases import CASES


def main() -> None:
    """Call every robustifier on plain rows and on a layer's factors, in both dtypes."""
    logging.getLogger("chainrob.kernels").setLevel(logging.ERROR)
    warnings.simplefilter("ignore", chainrob.ConvergenceWarning)
    rng = np.random.default_rng(0)
    rows, x, gy = rng.normal(size=(9, 5)), rng.normal(size=(9, 1, 4)), rng.normal(size=(9, 1, 3))
    for case in CASES:
        for dtype in (np.float64, np.float32):
            robustifier = case.make(1)
            robustifier(rows.astype(dtype))
            robustifier(OuterProducts(x.astype(dtype), gy.astype(dtype)))


if __name__ == "__main__":
    main()
