"""Buckets: how many, how large, and what bad rows do to them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import chainrob as C
from tests.robustifiers.cases import clean_rows


def bucket_sizes(n: int, size: int, seed: int = 0) -> np.ndarray:
    """From the mixing matrix alone: with equal weights a bucket's rows have 1 over its size."""
    matrix = C.Bucketing(size, seed)(np.eye(n))
    counts = (matrix > 0).sum(axis=1)
    for row, count in zip(matrix, counts, strict=True):
        np.testing.assert_allclose(row[row > 0], 1.0 / count, rtol=1e-15)
    np.testing.assert_array_equal((matrix > 0).sum(axis=0), 1)  # every row is in one bucket
    return counts


@given(st.integers(1, 60), st.integers(1, 70), st.integers(0, 5))
def test_sizes_differ_by_one_at_most(n, size, seed):
    counts = bucket_sizes(n, size, seed)
    assert len(counts) == -(-n // size)
    assert counts.sum() == n
    assert counts.max() <= size
    assert counts.max() - counts.min() <= 1


def test_full_buckets_where_size_divides():
    np.testing.assert_array_equal(bucket_sizes(12, 4), [4, 4, 4])


def test_no_bucket_is_noisier_than_twice_another():
    """51 rows in buckets of 10: formerly five of 10 and a single row."""
    counts = bucket_sizes(51, 10)
    assert sorted(counts) == [8, 8, 8, 9, 9, 9]
    rng = np.random.default_rng(0)
    means = np.array([C.Bucketing(10, seed=3)(rng.normal(size=(51, 40))) for _ in range(50)])
    variances = means.swapaxes(0, 1).reshape(6, -1).var(axis=1)
    assert variances.max() / variances.min() < 1.5


@pytest.mark.parametrize(("n", "size"), [(11, 2), (13, 3), (21, 4), (10, 2)])
def test_stands_as_many_bad_rows_as_the_robustifier_behind_stands_buckets(n, size):
    """f bad rows in any places spoil f buckets at most, and f of M = ceil(N / size) are allowed."""
    m = -(-n // size)
    f = (m - 1) // 2
    clean = clean_rows(n, 3)
    spread = np.ptp(clean, axis=0).max()
    robust = C.Bucketing(size, seed=1) >> C.TrimmedMean(count=f)
    for seed in range(20):
        rows = clean.copy()
        bad = np.random.default_rng(seed).choice(n, f, replace=False)
        rows[bad] = 1e12
        assert np.abs(robust(rows) - clean.mean(axis=0)).max() <= spread
    # One more that falls into a bucket of its own is too many.
    buckets = np.argmax(C.Bucketing(size, seed=1)(np.eye(n)), axis=1)
    rows = clean.copy()
    rows[buckets[: f + 1]] = 1e12
    assert np.abs(robust(rows) - clean.mean(axis=0)).max() > 1e9
