"""Compiled coordinate-wise estimates against their definition, ``reduce``, on materialized rows in
float64.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import chainrob as c
from chainrob.kernels.cpu import soft_truncation_kernel, sorting_network
from chainrob.sample_gradients import Dense, OuterProducts

TOLERANCE = {np.float32: 1e-4, np.float64: 1e-11}
SHAPES = [
    # replicas of x, replicas of gy, N, S, Q, P
    ((), (), 40, 1, 5, 30),
    ((), (), 1, 1, 3, 3),
    ((), (), 2, 1, 3, 40),
    ((), (), 300, 1, 3, 17),
    ((), (), 33, 3, 20, 2),
    ((3,), (3,), 21, 1, 5, 3),
    ((1,), (3,), 17, 2, 4, 20),
    ((2, 1), (2, 3), 9, 1, 2, 2),
    ((), (2,), 20, 1, 9, 2),
]


def family(n):
    f = (n - 1) // 3
    return [
        c.CoordinateMedian(),
        c.TrimmedMean(count=f),
        c.TrimmedMean(count=0),
        c.WinsorizedMean(count=f),
        c.WinsorizedMean(count=(n - 1) // 2),
        c.MeanAroundMedian(f),
        c.MeanAroundMedian(0),
        c.Phocas(f),
        c.SoftTruncation(),
        c.SoftTruncation(delta=1e-6),
        c.SoftTruncation(min_variance=0.1),
        c.SoftTruncation(pilot="median"),
        c.SoftTruncation(pilot="median", min_variance=0.1),
        *(c.MEstimator(rho) for rho in ("pseudo_huber", "log_cosh", "gudermannian", "catoni")),
        c.MEstimator("gudermannian", pilot="median"),
        c.MEstimator("log_cosh", scale=0.5),
    ]


def check(robustifier, operator, dtype, unit=None):
    estimate = robustifier(operator)
    assert estimate.dtype == dtype
    rows = operator.materialize().astype(np.float64)
    expected = robustifier.reduce(rows).reshape(estimate.shape)
    if unit is None:
        unit = np.maximum(rows.std(axis=-2), np.abs(rows).mean(axis=-2)).reshape(estimate.shape)
    error = np.abs(estimate - expected)
    assert np.all(error <= TOLERANCE[dtype] * unit), np.max(error / np.where(unit > 0, unit, 1))


def factors(rng, x_replicas, replicas, n, s, q, p, dtype):
    x = rng.normal(size=(*x_replicas, n, s, p))
    gy = rng.normal(size=(*replicas, n, s, q))
    return x.astype(dtype), gy.astype(dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_shapes(shape, dtype):
    rng = np.random.default_rng(0)
    x, gy = factors(rng, *shape, dtype)
    for robustifier in family(shape[2]):
        check(robustifier, OuterProducts(x, gy), dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rows_of_an_array(dtype):
    rows = np.random.default_rng(0).normal(size=(25, 77)).astype(dtype)
    for robustifier in family(25):
        check(robustifier, Dense(rows), dtype)
        np.testing.assert_array_equal(robustifier(rows), robustifier(Dense(rows)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_ties(dtype):
    rng = np.random.default_rng(0)
    x = rng.integers(-2, 3, size=(24, 1, 40)).astype(dtype)
    gy = rng.integers(-1, 2, size=(24, 1, 6)).astype(dtype)
    for robustifier in family(24):
        check(robustifier, OuterProducts(x, gy), dtype)


@given(
    n=st.integers(1, 70),
    seed=st.integers(0, 2**32 - 1),
    kind=st.sampled_from(["normal", "heavy", "sparse", "shifted"]),
    index=st.integers(0, len(family(9)) - 1),
    dtype=st.sampled_from([np.float32, np.float64]),
)
@settings(max_examples=60, deadline=None)
def test_any_number_of_samples(n, seed, kind, index, dtype):
    rng = np.random.default_rng(seed)
    x, gy = factors(rng, (), (), n, 1, 4, 18, dtype)
    if kind == "heavy":
        x = rng.standard_t(1.5, size=x.shape).astype(dtype)
    elif kind == "sparse":
        x = x * (rng.random(x.shape) < 0.3)
    elif kind == "shifted":
        x, gy = x + dtype(3), gy + dtype(3)
    check(family(n)[index], OuterProducts(x, gy), dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_one_row_1e15_times_the_rest(dtype):
    rng = np.random.default_rng(0)
    x, gy = factors(rng, (), (), 31, 1, 5, 20, dtype)
    x[7] *= 1e15
    operator = OuterProducts(x, gy)
    clean = np.abs(OuterProducts(np.delete(x, 7, 0), np.delete(gy, 7, 0)).materialize())
    ordinary = clean.max(axis=0).reshape(5, 20)
    for robustifier in family(31):
        resistant = not isinstance(robustifier, c.SoftTruncation | c.MEstimator)
        resistant |= getattr(robustifier, "pilot", "") == "median" and not isinstance(
            robustifier, c.MEstimator
        )
        resistant &= getattr(robustifier, "count", 1) != 0 and getattr(robustifier, "f", 1) != 0
        # What resists the row is exact beside the others, what does not beside that row.
        check(robustifier, operator, dtype, ordinary if resistant else None)


def test_values_whose_squares_leave_float32():
    rng = np.random.default_rng(0)
    for scale in (1e-28, 1e-15, 1e15, 1e25):
        x, gy = factors(rng, (), (), 31, 1, 5, 20, np.float32)
        for robustifier in (c.SoftTruncation(), c.SoftTruncation(pilot="median"), c.MEstimator()):
            check(robustifier, OuterProducts((x * scale).astype(np.float32), gy), np.float32)


def test_more_rows_than_a_network_sorts():
    rng = np.random.default_rng(0)
    n = sorting_network.MAX_ROWS + 1
    x, gy = factors(rng, (), (), n, 1, 2, 3, np.float32)
    for robustifier in (c.CoordinateMedian(), c.SoftTruncation(pilot="median"), c.MEstimator()):
        check(robustifier, OuterProducts(x, gy), np.float32)


def test_nan_stays_in_its_coordinates():
    rng = np.random.default_rng(0)
    x, gy = factors(rng, (), (), 40, 1, 6, 40, np.float32)
    x[3, 0, 5], gy[7, 0, 2] = np.nan, np.nan
    bad = np.zeros((6, 40), bool)
    bad[:, 5] = bad[2] = True
    for kind in (c.CoordinateMedian, c.SoftTruncation, c.MEstimator):
        estimate = kind(nonfinite="propagate")(OuterProducts(x, gy))
        np.testing.assert_array_equal(np.isnan(estimate), bad)


# -- soft truncation by moments


@pytest.fixture
def by_moments(monkeypatch):
    """Even small problems go by moments."""
    monkeypatch.setattr(soft_truncation_kernel, "FEW", 0)


MOMENT_CASES = {
    "normal": lambda x, gy, rng: (x, gy),
    "outlier": lambda x, gy, rng: (x * np.where(np.arange(len(x)) == 3, 1e4, 1)[:, None, None], gy),
    "heavy": lambda x, gy, rng: (rng.standard_t(2, size=x.shape), rng.standard_t(2, size=gy.shape)),
    "sparse": lambda x, gy, rng: (x * (rng.random(x.shape) < 0.03), np.maximum(gy, 0)),
    "constant columns": lambda x, gy, rng: (np.where(np.arange(x.shape[-1]) % 3, x, 1.0), gy + 5),
    "zero columns": lambda x, gy, rng: (x * (np.arange(x.shape[-1]) % 2), gy * (gy > 9)),
    "rows nearly coincide": lambda x, gy, rng: (1 + 1e-3 * x, 1 + 1e-3 * gy),
    "equal rows": lambda x, gy, rng: (np.ones_like(x), np.full_like(gy, 0.1)),
    "samples of all sizes": lambda x, gy, rng: (x, gy * 10 ** rng.uniform(-15, 0, gy.shape)),
    "columns of all sizes": lambda x, gy, rng: (x * 10 ** rng.uniform(-9, 9, x.shape[-1]), gy),
    "tiny": lambda x, gy, rng: (x * 1e-12, gy * 1e-12),
    "one sample of each": lambda x, gy, rng: (
        np.where(np.arange(len(x)) == 4, 1e15, 1)[:, None, None] * x,
        np.where(np.arange(len(x)) == 5, 1e15, 1)[:, None, None] * gy,
    ),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", MOMENT_CASES)
@pytest.mark.parametrize("n", [16, 100])
def test_by_moments(by_moments, name, n, dtype):
    rng = np.random.default_rng(n)
    x, gy = MOMENT_CASES[name](*factors(rng, (), (), n, 1, 30, 50, np.float64), rng)
    operator = OuterProducts(x.astype(dtype), gy.astype(dtype))
    for options in ({}, {"delta": 1e-9}, {"min_variance": 0.5}):
        check(c.SoftTruncation(**options), operator, dtype)


def test_moments_and_columns_agree(monkeypatch):
    rng = np.random.default_rng(0)
    operator = OuterProducts(*factors(rng, (), (), 64, 1, 40, 100, np.float64))
    results = []
    for few in (0, 10**9):
        monkeypatch.setattr(soft_truncation_kernel, "FEW", few)
        results.append(c.SoftTruncation()(operator))
    np.testing.assert_allclose(*results, rtol=0, atol=1e-13)


@pytest.mark.parametrize("few", [0, 10**9], ids=["by moments", "by columns"])
@pytest.mark.parametrize("pilot", ["mean", "median"])
@pytest.mark.parametrize("size", [1.0, 1e38, 1e-30, 1e-37])
@pytest.mark.parametrize("min_variance", [0.0, 1e30, 1e300])
def test_soft_truncation_at_any_floor_and_size(monkeypatch, min_variance, size, pilot, few):
    monkeypatch.setattr(soft_truncation_kernel, "FEW", few)
    rng = np.random.default_rng(0)
    x = np.ones((40, 1, 20), np.float32)
    gy = rng.normal(size=(40, 1, 6)).clip(-3, 3).astype(np.float32) * np.float32(size)
    check(
        c.SoftTruncation(pilot=pilot, min_variance=min_variance), OuterProducts(x, gy), np.float32
    )


@pytest.mark.parametrize("n", [256, 300, 1000])
def test_many_samples_by_moments(by_moments, n):
    rng = np.random.default_rng(n)
    operator = OuterProducts(*factors(rng, (), (), n, 1, 7, 20, np.float32))
    # The unit is the standard error: what is left of the spread in a mean of so many.
    unit = operator.materialize().std(axis=0).reshape(operator.shape) / n**0.5
    check(c.SoftTruncation(), operator, np.float32, unit)


@pytest.mark.parametrize("of_gy", [False, True])
def test_nan_hides_no_truncated_value_beside_it(by_moments, of_gy):
    rng = np.random.default_rng(0)
    x, gy = factors(rng, (), (), 64, 1, 20, 40, np.float32)
    x[9], gy[9] = 5 * x[9], 5 * gy[9]  # truncated in every coordinate
    clean = c.SoftTruncation()(OuterProducts(x, gy))
    (gy if of_gy else x)[9, 0, 0] = np.nan
    estimate = c.SoftTruncation(nonfinite="propagate")(OuterProducts(x, gy))
    bad = np.zeros((20, 40), bool)
    bad[0 if of_gy else slice(None), slice(None) if of_gy else 0] = True
    np.testing.assert_array_equal(np.isnan(estimate), bad)
    np.testing.assert_array_equal(estimate[~bad], clean[~bad])
