"""What is compiled for weighting robustifiers, against the array code that defines it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chainrob.kernels.cpu.mixed_gram import SMALL, mixed_gram
from chainrob.robustifiers import CenteredClipping
from chainrob.robustifiers.krum import nearest_sums, nearest_sums_by_arrays
from chainrob.robustifiers.selection import TIE, smallest, smallest_by_arrays
from chainrob.sample_gradients import Dense, Joined, OuterProducts
from chainrob.sample_gradients.operator_base import Mixed, squared_distances

seeds = st.integers(0, 2**32 - 1)


def gram_of(rng, n, d=4, replicas=(), huge=False):
    """Inner products of rows of which some are equal, and one may be huge."""
    rows = rng.normal(size=(*replicas, n, d))
    rows[..., n // 2 :, :] = rows[..., rng.integers(n, size=n - n // 2), :]
    if huge:
        rows[..., 0, :] *= 1e9
    return rows @ rows.swapaxes(-1, -2)


@given(n=st.integers(1, 60), part=st.floats(0, 1), squared=st.booleans(), seed=seeds)
@settings(max_examples=100)
def test_sums_of_the_nearest(n, part, squared, seed):
    rng = np.random.default_rng(seed)
    gram = gram_of(rng, n, replicas=(2,), huge=seed % 2)
    count = 1 + round(part * (n - 1))
    found = nearest_sums(gram, count, squared)
    expected = nearest_sums_by_arrays(gram, count, squared)
    assert found.shape == (2, n)
    scale = np.sqrt(gram.max()) if not squared else gram.max()
    np.testing.assert_allclose(
        found, expected, rtol=1e-12, atol=(1e-15 if squared else 1e-7) * scale
    )


def test_distances_that_rounding_makes_asymmetric_are_one():
    """The halves of a Gram matrix may differ: the row that sees less must not win by that."""
    gram = gram_of(np.random.default_rng(0), 21)
    noisy = gram * (1.0 + 1e-15 * np.random.default_rng(1).normal(size=gram.shape))
    nearest = nearest_sums(noisy, 2, True)
    first = nearest.argmin()
    assert (nearest == nearest[first]).sum() > 1


@given(
    keys=st.lists(st.integers(0, 6), min_size=1, max_size=30),
    part=st.floats(0, 1),
    tie=st.sampled_from([0.0, TIE]),
)
def test_the_smallest(keys, part, tie):
    values = np.array([keys, keys[::-1]], np.float64) * (1.0 + np.arange(len(keys)) * 1e-14)
    count = 1 + round(part * (len(keys) - 1))
    np.testing.assert_allclose(
        smallest(values, count, tie=tie), smallest_by_arrays(values, count, tie=tie), rtol=1e-14
    )
    assert smallest(values, count, tie=tie).sum(axis=-1) == pytest.approx(count)


def test_the_smallest_of_keys_that_may_not_be_written():
    keys = np.arange(8.0)[::2]
    keys.flags.writeable = False
    np.testing.assert_array_equal(smallest(keys, 2), [1, 1, 0, 0])


@given(
    n=st.integers(1, 40),
    radius=st.none() | st.floats(1e-3, 10),
    start=st.sampled_from(["medoid", "zero"]),
    iterations=st.integers(1, 6),
    seed=seeds,
)
@settings(max_examples=100)
def test_centered_clipping(n, radius, start, iterations, seed):
    gram = gram_of(np.random.default_rng(seed), n, replicas=(3,), huge=seed % 2)
    robustifier = CenteredClipping(radius, start=start, iterations=iterations)
    found = robustifier.compiled_weights(gram)
    np.testing.assert_allclose(found, robustifier.weights(gram), rtol=1e-6, atol=1e-9)


@given(n=st.integers(1, 40), m=st.integers(1, 12), affine=st.booleans(), seed=seeds)
@settings(max_examples=100)
def test_gram_matrix_of_mixed_rows(n, m, affine, seed):
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(n, 5)) + 10.0
    matrix = rng.random(size=(m, n)) * rng.integers(0, 2, size=(m, n))
    matrix[:, 0] += 1.0
    matrix[m // 2] = matrix[0]  # two new rows that are one
    if affine:
        matrix /= matrix.sum(axis=1, keepdims=True)
    mixed = Mixed(Dense(rows), matrix, affine=affine)
    by_arrays = Mixed(Dense(rows[None], 1), matrix, affine=affine)
    # Both are about a row of middle size, but which one may be decided by rounding.
    distances, expected = (
        squared_distances(mixed.centered_gram()),
        squared_distances(by_arrays.centered_gram())[0],
    )
    np.testing.assert_allclose(distances, expected, rtol=1e-9, atol=1e-10)
    assert distances[0, m // 2] == 0.0


def test_gram_matrix_of_mixed_rows_keeps_what_is_not_finite():
    gram = np.eye(6)
    gram[2, 3] = gram[3, 2] = np.nan
    assert np.isnan(mixed_gram(np.full((2, 6), 1 / 6), gram)).all()
    assert mixed_gram(np.ones((SMALL, 2)), np.eye(2)) is None


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("n", "p", "q"),
    [(1, 1, 1), (7, 3, 2), (30, 5, 9), (100, 2, 10), (33, 300, 7), (128, 5, 140), (150, 20, 40)],
)
def test_centered_gram_matrix(dtype, n, p, q):
    rng = np.random.default_rng(n)
    x, gy = (rng.normal(3, size=(n, 1, k)).astype(dtype) for k in (p, q))
    small, replicas = OuterProducts(x, gy), OuterProducts(x[None], gy[None])
    for one, other in (
        (small, replicas),
        (Joined([small, small.bias()]), Joined([replicas, replicas.bias()])),
    ):
        expected = squared_distances(other.centered_gram())[
            0
        ]  # array code, for it has a replica axis
        np.testing.assert_allclose(
            squared_distances(one.centered_gram()), expected, rtol=1e-9, atol=1e-9
        )


@pytest.mark.parametrize("size", [1.0, 1e15])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_large_gram_matrix_keeps_what_tells_close_rows_apart(dtype, size):
    """In panels, against distances in twice the digits."""
    rng = np.random.default_rng(0)
    x, gy = (1 + 1e-4 * rng.normal(size=(70, k)) for k in (150, 40))
    x[3] *= size
    x, gy = x.astype(dtype), gy.astype(dtype)
    found = squared_distances(OuterProducts(x[:, None], gy[:, None]).centered_gram())
    rows = (gy[:, :, None].astype(np.longdouble) * x[:, None, :]).reshape(70, -1)
    others = np.flatnonzero(np.arange(70) != 3)
    for i in others[:5]:
        expected = ((rows[others] - rows[i]) ** 2).sum(axis=1).astype(float)
        np.testing.assert_allclose(found[i, others], expected, rtol=1e-9)
