"""The median by counting: exact whatever the values are."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import chainrob
from chainrob.kernels.cpu.median import FEW
from chainrob.sample_gradients import Dense, OuterProducts

KINDS = {
    "normal": lambda rng, shape: rng.normal(size=shape),
    "shifted": lambda rng, shape: 1e4 + rng.normal(size=shape),
    "heavy": lambda rng, shape: rng.standard_cauchy(size=shape) ** 3,
    "sparse": lambda rng, shape: rng.normal(size=shape) * (rng.random(shape) < 0.5),
    "very sparse": lambda rng, shape: rng.normal(size=shape) * (rng.random(shape) < 0.1),
    "integers": lambda rng, shape: rng.integers(-4, 5, size=shape),
    "many integers": lambda rng, shape: rng.integers(-100, 101, size=shape),
    "signs": lambda rng, shape: rng.choice([-1.0, 1.0], size=shape),
    "signed zeros": lambda rng, shape: rng.choice([-0.0, 0.0, 1.0], size=shape),
    "two clusters": lambda rng, shape: rng.choice([-1e6, 1e6], size=shape) + rng.normal(size=shape),
    "neighboring numbers": lambda rng, shape: 1 + 2.0**-23 * rng.integers(0, 9, size=shape),
    "of all sizes": lambda rng, shape: 10.0 ** rng.uniform(-37, 37, size=shape),
    "subnormal": lambda rng, shape: 1e-45 * rng.integers(-1000, 1000, size=shape),
    "equal": lambda rng, shape: np.broadcast_to(rng.normal(size=shape[1:]), shape),
    "rising": lambda rng, shape: np.sort(rng.normal(size=shape) ** 5, axis=0),
    "one far off": lambda rng, shape: np.where(
        np.arange(shape[0])[:, None] == 7, 1e30, rng.normal(size=shape)
    ),
    "the sample lies": lambda rng, shape: np.where(
        np.arange(shape[0])[:, None] % (shape[0] // 32) == 0, 1e3, rng.normal(size=shape)
    ),
}


def exact(rows):
    ordered = np.sort(rows, axis=0)
    n = len(rows)
    return (ordered[(n - 1) // 2] + ordered[n // 2]) / 2


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [FEW, FEW + 1, FEW + 2, 256, 401])
def test_values_of_all_kinds(kind, n, dtype):
    rows = KINDS[kind](np.random.default_rng(n), (n, 50)).astype(dtype)
    found = chainrob.CoordinateMedian()(Dense(rows))
    np.testing.assert_array_equal(found, exact(rows).astype(dtype))


@given(
    kinds=st.lists(st.sampled_from(sorted(KINDS)), min_size=2, max_size=4),
    n=st.integers(FEW + 1, 700),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=40, deadline=None)
def test_lanes_of_different_kinds(kinds, n, seed):
    """What holds one lane of a vector up must not harm the others."""
    rng = np.random.default_rng(seed)
    rows = np.concatenate([KINDS[kind](rng, (n, 9)) for kind in kinds], axis=1)
    rows = rng.permuted(rows, axis=1).astype(np.float32)
    np.testing.assert_array_equal(chainrob.CoordinateMedian()(Dense(rows)), exact(rows))


def test_nan_and_infinity_stay_in_their_lanes():
    rows = np.random.default_rng(0).normal(size=(200, 40)).astype(np.float32)
    expected = exact(rows)
    rows[3, 5], rows[70:80, 8], rows[9:19, 8] = np.nan, np.inf, -np.inf
    expected[5], expected[8] = np.nan, exact(rows[:, 8])
    found = chainrob.CoordinateMedian(nonfinite="propagate")(Dense(rows))
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("n", [100, 129, 130, 257, 1000])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_infinities_count_as_values(n, share, sign):
    rows = np.random.default_rng(0).normal(size=(n, 20))
    rows[: int(share * n)] = sign * np.inf
    found = chainrob.CoordinateMedian(nonfinite="propagate")(rows)
    np.testing.assert_array_equal(found, np.median(rows, axis=0))


def test_outer_products_with_several_positions():
    rng = np.random.default_rng(0)
    x = np.maximum(rng.normal(size=(300, 3, 20)), 0).astype(np.float32)
    gy = rng.normal(size=(300, 3, 7)).astype(np.float32)
    operator = OuterProducts(x, gy)
    found = chainrob.CoordinateMedian()(operator)
    expected = exact(operator.materialize().astype(np.float64)).reshape(found.shape)
    np.testing.assert_allclose(found, expected, atol=1e-6)
