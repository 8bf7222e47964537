"""What every robustifier promises: invariances, edges, and what a row far away may do."""

import copy
import pickle
import warnings
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import chainrob
from tests.robustifiers.cases import CASES, IDS, clean_rows, diameter

every = pytest.mark.parametrize("case", CASES, ids=IDS)
few = settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
seeds = st.integers(0, 2**32 - 1)
sizes = st.integers(5, 12)


def problem(case, n, seed):
    return case.make(min(2, case.limit(n))), clean_rows(n, case.dim + 2, seed)


@every
@few
@given(n=sizes, seed=seeds)
def test_permutation(case, n, seed):
    if not case.permutation:
        pytest.skip("has blocks")
    robustifier, rows = problem(case, n, seed)
    order = np.random.default_rng(seed).permutation(n)
    expected = robustifier(rows)
    np.testing.assert_allclose(robustifier(rows[order]), expected, rtol=1e-7, atol=1e-7)
    weights = robustifier.sample_weights(rows)[order]
    np.testing.assert_allclose(robustifier.sample_weights(rows[order]), weights, atol=1e-6)


@every
@few
@given(n=sizes, seed=seeds, size=st.sampled_from([1e-3, 1.0, 1e4]))
def test_translation(case, n, seed, size):
    if not case.translation:
        pytest.skip("not promised")
    robustifier, rows = problem(case, n, seed)
    shift = size * np.random.default_rng(seed).normal(size=rows.shape[1])
    found = robustifier(rows + shift)
    np.testing.assert_allclose(found, robustifier(rows) + shift, rtol=1e-7, atol=1e-7)


@every
@pytest.mark.parametrize(
    ("dtype", "exponent"),
    [(np.float64, e) for e in (-900, -600, -40, 40, 600, 900)]
    + [(np.float32, e) for e in (-100, -60, 60, 100)],
)
def test_scale(case, dtype, exponent):
    """A power of two changes no digit, so nothing but the exponent may change."""
    if not case.scale:
        pytest.skip("not promised")
    robustifier, rows = problem(case, 9, 5)
    rows = rows.astype(dtype)
    found = robustifier(np.ldexp(rows, exponent))
    expected = np.ldexp(robustifier(rows), exponent)
    tolerance = 1e-6 if dtype == np.float32 else 1e-9
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=np.ldexp(tolerance, exponent))
    weights = robustifier.sample_weights(np.ldexp(rows, exponent))
    np.testing.assert_allclose(weights, robustifier.sample_weights(rows), atol=1e-4)


@every
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_identical_rows(case, dtype):
    robustifier, rows = problem(case, 9, 6)
    row = (0.1 * rows[0]).astype(dtype)  # shorter than the absolute limits in the table
    found = robustifier(np.tile(row, (9, 1)))
    assert found.dtype == dtype
    eps = np.finfo(dtype).eps
    np.testing.assert_allclose(found, row, rtol=8 * eps, atol=0)
    weights = robustifier.sample_weights(np.tile(row, (9, 1)))
    if case.permutation:
        np.testing.assert_allclose(weights, 1.0)


@every
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rounding_is_no_deviation(case, dtype):
    """The mean of equal values may miss them by a rounding; each still has the weight 1."""
    if not isinstance(case.make(0), chainrob.robustifiers.CoordinateWise):
        pytest.skip("weighs whole rows")
    for n in (3, 5, 12, 33):
        rows = np.tile(0.1 * clean_rows(2, 40, n)[:1], (n, 1)).astype(dtype)
        np.testing.assert_allclose(case.make(0).sample_weights(rows), 1.0)


@every
@pytest.mark.parametrize("n", [3, 9])
def test_zero_rows(case, n):
    robustifier = case.make(min(2, case.limit(n)))
    assert not robustifier(np.zeros((n, 4))).any()


@every
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_one_row(case, dtype):
    row = (0.1 * clean_rows(2, 5)[:1]).astype(dtype)
    found = case.make(0)(row)
    np.testing.assert_allclose(found, row[0], rtol=4 * np.finfo(dtype).eps)
    np.testing.assert_allclose(case.make(0).sample_weights(row), 1.0)


