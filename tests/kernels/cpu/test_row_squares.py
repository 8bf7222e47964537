"""The rows' squares that column kernels add up, against the array code that defines them."""

from functools import partial

import numpy as np
import pytest

import chainrob
from chainrob import kernels
from chainrob.kernels.cpu.row_squares import watched_pieces
from chainrob.sample_gradients import OuterProducts
from chainrob.sample_gradients.reduction import RowSquares

ROBUSTIFIERS = [
    chainrob.SoftTruncation(0.1),
    chainrob.SoftTruncation(0.1, pilot="median"),
    chainrob.SoftTruncation(min_variance=0.5),
    chainrob.TrimmedMean(0.2),
    chainrob.TrimmedMean(count=0),
    chainrob.WinsorizedMean(0.2),
    chainrob.CoordinateMedian(),
    chainrob.MeanAroundMedian(f=4),
    chainrob.Phocas(f=4),
    chainrob.MEstimator(pilot="median"),
    chainrob.MEstimator("catoni"),
    chainrob.MEstimator("pseudo_huber", scale=0.7),
]


def plain(x, gy, rng):
    return x, gy


def ties(x, gy, rng):
    return np.maximum(x, 0), gy * (rng.random(gy.shape) < 0.5)


def outliers(x, gy, rng):
    gy[:3] *= 1e4
    return x, gy


def one_huge(x, gy, rng):
    gy[0] *= 1e15
    return x, gy


def far_from_zero(x, gy, rng):
    return x + 30, gy + 30


def all_but_one_equal(x, gy, rng):
    x[:], gy[:] = x[0], gy[0]
    x[3] *= 7
    return x, gy


def sized(exponent, x, gy, rng):
    return (x * 10.0**exponent).astype(x.dtype), (gy * 10.0**exponent).astype(x.dtype)


def zero(x, gy, rng):
    return 0 * x, gy


DATA = {
    "plain": plain,
    "ties": ties,
    "outliers": outliers,
    "one_huge": one_huge,
    "far_from_zero": far_from_zero,
    "all_but_one_equal": all_but_one_equal,
    "tiny": partial(sized, -18),
    "large": partial(sized, 18),
    "zero": zero,
}


def factors(n, p, q, dtype, kind):
    rng = np.random.default_rng(n + p)
    x, gy = rng.normal(size=(n, p)).astype(dtype), rng.normal(size=(n, q)).astype(dtype)
    x, gy = DATA[kind](x, gy, rng)
    return x[:, None], gy[:, None]


@pytest.mark.parametrize("kind", DATA)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("robustifier", ROBUSTIFIERS, ids=repr)
def test_squares_are_those_of_the_definition(robustifier, dtype, kind):
    # The last is large enough for the moments of soft truncation.
    for n, p, q in ((17, 5, 40), (40, 33, 18), (150, 60, 40)):
        x, gy = factors(n, p, q, dtype, kind)
        rows = OuterProducts(x, gy)
        found, expected = RowSquares.of(rows), RowSquares.of(rows)
        estimate = kernels.fused(*robustifier.fused(n), x, gy, found)
        if estimate is None:
            assert not found.total.any()
            continue
        np.testing.assert_array_equal(estimate, kernels.fused(*robustifier.fused(n), x, gy))
        for _, values in rows.tiles():
            expected.add_tile(values, robustifier.coordinate_weights(values))
        tolerance = 2e-5 if dtype == np.float32 else 1e-9
        np.testing.assert_allclose(found.weights(), expected.weights(), rtol=0, atol=tolerance)


def test_positions_and_replicas():
    rng = np.random.default_rng(0)
    x, gy = rng.normal(size=(1, 30, 3, 20)), rng.normal(size=(4, 30, 3, 6))
    for robustifier in ROBUSTIFIERS[:9]:
        found = RowSquares.of(OuterProducts(x, gy))
        kernels.fused(*robustifier.fused(30), x, gy, found)
        for t in range(4):
            one = OuterProducts(x[0], gy[t])
            expected = RowSquares.of(one)
            for _, values in one.tiles():
                expected.add_tile(values, robustifier.coordinate_weights(values))
            np.testing.assert_allclose(found.weights()[t], expected.weights(), atol=1e-9)


def test_sums_of_pieces_do_not_depend_on_who_works_on_them():
    seen = []

    def work(start, stop, sums):
        seen.append((start, stop))
        sums += np.arange(start, stop).sum()

    sums = watched_pieces(work, 3, 1000, 2, 10)
    assert sums.shape == (2, 3, 2)
    np.testing.assert_array_equal(
        sums[0, :, 0], [np.arange(1000).sum() + t * 10**6 for t in range(3)]
    )
    assert len(seen) == 3 * 63  # no more than MOST_PIECES a replica


@pytest.mark.parametrize("robustifier", ROBUSTIFIERS, ids=repr)
def test_watching_changes_no_estimate(robustifier):
    x, gy = factors(40, 33, 18, np.float32, "outliers")
    rows = OuterProducts(x, gy)
    value, weights = robustifier.estimate(rows, watch=True)
    np.testing.assert_array_equal(value, robustifier(rows))
    np.testing.assert_array_equal(weights, robustifier.sample_weights(rows))
    assert robustifier.estimate(rows).weights is None
