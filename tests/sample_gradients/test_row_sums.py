"""Rows that belong to one sample, against the materialized rows added up."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import chainrob
from chainrob.sample_gradients import (
    Dense,
    EmbeddingGradients,
    Joined,
    OuterProducts,
    PatchProducts,
    RowIndex,
    RowSums,
    add_up,
    summed_rows,
)
from chainrob.sample_gradients.patches import Geometry

ROBUSTIFIERS = [
    chainrob.Mean(),
    chainrob.GeometricMedian(),
    chainrob.CoordinateMedian(),
    chainrob.SoftTruncation(),
    chainrob.MultiKrum(1, 2),
]
KINDS = ("outer", "dense", "embedding", "patches")
INDEX = [np.array([0, 0, 1, 3, 2, 0, 4]), np.array([3, 1, 0, 1, 2, 4, 4]), np.arange(7)[::-1] % 5]


def make(kind, n_rows=7, seed=0):
    rng = np.random.default_rng(seed)
    if kind == "outer":
        return OuterProducts(rng.normal(size=(n_rows, 2, 3)), rng.normal(size=(n_rows, 2, 4)))
    if kind == "dense":
        return Dense(rng.normal(size=(n_rows, 4, 2)))
    if kind == "embedding":
        return EmbeddingGradients(
            rng.integers(0, 6, size=(n_rows, 3)), rng.normal(size=(n_rows, 3, 2)), 6
        )
    geometry = Geometry((2,), (1,), (1,), 1)
    return PatchProducts(rng.normal(size=(n_rows, 2, 5)), rng.normal(size=(n_rows, 3, 4)), geometry)


def by_hand(operator, index, n_samples):
    rows = operator.materialize()
    out = np.zeros((n_samples, rows.shape[1]))
    np.add.at(out, index, rows)
    return out


@pytest.mark.parametrize("index", INDEX, ids=str)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("resolved", [True, False])
def test_every_answer_is_that_of_the_added_rows(kind, index, resolved):
    operator = make(kind)
    sums = RowSums(operator, RowIndex(index, 5))
    sums = sums.resolved() if resolved else sums
    rows = by_hand(operator, index, 5)
    np.testing.assert_allclose(sums.materialize(), rows, atol=1e-12)
    np.testing.assert_allclose(sums.gram(), rows @ rows.T, atol=1e-10)
    centered = sums.centered_gram()
    d = np.diag(centered)
    expected = ((rows[:, None] - rows[None]) ** 2).sum(-1)
    np.testing.assert_allclose(d[:, None] + d - 2 * centered, expected, atol=1e-9)
    np.testing.assert_allclose(sums.units().materialize().sum(), rows.sum(), atol=1e-9)
    chosen = np.array([4, 0, 1])
    np.testing.assert_allclose(sums.take(chosen).materialize(), rows[chosen], atol=1e-12)
    for robustifier in ROBUSTIFIERS:
        np.testing.assert_allclose(
            robustifier(sums).ravel(), robustifier(rows), atol=1e-6, err_msg=repr(robustifier)
        )


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=12), st.sampled_from(KINDS))
def test_any_index(index, kind):
    operator = make(kind, len(index))
    rows = by_hand(operator, np.array(index), 6)
    for sums in (
        RowSums(operator, RowIndex(np.array(index), 6)),
        RowSums(operator, RowIndex(np.array(index), 6)).resolved(),
    ):
        np.testing.assert_allclose(sums.materialize(), rows, atol=1e-12)
        np.testing.assert_allclose(sums.weighted_sum(np.ones(6)).ravel(), rows.sum(0), atol=1e-10)


def test_a_large_sample_does_not_fill_up_the_others():
    index = np.array([0] * 60 + [1, 2, 3, 4, 5, 6, 7, 8, 9])
    operator = make("outer", 69)
    sums = RowSums(operator, RowIndex(index, 10)).resolved()
    assert isinstance(sums, RowSums)
    rows = by_hand(operator, index, 10)
    estimate = chainrob.GeometricMedian()
    np.testing.assert_allclose(estimate(sums).ravel(), estimate(rows), atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_uses_with_other_rows_add_up(kind):
    """As a tree does that is run one node after the other, and the roots of all at once."""
    n = 6
    uses = [(make(kind, 1, seed), np.array([seed % n])) for seed in range(9)]
    uses.append((make(kind, n, 99), np.arange(n)))
    expected = sum(by_hand(operator, index, n) for operator, index in uses)
    parts = [RowSums(operator, RowIndex(index, n)) for operator, index in uses[:-1]]
    total = add_up([*parts, uses[-1][0]])
    np.testing.assert_allclose(total.materialize(), expected, atol=1e-12)
    if kind in ("outer", "embedding"):
        assert type(total) is not RowSums


def test_uses_of_other_sizes():
    a, b = (OuterProducts(np.ones((3, s, 2)), np.ones((3, s, 2))) for s in (1, 2))
    index = RowIndex(np.array([0, 1, 1]), 2)
    total = add_up([RowSums(a, index), RowSums(b, index)])
    np.testing.assert_allclose(total.materialize()[:, 0], [3, 6])
    c, d = (
        PatchProducts(np.ones((3, 1, s + 1)), np.ones((3, 1, s)), Geometry((2,), (1,), (1,), 1))
        for s in (2, 3)
    )
    with pytest.raises(NotImplementedError, match=r"of one kind and size, found \['PatchProducts'"):
        add_up([RowSums(c, index), RowSums(d, index)])


def test_a_bias_stays_that_of_its_weights():
    weights = make("outer")
    index = RowIndex(INDEX[0], 5)
    summed = summed_rows({1: weights, 2: weights.bias()}, index)
    assert summed[2].weights is summed[1]
    joined = Joined([summed[1], summed[2]])
    rows = np.hstack([by_hand(weights, INDEX[0], 5), by_hand(weights.bias(), INDEX[0], 5)])
    np.testing.assert_allclose(joined.gram(), rows @ rows.T, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_that_is_no_number_costs_its_sample_only(kind):
    operator = make(kind)
    factor = operator.factors[-1]
    factor[0] = np.nan
    sums = RowSums(operator, RowIndex(INDEX[0], 5)).resolved()
    assert sums.finite_rows().tolist() == [False, True, True, True, True]
    good = by_hand(make(kind), INDEX[0], 5)[1:]
    with pytest.warns(chainrob.NonFiniteGradientWarning):
        found = chainrob.CoordinateMedian()(sums)
    np.testing.assert_allclose(found.ravel(), np.median(good, axis=0), atol=1e-12)


@pytest.mark.parametrize("kind", ["outer", "dense"])
@pytest.mark.parametrize("robustifier", [ROBUSTIFIERS[1], chainrob.SoftTruncation()], ids=repr)
def test_the_pullback_reaches_the_single_rows(kind, robustifier):
    index = RowIndex(INDEX[0], 5)
    operator = make(kind)
    size = operator.size
    v = np.random.default_rng(3).normal(size=size)
    pulled = robustifier.pullback(
        RowSums(operator, index).with_pullback(), v.reshape(operator.shape)
    )
    for number, found in enumerate(pulled):
        assert found.shape == operator.factors[number].shape
        for where in [(0,) * found.ndim, (3,) + (1,) * (found.ndim - 1)]:
            ends = []
            for sign in (1, -1):
                factors = [one.copy() for one in operator.factors]
                factors[number][where] += sign * 1e-5
                moved = RowSums(operator.with_factors(*factors), index)
                ends.append(robustifier(moved).ravel() @ v)
            slope = (ends[0] - ends[1]) / 2e-5
            np.testing.assert_allclose(found[where], slope, rtol=1e-4, atol=1e-6)
