from __future__ import annotations

import numpy as np
import pytest

from chainrob.datasets.contamination import add_leverage_points, choose_rows, shift_responses


@pytest.fixture
def sample():
    rng = np.random.default_rng(0)
    x = rng.normal([5.0, -2.0], [1.0, 30.0], (200, 2))
    return x, x @ [2.0, 0.1]


@pytest.mark.parametrize("direction", ["up", "down", "random"])
@pytest.mark.parametrize("columns", [None, 2])
def test_vertical_outliers_lie_k_deviations_from_where_they_were(sample, direction, columns):
    y = sample[1] if columns is None else np.stack([sample[1], 5 * sample[1]], axis=1)
    before = y.copy()
    shifted = shift_responses(y, 0.1, shift=7, direction=direction, seed=2)
    np.testing.assert_array_equal(y, before)
    assert shifted.rows.tolist() == choose_rows(200, 0.1, seed=2).tolist()
    steps = (shifted.data - y)[shifted.rows] / (7 * y.std(axis=0))
    np.testing.assert_allclose(abs(steps), 1.0)
    expected = {"up": {1}, "down": {-1}, "random": {-1, 1}}[direction]
    assert set(np.sign(steps).ravel()) == expected
    np.testing.assert_array_equal(
        np.delete(shifted.data, shifted.rows, 0), np.delete(y, shifted.rows, 0)
    )


def test_leverage_points_lie_together_far_out_with_the_responses_they_had(sample):
    x, y = sample
    bad = add_leverage_points(x, y, 0.05, distance=12, seed=4)
    standard = (bad.x - x.mean(axis=0)) / x.std(axis=0)
    np.testing.assert_allclose(np.linalg.norm(standard[bad.rows], axis=1), 12)
    np.testing.assert_allclose(np.ptp(bad.x[bad.rows], axis=0), 0)
    np.testing.assert_array_equal(bad.y, y)
    assert np.flatnonzero((bad.x != x).any(axis=1)).tolist() == bad.rows.tolist()


def test_leverage_points_carry_least_squares_away(sample):
    x, y = sample
    bad = add_leverage_points(x, y, 0.05, distance=50, seed=4)
    clean = np.linalg.lstsq(np.c_[np.ones(200), x], y, rcond=None)[0]
    carried = np.linalg.lstsq(np.c_[np.ones(200), bad.x], bad.y, rcond=None)[0]
    np.testing.assert_allclose(clean, [0, 2, 0.1], atol=1e-10)
    # Least squares pays for 10 points; without them it has the exact line.
    assert abs(bad.x @ carried[1:] + carried[0] - y).mean() > 1
    assert abs(carried[1] - 2) > 0.5


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: shift_responses([1.0], 0.5, shift=0, seed=0), "shift must be positive"),
        (lambda: shift_responses([1.0], 0.5, direction="left", seed=0), "direction must be"),
        (lambda: shift_responses([], 0.5, seed=0), "not be empty"),
        (lambda: add_leverage_points([1.0], [1.0], 0.5, seed=0), "x must have 2 axes"),
        (
            lambda: add_leverage_points([[1.0]], [1.0, 2.0], 0.5, seed=0),
            "same number of rows, found 1 and 2",
        ),
        (
            lambda: add_leverage_points([[1.0]], [1.0], 0.5, distance=-1, seed=0),
            "distance must be positive",
        ),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()
