"""Inner products and norms of rows brought to ordinary size, against float64 and exact numbers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chainrob.robustifiers.gram import row_norms
from chainrob.sample_gradients import Dense, EmbeddingGradients, Joined, OuterProducts

RNG = np.random.default_rng(0)


def outer(n_positions=1, dtype=np.float64, replicas=()):
    x = RNG.normal(size=(*replicas, 5, n_positions, 3)).astype(dtype)
    return OuterProducts(x, RNG.normal(size=(*replicas, 5, n_positions, 4)).astype(dtype))


def norms_of(operator):
    return np.linalg.norm(operator.materialize().astype(np.float64), axis=-1)


OPERATORS = {
    "array": lambda dtype: Dense(RNG.normal(size=(5, 7)).astype(dtype)),
    "outer products": lambda dtype: outer(dtype=dtype),
    "of positions": lambda dtype: outer(3, dtype),
    "of replicas": lambda dtype: outer(2, dtype, (2,)),
    "embedding": lambda dtype: EmbeddingGradients(
        RNG.integers(0, 6, (5, 3)), RNG.normal(size=(5, 3, 2)).astype(dtype), 6
    ),
    "joined": lambda dtype: Joined([outer(dtype=dtype), Dense(RNG.normal(size=(5, 2)))]),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", OPERATORS)
def test_norms_of_rows(name, dtype):
    operator = OPERATORS[name](dtype)
    found = row_norms(operator)
    assert found.norms.dtype == np.float64
    assert found.bad is None
    scale = np.ldexp(1.0, found.exponent)
    tolerance = 1e-5 if dtype == np.float32 else 1e-12
    np.testing.assert_allclose(found.norms * scale, norms_of(operator), rtol=tolerance)


@given(st.integers(-300, 300), st.integers(-300, 300))
def test_squares_that_do_not_fit_into_float64(of_x, of_gy):
    x = np.array([[3.0, 4.0], [0.0, 2.0], [1.0, 0.0]]) * 2.0**of_x
    gy = np.array([[1.0], [2.0], [0.0]]) * 2.0**of_gy
    found = row_norms(OuterProducts(x[:, None], gy[:, None]))
    assert found.bad is None
    exponent = found.exponent - of_x - of_gy
    np.testing.assert_allclose(np.ldexp(found.norms, exponent), [5.0, 4.0, 0.0], rtol=1e-12)


def test_powers_of_two_cost_no_digit():
    rows = RNG.normal(size=(6, 4))
    one, other = row_norms(Dense(rows)), row_norms(Dense(rows * 2.0**400))
    np.testing.assert_array_equal(
        np.ldexp(one.norms, one.exponent), np.ldexp(other.norms, other.exponent - 400)
    )


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rows_that_are_not_finite_are_reported(value, dtype):
    rows = RNG.normal(size=(2, 5, 4)).astype(dtype)
    rows[1, 3, 2] = value
    found = row_norms(Dense(rows, 1))
    np.testing.assert_array_equal(found.bad, [False, True])
    assert np.isfinite(found.norms[0]).all()


def test_no_rows_and_rows_of_nothing():
    assert row_norms(Dense(np.zeros((0, 3), np.float32))).norms.shape == (0,)
    np.testing.assert_array_equal(row_norms(Dense(np.zeros((3, 0), np.float32))).norms, np.zeros(3))
