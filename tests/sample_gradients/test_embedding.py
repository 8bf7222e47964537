"""Coordinate-wise estimates of embeddings, where most values of most coordinates are zero."""

import numpy as np
import pytest

import chainrob
from chainrob.robustifiers import MultiplicativeNoise
from chainrob.sample_gradients import EmbeddingGradients, embedding
from chainrob.sample_gradients.reduction import RowSquares

N, V, Q = 40, 60, 3
ROBUSTIFIERS = [
    chainrob.SoftTruncation(),
    chainrob.SoftTruncation(delta=0.3, min_variance=0.01),
    chainrob.SoftTruncation(pilot="median"),
    MultiplicativeNoise(),
    chainrob.TrimmedMean(0.1),
    chainrob.WinsorizedMean(0.1),
    chainrob.CoordinateMedian(),
    chainrob.MEstimator(),
    chainrob.MEstimator(pilot="median"),
]


def words(dtype, size=1.0):
    """Ids from one that all samples hold to many that nobody holds, some ignored."""
    rng = np.random.default_rng(1)
    ids = np.minimum(rng.geometric(0.08, (N, 6)), V)
    ids[:, 0] = 0
    gy = rng.standard_normal((N, 6, Q)) * size
    gy[3] *= 50.0
    return EmbeddingGradients(ids, gy.astype(dtype), V)


@pytest.mark.parametrize("robustifier", ROBUSTIFIERS, ids=repr)
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_zeros_that_are_counted_are_as_zeros_that_are_seen(robustifier, dtype, monkeypatch):
    monkeypatch.setattr(embedding, "FEW", 0)
    operator = words(dtype)
    found = operator.reduce(robustifier.reduction(N))
    rows = operator.materialize().astype(np.float64)
    expected = robustifier.reduce(rows).reshape(V, Q)
    digits = {np.float16: 2e-3, np.float32: 1e-4, np.float64: 1e-9}[dtype]
    assert found.dtype == dtype
    scale = np.abs(expected).max()
    np.testing.assert_allclose(found, expected, rtol=digits, atol=digits * scale)


@pytest.mark.parametrize("robustifier", ROBUSTIFIERS, ids=repr)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("budget", [None, 200], ids=["one tile", "many tiles"])
def test_squares_of_zeros_that_are_counted(robustifier, dtype, budget, monkeypatch):
    """One word is huge: what it adds to the samples without it must not be lost in a difference."""
    monkeypatch.setattr(embedding, "FEW", 0)
    if budget:
        monkeypatch.setattr(embedding, "TILE_BUDGET", budget)
    operator = words(dtype)
    operator.gy[operator.ids == 20] *= 1e9
    found, expected = RowSquares.of(operator), RowSquares.of(operator)
    reduction = robustifier.reduction(N)
    estimate = operator.reduce(reduction, squares=found)
    np.testing.assert_array_equal(estimate, operator.reduce(reduction))
    for _, values in operator.tiles():
        expected.add_tile(values, robustifier.coordinate_weights(values))
    tolerance = 2e-5 if dtype == np.float32 else 1e-9
    np.testing.assert_allclose(found.weights(), expected.weights(), atol=tolerance)
    np.testing.assert_allclose(found.total, expected.total, rtol=10 * tolerance)


@pytest.mark.parametrize("size", [1e-300, 1e300])
def test_counted_zeros_at_any_size(size, monkeypatch):
    monkeypatch.setattr(embedding, "FEW", 0)
    reduction = chainrob.SoftTruncation().reduction(N)
    expected = words(np.float64).reduce(reduction)
    found = words(np.float64, size).reduce(reduction)
    np.testing.assert_allclose(found / size, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("robustifier", ROBUSTIFIERS[:1] + ROBUSTIFIERS[4:7], ids=repr)
def test_nan_shows_where_it_may_propagate(robustifier):
    ids, gy = np.arange(N)[:, None], np.ones((N, 1, Q))
    gy[5, 0, 1] = np.nan
    found = EmbeddingGradients(ids, gy, V).reduce(robustifier.reduction(N))
    assert np.isnan(found[5, 1])
    assert np.isfinite(found[:5]).all()


def test_what_few_samples_touched_is_not_looked_at(monkeypatch):
    monkeypatch.setattr(EmbeddingGradients, "_values", None)
    ids, gy = np.arange(N)[:, None], np.ones((N, 1, Q), np.float32)
    for robustifier in (chainrob.TrimmedMean(0.1), chainrob.CoordinateMedian()):
        operator = EmbeddingGradients(ids, gy, V)
        squares = RowSquares.of(operator)
        found = operator.reduce(robustifier.reduction(N), squares=squares)
        np.testing.assert_array_equal(found, 0.0)
        np.testing.assert_array_equal(squares.weights(), 0.0)
