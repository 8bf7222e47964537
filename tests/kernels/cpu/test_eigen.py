"""The largest eigenpair against all of them from LAPACK."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chainrob.kernels import largest_eigenpair
from chainrob.kernels.cpu import eigen


def check(matrices):
    values, vectors = largest_eigenpair(matrices)
    expected = np.linalg.eigvalsh(matrices)[:, -1]
    np.testing.assert_allclose(values, expected, rtol=1e-13, atol=0.0)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, rtol=1e-13)
    unit = np.where(values > 0.0, values, 1.0)[:, None]
    residuals = (matrices / unit[..., None] @ vectors[..., None])[..., 0] - values[
        :, None
    ] / unit * vectors
    assert np.all(np.linalg.norm(residuals, axis=1) <= 1e-13)
    return vectors


@given(
    n=st.integers(1, 70),
    d=st.integers(1, 100),
    spread=st.floats(0, 8),
    scale=st.integers(-100, 100),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=150)
def test_of_gram_matrices(n, d, spread, scale, seed):
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(2, n, d)) * 10 ** rng.uniform(-spread, spread, size=(n, 1))
    rows *= 10.0**scale
    check(rows @ rows.swapaxes(-1, -2))


def test_one_huge_row():
    rows = np.random.default_rng(0).normal(size=(1, 60, 40))
    rows[:, 7] *= 1e15
    vectors = check(rows @ rows.swapaxes(-1, -2))
    assert abs(vectors[0, 7]) == pytest.approx(1.0)


@pytest.mark.parametrize(
    "matrix",
    [np.zeros((30, 30)), np.ones((30, 30)), np.eye(30), np.diag([1.0] * 30 + [1.0 + 1e-6])],
    ids=["nothing", "one direction", "all directions", "a narrow gap"],
)
def test_special_matrices(matrix):
    check(matrix[None])


def test_a_search_without_end_is_left_to_lapack():
    matrix = np.diag(np.arange(200.0))
    found = np.ones(1, bool)
    eigen._largest(matrix[None], 82, np.empty(1), np.empty((1, 200)), found)
    assert not found[0]
    check(np.stack([matrix, np.diag(np.arange(200.0) ** 8)]))
