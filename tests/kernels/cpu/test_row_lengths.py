"""Squared lengths of rows against NumPy's in float64."""

import numpy as np
import pytest

from chainrob.kernels import squared_lengths


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("shape", [(3, 5), (2, 4, 32), (7, 100), (1, 1), (0, 4), (3, 0)])
def test_against_numpy(shape, dtype):
    rows = np.random.default_rng(0).normal(size=shape).astype(dtype)
    wide = rows.astype(np.float64)
    found = squared_lengths(rows)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, (wide * wide).sum(axis=-1), rtol=1e-14)


@pytest.mark.parametrize("size", [1e-45, 1e-30, 3e38])
def test_float32_of_any_size(size):
    rows = np.full((2, 37), size, np.float32)
    np.testing.assert_allclose(squared_lengths(rows), 37 * np.float64(rows[0, 0]) ** 2, rtol=1e-14)


def test_other_layouts_and_numbers_that_are_not_finite():
    rows = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
    for one in (rows.T, rows[::2], rows[:, ::2], np.broadcast_to(rows[:1], (3, 6))):
        np.testing.assert_allclose(squared_lengths(one), (np.float64(one) ** 2).sum(1), rtol=1e-14)
    rows[1, 2], rows[3, 4] = np.nan, np.inf
    found = squared_lengths(rows)
    assert np.isnan(found[1])
    assert found[3] == np.inf
    assert np.isfinite(found[[0, 2, 4]]).all()
