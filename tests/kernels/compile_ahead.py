"""Compile the kernels once, before two processes of tests would each compile all of them.

Two processes share the work: what one estimator needs is compiled by one of them.
"""

from __future__ import annotations

import itertools
import logging
import multiprocessing
import warnings

import numpy as np

import chainrob
from chainrob.robustifiers import CoordinateWise
from chainrob.sample_gradients import Dense, OuterProducts
from tests.robustifiers.cases import CASES

SHAPES = [(9, 4, 3), (64, 66, 64)]
"""N, P and Q of layers: a small one, and one for which another form pays off."""

WEIGHTING = "weighting"


def family(robustifier: chainrob.Robustifier) -> str:
    """What has kernels of its own: a coordinate-wise estimator, or all weighting ones together."""
    return type(robustifier).__name__ if isinstance(robustifier, CoordinateWise) else WEIGHTING


def compile_family(name: str) -> None:
    """Compile for both dtypes; estimates that somebody watches have kernels of their own."""
    logging.getLogger("chainrob.kernels").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    for dtype, watched in itertools.product((np.float64, np.float32), (False, True)):
        call_family(name, dtype, watched)


def call_family(name: str, dtype: type, watched: bool) -> None:
    """Call the robustifiers of a family on rows and on layers, small, large and near overflow."""
    rng = np.random.default_rng(0)
    operators = [Dense(rng.normal(size=(9, 5)).astype(dtype))]
    for n, p, q in SHAPES:
        x, gy = rng.normal(size=(n, 1, p)).astype(dtype), rng.normal(size=(n, 1, q)).astype(dtype)
        operators.append(OuterProducts(x, gy))
    operators.append(OuterProducts(np.ones_like(x), np.full_like(gy, np.finfo(dtype).max / 4)))
    for case in CASES:
        robustifier = case.make(1)
        if family(robustifier) == name:
            for operator in operators:
                # The others try all subsets.
                if operator.n_samples < 10 or case.most > 9:
                    robustifier.estimate(operator, watch=watched)


def main() -> None:
    """Two processes take the families in turn, the longest ones first.

    A family is one job, as its four ways share kernels; those of the median are the weighting
    ones' too, so it comes last.
    """
    families = {family(case.make(1)) for case in CASES}
    first, last = [WEIGHTING, "SoftTruncation", "MEstimator"], ["CoordinateMedian"]
    families = [*first, *sorted(families - {*first, *last}), *last]
    # Not forked: Numba has threads, and so have libraries of linear algebra.
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        pool.map(compile_family, families, chunksize=1)


if __name__ == "__main__":
    main()
