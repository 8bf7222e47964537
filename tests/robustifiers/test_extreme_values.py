"""Values near the largest and the smallest number, where sums and squares leave the range."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import chainrob as c
from chainrob.sample_gradients import OuterProducts
from tests.oracles import estimators as oracle
from tests.robustifiers.cases import clean_rows

FAMILY = {
    "median": (lambda f: c.CoordinateMedian(), lambda rows, f: oracle.median(rows)),
    "trimmed": (lambda f: c.TrimmedMean(count=f), oracle.trimmed_mean),
    "winsorized": (lambda f: c.WinsorizedMean(count=f), oracle.winsorized_mean),
    "around median": (lambda f: c.MeanAroundMedian(f), oracle.mean_around_median),
    "phocas": (lambda f: c.Phocas(f), oracle.phocas),
    **{
        f"{rho}-{pilot}": (
            lambda f, rho=rho, pilot=pilot: c.MEstimator(rho, pilot=pilot),
            lambda rows, f, rho=rho, pilot=pilot: oracle.m_estimator(rows, rho, pilot=pilot),
        )
        for rho in oracle.PSI
        for pilot in ("mean", "median")
    },
}
every = pytest.mark.parametrize("name", FAMILY)


def check(name, f, rows, oracle_rows, unit):
    """The kernel and the definition in plain array code, against the oracle on other rows."""
    make, expected = FAMILY[name]
    robustifier = make(f)
    expected = expected(oracle_rows, f)
    tolerance = 1e-5 if rows.dtype == np.float32 else 1e-9
    for found in (robustifier(rows), robustifier.reduce(rows)):
        assert found.dtype == rows.dtype
        np.testing.assert_allclose(found / unit, expected, rtol=0, atol=tolerance)


@every
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(5, 40),
    exponent=st.integers(-110, 127),
    f=st.integers(0, 2),
)
@settings(max_examples=12, deadline=None)
def test_any_scale_in_float32(name, seed, n, exponent, f):
    rows = clean_rows(n, 3, seed)
    rows = np.ldexp((rows / np.abs(rows).max()).astype(np.float32), exponent)
    unit = 2.0**exponent
    check(name, f, rows, rows.astype(float) / unit, unit)


@every
@pytest.mark.parametrize("n", [8, 9, 200])
def test_at_the_limits_of_float64(name, n):
    rows = clean_rows(n, 3)
    rows /= np.abs(rows).max()
    for exponent in (-1000, 1023):
        unit = 2.0**exponent
        check(name, 2, rows * unit, rows, unit)


@every
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n", [8, 9, 200])
def test_the_largest_number(name, dtype, n):
    """All rows alike, or of both signs: no estimate may leave the values' range, or become NaN."""
    robustifier = FAMILY[name][0](2)
    largest = np.finfo(dtype).max
    for value in (largest, -largest, 0.9 * largest):
        rows = np.full((n, 20), value, dtype)
        for found in (robustifier(rows), robustifier.reduce(rows)):
            # A sum of n equal numbers is rounded n times.
            np.testing.assert_allclose(found, value, rtol=(4 + n / 4) * np.finfo(dtype).eps)
    majority = np.where(np.arange(n) < 0.7 * n, 1.0, -1.0)
    signs = np.random.default_rng(0).permuted(np.tile(majority[:, None], 20), axis=0)
    rows = (largest * signs).astype(dtype)
    for found in (robustifier(rows), robustifier.reduce(rows)):
        np.testing.assert_allclose(found / largest, robustifier.reduce(signs), atol=1e-5)


def test_the_neighbors_of_a_huge_coordinate_keep_their_digits():
    rng = np.random.default_rng(0)
    rows = clean_rows(12, 40)
    rows = rows / np.abs(rows).max() * np.where(np.arange(40) % 2, 3e38, 1e-43)
    rows = rows.astype(np.float32)
    small = np.arange(40) % 2 == 0
    for name in ("median", "trimmed", "winsorized"):
        make, expected = FAMILY[name]
        for found in (make(2)(rows), make(2).reduce(rows)):
            error = np.abs(found.astype(float) - expected(rows.astype(float), 2))
            assert (error[small] <= np.finfo(np.float32).smallest_subnormal).all()
            assert (error[~small] <= 1e-6 * 3e38).all()
    x, gy = rng.normal(size=(12, 1, 30)), rng.normal(size=(12, 1, 4))
    x[..., ::2] *= 1e30
    gy[..., 1] *= 3e7
    operator = OuterProducts(x.astype(np.float32), gy.astype(np.float32))
    rows = operator.materialize().astype(float)
    for name, (make, expected) in FAMILY.items():
        unit = np.abs(rows).max(axis=0)
        error = np.abs(make(2)(operator).reshape(-1) - expected(rows / unit, 2) * unit) / unit
        assert (error < 1e-5).all(), name


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("pilot", ["mean", "median"])
@pytest.mark.parametrize("rho", oracle.PSI)
def test_an_absolute_scale_beyond_the_numbers(rho, pilot, dtype):
    rows = clean_rows(9, 20).astype(dtype)
    eps = np.finfo(dtype).eps
    for unit in (1.0, 1e-30, 1e30):
        # psi is linear: the plain mean.
        robustifier = c.MEstimator(rho, pilot=pilot, scale=1e300)
        scaled = rows * dtype(unit)
        for found in (robustifier(scaled), robustifier.reduce(scaled)):
            np.testing.assert_allclose(found / unit, rows.mean(axis=0), atol=40 * eps)
        # psi tells signs only: of an odd number of rows, the median.
        robustifier = c.MEstimator(rho, pilot=pilot, scale=1e-60)
        with warnings.catch_warnings():
            # Catoni's tells more than signs at any scale, but ever less; and its root, within 1e-60
            # of a row, may take more halvings than there are iterations.
            if rho == "catoni":
                warnings.simplefilter("ignore", c.robustifiers.ConvergenceWarning)
            atol = 0.1 if rho == "catoni" else 40 * eps
            for found in (robustifier(scaled), robustifier.reduce(scaled)):
                np.testing.assert_allclose(found / unit, np.median(rows, axis=0), atol=atol)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("pilot", ["mean", "median"])
@pytest.mark.parametrize("rho", ["pseudo_huber", "log_cosh", "gudermannian"])
def test_an_absolute_scale_far_below_an_outlier(rho, pilot, dtype):
    """The outlier must take neither the unit nor the deviations from a pivot along."""
    for size, n in ((1e15, 12), (1e25, 12), (1e15, 13)):
        rows = clean_rows(n, 20).astype(dtype)
        rows[3] = size
        for scale in (0.5, 1.0, 10.0):
            expected = oracle.m_estimator(rows.astype(float), rho, scale=scale, pilot="median")
            robustifier = c.MEstimator(rho, scale=scale, pilot=pilot)
            np.testing.assert_allclose(robustifier(rows), expected, atol=2e-5)
            if size == 1e15:
                np.testing.assert_allclose(robustifier.reduce(rows), expected, atol=2e-5)


def test_a_step_beyond_the_numbers_is_none():
    """Far from the root psi' is next to nothing; that is no reason to warn."""
    rows = clean_rows(33, 4).astype(np.float32)
    rows[3] = 1e15
    for rho in oracle.PSI:
        found = c.MEstimator(rho, scale=0.37).reduce(rows)
        assert np.all((found > rows.min(axis=0)) & (found < 1e4))
