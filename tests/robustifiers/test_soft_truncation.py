"""Soft truncation by its definition in array code, at sizes where squares or sums leave the
floats.
"""

from fractions import Fraction

import numpy as np
import pytest

import chainrob as C
from tests.oracles import estimators as oracle

PILOTS = ("mean", "median")
ROWS = np.random.default_rng(0).standard_t(2, size=(9, 6))


def limit(dtype):
    return float(np.finfo(dtype).max)


@pytest.mark.parametrize("pilot", PILOTS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("min_variance", [1e300, 1.7e308])
@pytest.mark.parametrize("size", [1e-30, 1.0, 1e30])
def test_a_floor_beyond_all_deviations_leaves_the_plain_mean(pilot, dtype, min_variance, size):
    rows = (ROWS * size).astype(dtype)
    robust = C.SoftTruncation(min_variance=min_variance, pilot=pilot)
    expected = rows.astype(np.float64).mean(axis=0)
    tolerance = 20 * float(np.finfo(dtype).eps)
    spread = np.abs(rows).max(axis=0) * tolerance
    assert (np.abs(robust.reduce(rows) - expected) <= spread).all()
    np.testing.assert_allclose(robust.coordinate_weights(rows), 1.0, rtol=tolerance)
    np.testing.assert_allclose(robust.derivative(rows), 1.0 / len(rows), rtol=1e-6)
    assert np.isfinite(robust.delta_derivative(rows)).all()


@pytest.mark.parametrize("pilot", PILOTS)
@pytest.mark.parametrize("size", [1e-25, 1e-12, 1.0])
def test_a_floor_whose_square_in_units_of_the_rows_overflows(pilot, size):
    """The published floor, 0.001, and float32 rows of 1e-25."""
    rows = (ROWS * size).astype(np.float32)
    estimate = C.SoftTruncation(min_variance=0.001, pilot=pilot).reduce(rows)
    exact = C.SoftTruncation(min_variance=0.001, pilot=pilot).reduce(rows.astype(np.float64))
    np.testing.assert_allclose(estimate, exact, atol=1e-6 * float(np.abs(rows).max()), rtol=1e-5)


@pytest.mark.parametrize("pilot", PILOTS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n", [1, 2, 3, 9, 300])
def test_rows_near_the_largest_float(pilot, dtype, n):
    """Equivariance in scale, by a power of two, which rounds nothing."""
    rows = np.random.default_rng(n).uniform(-1.0, 1.0, (n, 7)).astype(dtype)
    rows[0] = np.nextafter(dtype(1), dtype(0))  # times the power: the largest float
    rows[-1, :3] = -rows[0, :3]
    power = np.finfo(dtype).maxexp - 1
    large = np.ldexp(np.ldexp(rows, power), 1)
    assert np.isfinite(large).all()
    assert large.max() == limit(dtype)
    robust = C.SoftTruncation(pilot=pilot)
    estimate = robust.reduce(large)
    expected = oracle.soft_truncation(rows.astype(np.float64), 0.005, pilot)
    bound = 1e-4 if dtype is np.float32 else 1e-12
    assert np.isfinite(estimate).all()
    assert np.abs(np.ldexp(np.ldexp(estimate, -power), -1) - expected).max() < bound
    np.testing.assert_allclose(
        robust.coordinate_weights(large), robust.coordinate_weights(rows), rtol=bound, atol=bound
    )
    np.testing.assert_allclose(robust.derivative(large), robust.derivative(rows), atol=bound)


@pytest.mark.parametrize("pilot", PILOTS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n", [2, 3, 7, 100])
def test_equal_rows_are_their_own_estimate_to_the_last_bit(pilot, dtype, n):
    values = np.array([limit(dtype), -limit(dtype), 0.1, np.finfo(dtype).tiny], dtype)
    rows = np.tile(values, (n, 1))
    np.testing.assert_array_equal(C.SoftTruncation(pilot=pilot).reduce(rows), values)


def test_a_median_pilot_keeps_the_digits_of_rows_beside_one_near_the_largest_float():
    rows = ROWS.astype(np.float32)
    rows[4] = limit(np.float32)
    estimate = C.SoftTruncation(pilot="median").reduce(rows)
    # What the bad row adds, s psi(u) / N, is bounded: any other large number has the same answer.
    rows = rows.astype(np.float64)
    rows[4] = 1e6
    expected = oracle.soft_truncation(rows, 0.005, "median")
    np.testing.assert_allclose(estimate, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("pilot", PILOTS)
def test_the_weight_of_a_value_is_what_it_adds_over_what_it_added_plainly(pilot):
    """At the pilot itself the limit, 1; where there is no scale, other values add nothing."""
    column = np.array([0.0, 0.0, 1.0, -1.0, 2.0, -2.0, 60.0, -60.0, 0.0])
    weights = C.SoftTruncation(0.1, pilot=pilot).coordinate_weights(column[:, None])[:, 0]
    center = column.mean() if pilot == "mean" else np.median(column)
    assert center == 0.0
    sigma = column.std(ddof=1) if pilot == "mean" else 1.482602218505602
    s = sigma * np.sqrt(len(column) / (2 * np.log(10)))
    other = column != 0.0
    expected = [s * oracle.truncation(value / s) / value for value in column[other]]
    np.testing.assert_allclose(weights[other], expected, rtol=1e-12)
    np.testing.assert_array_equal(weights[~other], 1.0)


def test_weights_where_the_median_deviation_is_zero():
    column = np.array([[3.0], [3.0], [3.0], [4.0]])
    robust = C.SoftTruncation(pilot="median")
    np.testing.assert_array_equal(robust.reduce(column), [3.0])
    np.testing.assert_array_equal(robust.coordinate_weights(column)[:, 0], [1.0, 1.0, 1.0, 0.0])
    np.testing.assert_array_equal(robust.sample_weights(column), [1.0, 1.0, 1.0, 0.0])


def test_the_mean_of_two_numbers_whose_sum_no_float_holds():
    rows = np.array([[limit(np.float32)], [limit(np.float32) / 2]], np.float32)
    exact = (Fraction(float(rows[0, 0])) + Fraction(float(rows[1, 0]))) / 2
    estimate = C.SoftTruncation(min_variance=1e300).reduce(rows)
    assert float(estimate[0]) == pytest.approx(float(exact), rel=1e-6)
