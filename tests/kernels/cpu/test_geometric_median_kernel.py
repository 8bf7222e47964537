"""The solver of the geometric median: optimality, rows as minima, hopeless data."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import chainrob
from chainrob import kernels
from chainrob.robustifiers import GeometricMedian
from chainrob.robustifiers.geometric_median import geometric_median_by_arrays


def solve(rows, **options):
    rows = np.asarray(rows, np.float64)
    middle = np.argsort(np.abs(rows).max(axis=1))[(len(rows) - 1) // 2]
    centered = rows - rows[middle]
    return GeometricMedian(**options).solve(centered @ centered.T)


def excess(rows, point):
    """Length of the subgradient of the sum of distances nearest to zero, over N."""
    rows = np.asarray(rows, np.float64)
    differences = point - rows
    distances = np.linalg.norm(differences, axis=1)
    at = distances <= 1e-12 * np.median(distances)
    pull = np.linalg.norm((differences[~at] / distances[~at, None]).sum(axis=0))
    return max(pull - at.sum(), 0.0) / len(rows)


@given(
    n=st.integers(3, 40),
    d=st.integers(1, 6),
    spread=st.floats(0, 3),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=150, deadline=None)
def test_is_optimal(n, d, spread, seed):
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(n, d)) * 10 ** rng.uniform(-spread, spread, size=(n, 1))
    result = solve(rows)
    assert result.converged
    assert result.iterations < 40
    assert np.all(result.weights >= 0)
    assert result.weights.sum() == pytest.approx(1)
    assert excess(rows, result.weights @ rows) < 1e-9


def test_a_row_is_the_minimum():
    rng = np.random.default_rng(0)
    half = rng.normal(size=(10, 3))
    rows = np.concatenate([half, np.zeros((1, 3)), -half])
    weights = solve(rows).weights
    np.testing.assert_array_equal(weights, np.arange(21) == 10)
    # Two copies of a row that is pulled with a force between one and two.
    triangle = np.array([[0, 0], [0, 0], [3, 0.1], [3, -0.1], [-1, 0.5]], float)
    assert 0 < np.linalg.norm(sum(r / np.linalg.norm(r) for r in triangle[2:])) < 2
    np.testing.assert_allclose(solve(triangle).weights, [0.5, 0.5, 0, 0, 0])


def test_three_corners_at_120_degrees():
    rows = np.array([[0.0, 0.0], [1.0, 0.0], [0.5, 0.5 / np.sqrt(3)]])
    point = solve(rows).weights @ rows
    assert np.linalg.norm(point - rows[2]) < 1e-3  # the pull is just one, and the minimum flat
    assert np.linalg.norm(rows - point, axis=1).sum() <= 2 / np.sqrt(3) * (1 + 1e-7)


def test_more_than_half_coincide():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(9, 4))
    rows[:5] = rows[0]
    np.testing.assert_allclose(solve(rows).weights @ rows, rows[0], rtol=1e-15)
    np.testing.assert_allclose(solve(np.ones((7, 3))).weights, 1 / 7)


@pytest.mark.parametrize("n", [1, 2])
def test_one_and_two_rows(n):
    np.testing.assert_array_equal(solve(np.eye(3)[:n]).weights, 1 / n)


def test_the_middle_of_an_even_number_on_a_line():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(32, 1))
    direction = rng.normal(size=(1, 7))
    point = solve(values * direction).weights @ values
    np.testing.assert_allclose(point, np.median(values, axis=0), rtol=1e-12)


@pytest.mark.parametrize("size", [1e-100, 1e-15, 1e15, 1e100])
def test_any_unit(size):
    rows = np.random.default_rng(0).normal(size=(20, 3))
    expected = solve(rows).weights
    np.testing.assert_allclose(solve(rows * size).weights, expected, rtol=1e-9)


@pytest.mark.parametrize("bad", [1e4, 1e15])
@pytest.mark.parametrize("d", [2, 200])
def test_huge_rows(bad, d):
    rows = np.random.default_rng(0).normal(size=(40, d))
    rows[3] *= bad
    rows[8] *= bad / 7
    result = solve(rows)
    assert result.iterations < 20
    assert excess(rows, result.weights @ rows) < 1e-12


def test_gives_up_and_says_so():
    rows = np.random.default_rng(0).normal(size=(20, 3))
    result = solve(rows, max_iterations=1)
    assert not result.converged
    assert result.iterations == 1
    with pytest.warns(chainrob.ConvergenceWarning):
        GeometricMedian(max_iterations=1)(rows)


def test_replicas_are_independent():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(2, 5, 12, 3))
    grams = rows @ rows.swapaxes(-1, -2)
    together = GeometricMedian().solve(grams)
    assert together.weights.shape == (2, 5, 12)
    for index in np.ndindex(2, 5):
        alone = GeometricMedian().solve(grams[index])
        np.testing.assert_array_equal(together.weights[index], alone.weights)


@given(
    n=st.integers(1, 30),
    d=st.integers(1, 6),
    same=st.integers(0, 20),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=60, deadline=None)
def test_the_array_code_that_defines_it(n, d, same, seed):
    """Weiszfeld's iteration alone gets to the same least sum of distances."""
    rows = np.random.default_rng(seed).normal(size=(2, n, d))
    rows[:, : min(same, n)] = rows[:, :1]
    gram = rows @ rows.swapaxes(-1, -2)

    def sum_of_distances(weights):
        points = (weights[..., None] * rows).sum(axis=1)
        return np.linalg.norm(rows - points[:, None], axis=-1).sum(axis=1)

    compiled = kernels.geometric_median(gram, 1e-10, 1000, 1e-9)[0]
    defined = geometric_median_by_arrays(gram, 1e-12, 20_000, 1e-9)
    np.testing.assert_allclose(defined.sum(axis=1), 1.0)
    np.testing.assert_allclose(
        sum_of_distances(compiled), sum_of_distances(defined), rtol=1e-7, atol=1e-12
    )