@every
def test_two_rows(case):
    """By symmetry every equivariant estimate of two rows is their mean."""
    if not case.translation and "clipping" in case.name:
        pytest.skip("no symmetry about the mean")
    rows = 0.1 * clean_rows(2, 5)
    found = case.make(0)(rows)
    np.testing.assert_allclose(found, rows.mean(axis=0), rtol=1e-9, atol=1e-9)


@every
def test_no_rows_and_no_columns(case):
    with pytest.raises(ValueError, match="at least one row, found none"):
        case.make(0)(np.zeros((0, 3)))
    assert case.make(0)(np.zeros((4, 0))).shape == (0,)


@every
def test_the_input_is_left_alone(case):
    robustifier, rows = problem(case, 9, 7)
    before = rows.copy()
    rows.flags.writeable = False
    first = robustifier(rows)
    robustifier.sample_weights(rows)
    assert (rows == before).all()
    assert (robustifier(rows) == first).all()  # deterministic, to the last bit


@every
def test_non_finite_rows_are_dropped(case):
    rows = clean_rows(12, case.dim + 2, 8)
    rows[3, 0] = np.nan
    rows[7, 1] = -np.inf
    robustifier = case.make(min(3, case.limit(10)))
    left = np.delete(rows, [3, 7], axis=0)
    with pytest.warns(chainrob.NonFiniteGradientWarning, match=r"2 of 12 .* have weight 0"):
        found = robustifier(rows)
    # Two bad rows are found, so two fewer are assumed among those that are left.
    expected = robustifier.with_dropped(2)(left)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)
    with pytest.warns(chainrob.NonFiniteGradientWarning):
        weights = robustifier.sample_weights(rows)
    assert weights[3] == 0
    assert weights[7] == 0
    np.testing.assert_allclose(
        np.delete(weights, [3, 7]), robustifier.with_dropped(2).sample_weights(left)
    )


@every
def test_non_finite_rows_in_some_replicas(case):
    robustifier = case.make(min(2, case.limit(7)))
    rows = np.stack([clean_rows(9, case.dim + 2, seed) for seed in range(3)])
    rows[1, 2] = np.nan
    rows[2, 5:7] = np.inf
    with pytest.warns(chainrob.NonFiniteGradientWarning, match="3 of 27"):
        found = robustifier(chainrob.sample_gradients.Dense(rows, 1))
    for index, bad in enumerate([[], [2], [5, 6]]):
        expected = robustifier.with_dropped(len(bad))(np.delete(rows[index], bad, axis=0))
        np.testing.assert_allclose(found[index], expected, rtol=1e-6, atol=1e-6)


def with_policy(robustifier, policy):
    if isinstance(robustifier, chainrob.robustifiers.Pipeline):
        last = with_policy(robustifier.robustifier, policy)
        return chainrob.robustifiers.Pipeline(robustifier.steps, last)
    return replace(robustifier, nonfinite=policy)


@every
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_non_finite_rows_raise_or_propagate(case, value):
    robustifier, rows = problem(case, 9, 9)
    strict = with_policy(robustifier, "raise")
    assert (strict(rows) == robustifier(rows)).all()
    rows[2, 1] = value
    with pytest.raises(chainrob.NonFiniteGradientError, match=r"1 of 9 .* nonfinite is 'raise'"):
        strict(rows)
    with pytest.raises(chainrob.NonFiniteGradientError, match="no finite row is left"):
        robustifier(rows[2:3])
    blind = with_policy(robustifier, "propagate")
    assert blind(rows).shape == rows.shape[1:]  # neither warns nor raises
    assert "propagate" in repr(blind)


@every
def test_breakdown(case):
    """Up to the promised number of rows, wherever they are sent, the estimate stays put."""
    if not case.robust:
        pytest.skip("breakdown point 0")
    for n in (11, 12):
        f = case.limit(n)
        rows = clean_rows(n, case.dim + 2, 10)
        good = rows[f:]
        rng = np.random.default_rng(n)
        direction = rng.normal(size=rows.shape[1])
        signs = np.where(np.arange(f) % 2, 1.0, -1.0)[:, None]
        attacks = {
            "one point": np.tile(1e12 * direction, (f, 1)),
            "one axis": np.tile(-1e12 * np.eye(rows.shape[1])[0], (f, 1)),
            "both sides": 1e12 * signs * direction,
            "everywhere": 1e12 * rng.normal(size=(f, rows.shape[1])),
            "at many scales": 10.0 ** np.linspace(2, 12, f)[:, None] * direction,
        }
        reach = case.multiple * diameter(good)
        for name, bad in attacks.items():
            rows[:f] = bad
            shuffled = rows[rng.permutation(n)] if case.permutation else rows
            moved = np.linalg.norm(case.make(f)(shuffled) - good.mean(axis=0))
            assert moved <= reach, (name, n, f, moved / diameter(good))


def test_the_mean_fails_the_breakdown_test():
    for make in (chainrob.Mean, chainrob.SoftTruncation, chainrob.MEstimator):
        rows = clean_rows(11, 3)
        rows[0] = 1e12
        assert np.linalg.norm(make()(rows) - rows[1:].mean(axis=0)) > 1e6 * diameter(rows[1:])


@every
def test_more_bad_rows_than_it_can_stand_are_refused(case):
    robustifier = case.make(5)
    if robustifier.with_dropped(5) == robustifier and "median_of_means" not in case.name:
        pytest.skip("no parameter counts bad rows")
    with pytest.raises(ValueError, match=r"below the number of samples|must not exceed"):
        robustifier(clean_rows(10, 4))


@every
def test_sample_weights(case):
    robustifier, rows = problem(case, 12, 11)
    weights = robustifier.sample_weights(rows)
    assert weights.shape == (12,)
    assert weights.dtype == np.float64
    assert (weights >= -1e-12).all()
    if isinstance(robustifier, chainrob.robustifiers.Weighting):
        np.testing.assert_allclose(weights @ rows / 12, robustifier(rows), rtol=1e-9, atol=1e-9)
    if case.name == "mean":
        assert (weights == 1).all()
    if not case.robust or not case.permutation:
        return
    rows[5, 0] += 50.0  # one coordinate of one row
    weights = robustifier.sample_weights(rows)
    others = np.delete(weights, 5)
    if case.name in ("krum", "multi_krum-m"):
        assert weights[5] == 0
    else:
        assert weights[5] < 0.35 * np.median(others)
        assert weights[5] <= others.min() + 1e-12


@every
def test_immutable_hashable_picklable_printable(case):
    robustifier = case.make(1)
    assert robustifier == case.make(1)
    assert hash(robustifier) == hash(case.make(1))
    assert len({robustifier, case.make(1), chainrob.Mean(nonfinite="raise")}) == 2
    for twin in (
        pickle.loads(pickle.dumps(robustifier)),
        copy.deepcopy(robustifier),
        eval(repr(robustifier), vars(chainrob)),
        chainrob.robustifiers.get(repr(robustifier)),
    ):
        assert twin == robustifier
        assert repr(twin) == repr(robustifier)
    assert "None" not in repr(robustifier)
    with pytest.raises(AttributeError):
        robustifier.nonfinite = "raise"
    assert type(robustifier).__doc__


def test_dynamic_range():
    """A row far beyond the square root of the largest number is still only a bad row."""
    rows = clean_rows(9, 7)
    expected = {c.name: c.make(1)(rows[np.arange(9) != 4]) for c in CASES if c.robust}
    rows[4] *= 1e190
    for case in CASES:
        if case.robust:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                found = case.make(1)(rows)
            reach = 10 * diameter(np.delete(rows, 4, axis=0))
            assert np.linalg.norm(found - expected[case.name]) < reach, case.name
    rows[4] *= 1e100
    with pytest.raises(chainrob.NonFiniteGradientError, match="does not fit into float64"):
        chainrob.GeometricMedian()(rows)
