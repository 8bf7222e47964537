"""Parameters that cannot work, options of single robustifiers, and messages."""

from functools import partial

import numpy as np
import pytest

import chainrob as C
from chainrob.sample_gradients.operator_base import squared_distances
from tests.oracles import estimators as oracle
from tests.robustifiers.cases import clean_rows


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (partial(C.TrimmedMean), "give either fraction or count, found fraction=None, count=None"),
        (partial(C.TrimmedMean, 0.1, 2), "give either fraction or count"),
        (partial(C.TrimmedMean, 0.5), r"fraction must lie in \[0, 0.5\), found 0.5"),
        (partial(C.TrimmedMean, "0.1"), r"fraction must lie in \[0, 0.5\), found '0.1'"),
        (partial(C.WinsorizedMean, count=-1), "WinsorizedMean: count must be an integer"),
        (partial(C.WinsorizedMean, count=True), "found True"),
        (partial(C.Krum, 1.5), "Krum: f must be an integer of at least 0, found 1.5"),
        (partial(C.Krum, None), "found None"),
        (partial(C.Krum, "2"), "found '2'"),
        (partial(C.Krum, 1, squared="false"), "Krum: squared must be True or False, found 'false'"),
        (partial(C.MultiKrum, 1, count_self=1), "MultiKrum: count_self must be True or False"),
        (partial(C.Krum, 1, neighbors="n"), "neighbors must be one of 'n-f-2', 'n-f-1', 'n-f'"),
        (partial(C.MultiKrum, 1, 0), "MultiKrum: m must be an integer of at least 1, found 0"),
        (partial(C.MedianOfMeans, 0), "n_blocks must be an integer of at least 1, found 0"),
        (partial(C.MedianOfMeans, 3, center="mode"), "center must be one of"),
        (partial(C.CenteredClipping, 0.0), "radius must be a positive number, found 0.0"),
        (partial(C.CenteredClipping, float("nan")), "radius must be a positive number, found nan"),
        (partial(C.CenteredClipping, iterations=0), "iterations must be an integer of at least 1"),
        (partial(C.CenteredClipping, start="last"), "start must be one of 'medoid', 'zero'"),
        (partial(C.ClipNorm, float("inf")), "max_norm must be a positive number, found inf"),
        (partial(C.Bucketing, 0), "size must be an integer of at least 1, found 0"),
        (partial(C.Bucketing, 2, -1), "seed must be an integer of at least 0, found -1"),
        (partial(C.MEstimator, "huber"), "rho must be one of 'pseudo_huber', .* found 'huber'"),
        (partial(C.MEstimator, delta=1.0), "delta must lie strictly between 0 and 1, found 1.0"),
        (partial(C.MEstimator, scale=-1.0), "scale must be a positive number, found -1.0"),
        (partial(C.MEstimator, pilot="mode"), "pilot must be one of 'mean', 'median'"),
        (partial(C.SoftTruncation, 0.0), "delta must lie strictly between 0 and 1, found 0.0"),
        (partial(C.SoftTruncation, min_variance=-1.0), "min_variance must be at least 0"),
        (partial(C.SoftTruncation, min_variance=float("inf")), "and finite, found inf"),
        (
            partial(C.SoftTruncation, min_variance="0"),
            "min_variance must be at least 0 .* found '0'",
        ),
        (partial(C.GeometricMedian, smoothing="1"), "smoothing must lie strictly .* found '1'"),
        (partial(C.GeometricMedian, max_iterations=2.5), "max_iterations must be an integer"),
        (partial(C.GeometricMedian, tolerance=0.0), "tolerance must lie strictly between 0 and 1"),
        (partial(C.Mean, nonfinite="ignore"), "nonfinite must be one of .* found 'ignore'"),
    ],
)
def test_refused_when_made(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("robustifier", "message"),
    [
        (
            C.TrimmedMean(count=3),
            r"TrimmedMean: 2 \* count must be below .* with 6 samples",
        ),
        (C.MeanAroundMedian(3), r"MeanAroundMedian: 2 \* f must be below .* f=3 with 6 samples"),
        (C.Krum(2), r"Krum: 2f \+ 2 must be below .* f=2 with 6 samples"),
        (C.MultiKrum(1, m=6), "m must not exceed .* found m=6 with 6 samples and f=1"),
        (C.MedianOfMeans(7), "found 7 blocks for 6 samples"),
        (C.NearestNeighborMixing(3) >> C.Mean(), r"NearestNeighborMixing: 2 \* f"),
        (C.Bucketing(2) >> C.TrimmedMean(count=2), "count=2 with 3 samples"),
        (
            C.Bucketing(2) >> C.AdaptiveRobustClipping(2) >> C.Mean(),
            "AdaptiveRobustClipping: .* f=2 with 3 samples",
        ),
    ],
)
def test_refused_for_the_number_of_samples(robustifier, message):
    with pytest.raises(ValueError, match=message):
        robustifier(clean_rows(6, 3))


@pytest.mark.parametrize(
    ("rows", "error", "message"),
    [
        ([[1.0]], TypeError, "must be a NumPy or CuPy array .* found list"),
        (np.ones((3, 2), int), TypeError, "must have a floating point dtype, found int64"),
        (np.ones(3), ValueError, r"must have two axes \(N, D\), found shape \(3,\)"),
    ],
)
def test_refused_gradients(rows, error, message):
    with pytest.raises(error, match=message):
        C.Mean()(rows)
    with pytest.raises(error, match=message):
        C.ClipNorm(1.0)(rows)


@pytest.mark.parametrize("neighbors", ["n-f-2", "n-f-1", "n-f"])
@pytest.mark.parametrize("count_self", [True, False])
@pytest.mark.parametrize("squared", [True, False])
def test_krum_as_published_packages_have_it(neighbors, count_self, squared):
    for seed in range(20):
        rows = clean_rows(11, 3, seed)
        rows[:2] += 4.0
        f = 3
        n_others = 11 - f - {"n-f-2": 2, "n-f-1": 1, "n-f": 0}[neighbors] - count_self
        options = {"n_neighbors": n_others, "squared": squared}
        ours = {"neighbors": neighbors, "count_self": count_self, "squared": squared}
        np.testing.assert_array_equal(C.Krum(f, **ours)(rows), oracle.krum(rows, f, **options))
        np.testing.assert_allclose(
            C.MultiKrum(f, m=4, **ours)(rows), oracle.multi_krum(rows, f, 4, **options)
        )


def test_rows_that_tie_share():
    square = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    np.testing.assert_allclose(C.Krum(0)(square), [0.5, 0.5])
    np.testing.assert_allclose(C.Krum(0).sample_weights(square), 1.0)
    np.testing.assert_allclose(C.SMEA(1)(square), [0.5, 0.5])
    np.testing.assert_allclose(C.MinimumDiameterAveraging(1)(square), [0.5, 0.5])
    line = np.array([[-2.0], [-1.0], [0.0], [1.0], [2.0]])
    np.testing.assert_allclose(C.MeanAroundMedian(1)(line), 0.0)
    np.testing.assert_allclose(C.Phocas(1)(line), 0.0)
    # Dropping one row more would leave the diameter as it is, so nothing is dropped.
    grid = np.array([[0.0], [0.0], [0.0], [1.0], [1.0]])
    np.testing.assert_allclose(C.MinimumDiameterAveraging(1)(grid), [0.4])
    ones = np.array([[1.0], [1.0], [1.0], [2.0]])
    np.testing.assert_allclose(C.TrimmedMean(count=1).sample_weights(ones), [1, 1, 1, 0])


@pytest.mark.parametrize("n", [1, 2, 7, 1000])
@pytest.mark.parametrize("estimator", [C.TrimmedMean, C.WinsorizedMean])
def test_a_fraction_just_below_a_half_leaves_the_median(estimator, n):
    rows = clean_rows(n, 3)
    just_below = np.nextafter(0.5, 0.0)
    np.testing.assert_allclose(estimator(just_below)(rows), np.median(rows, axis=0), atol=1e-12)


def test_minimum_diameter_among_many_rows_and_its_refusal():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(200, 20))
    rows[:40] += 30.0 * rng.normal(size=20)
    found = C.MinimumDiameterAveraging(40)(rows)
    np.testing.assert_allclose(found, rows[40:].mean(axis=0))
    with pytest.raises(ValueError, match=r"the 4.53e\+58 subsets of 100 of 199 rows was given up"):
        C.MinimumDiameterAveraging(99)(rng.normal(size=(199, 50)))


def test_smea_refuses_a_hopeless_search():
    message = r"SMEA: the 90 rows to average are sought among 1.73e\+13 subsets of 100"
    with pytest.raises(ValueError, match=message):
        C.SMEA(10)(clean_rows(100, 3))


def test_m_estimator_with_a_given_scale():
    rows = clean_rows(9, 4)
    for rho in oracle.PSI:
        expected = oracle.m_estimator(rows, rho, scale=0.7)
        np.testing.assert_allclose(C.MEstimator(rho, scale=0.7)(rows), expected, rtol=1e-9)
        # In the limits it is the mean and the median.
        wide = C.MEstimator(rho, scale=1e7)(rows)
        np.testing.assert_allclose(wide, rows.mean(axis=0), rtol=1e-6)
    narrow = C.MEstimator("log_cosh", scale=1e-3)(rows)
    np.testing.assert_allclose(narrow, np.median(rows, axis=0), atol=5e-3)


def test_m_estimator_says_when_it_does_not_converge():
    with pytest.warns(C.ConvergenceWarning, match=r"stopped after 1 iterations with a step of"):
        C.MEstimator(max_iterations=1)(clean_rows(9, 4))


def test_m_estimator_with_most_values_at_the_pivot():
    """More than 1 - beta of the values are equal: the scale is zero, and the pivot the answer."""
    rows = np.zeros((10, 1))
    rows[:3, 0] = [1.0, 2.0, 3.0]
    robustifier = C.MEstimator(pilot="median")
    np.testing.assert_array_equal(robustifier(rows), 0.0)
    np.testing.assert_array_equal(robustifier.sample_weights(rows), [0, 0, 0] + [1] * 7)
    assert 0.2 < C.MEstimator(pilot="mean")(rows)[0] < 0.6


def test_geometric_median_on_a_row():
    """The optimum is a row: exactly, and where most rows coincide without any iteration."""
    rows = np.array([[0.0, 0.0], [5.0, 0.0], [-1.0, 3.0], [-1.0, -3.0], [0.0, 0.5]])
    found = C.GeometricMedian()(rows)
    cost = [np.linalg.norm(rows - z, axis=1).sum() for z in (*rows, found)]
    assert cost[-1] <= min(cost) * (1 + 1e-5)
    rows = np.array([[3.0, 1.0]] * 3 + [[1e9, 0.0], [0.0, -1e9]])
    np.testing.assert_array_equal(C.GeometricMedian()(rows), [3.0, 1.0])
    assert C.GeometricMedian().solve(rows @ rows.T).iterations <= 2


def test_pipelines_take_nothing_else():
    mixing = C.NearestNeighborMixing(1)
    with pytest.raises(TypeError, match="needs a Robustifier or another pre-aggregation, found"):
        mixing >> np.mean
    with pytest.raises(TypeError, match="Mean gives one gradient, so nothing can follow it"):
        C.Mean() >> mixing
    with pytest.raises(TypeError, match="gives one gradient"):
        (mixing >> C.Mean()) >> C.Mean()
    behind = C.robustifiers.FromFunction(lambda rows: rows.max(axis=0))
    rows = clean_rows(7, 3)
    expected = oracle.nearest_neighbor_mixing(rows, 1).max(axis=0)
    np.testing.assert_allclose((mixing >> behind)(rows), expected)
    with pytest.raises(TypeError, match="nobody knows the sample weights"):
        (mixing >> behind).sample_weights(rows)


def test_pipelines_associate():
    a, b, c = C.ClipNorm(2.0), C.Bucketing(2), C.CoordinateMedian()
    assert (a >> b) >> c == a >> (b >> c)
    assert repr((a >> b) >> c) == repr(a >> (b >> c))
    assert C.robustifiers.get(repr(a >> b)) == a >> b
    assert (a >> b) >> (b >> a) == a >> b >> b >> a
    strict = a >> C.CoordinateMedian(nonfinite="raise")
    assert strict.nonfinite == "raise"


@pytest.mark.parametrize(
    ("step", "mixed"),
    [
        (C.NearestNeighborMixing(2), lambda rows: oracle.nearest_neighbor_mixing(rows, 2)),
        (C.Bucketing(3, seed=5), lambda rows: oracle.bucketing(rows, 3, 5)),
        (C.ClipNorm(1.2), lambda rows: oracle.clip_norm(rows, 1.2)),
        (C.AdaptiveRobustClipping(3), lambda rows: oracle.adaptive_robust_clipping(rows, 3)),
        (
            C.ClipNorm(1.2) >> C.Bucketing(2),
            lambda rows: oracle.bucketing(oracle.clip_norm(rows, 1.2), 2, 0),
        ),
    ],
)
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-12), (np.float32, 1e-6)])
def test_pre_aggregations_by_themselves(step, mixed, dtype, tolerance):
    rows = clean_rows(10, 4).astype(dtype)
    found = step(rows)
    assert found.dtype == dtype
    expected = mixed(rows.astype(float))
    np.testing.assert_allclose(found, expected, rtol=10 * tolerance, atol=tolerance)
    operator = step(C.sample_gradients.Dense(rows))
    np.testing.assert_allclose(operator.materialize(), expected, atol=10 * tolerance)
    gram = expected @ expected.T
    np.testing.assert_allclose(operator.gram(), gram, rtol=1e-5, atol=1e-5)
    distances = squared_distances(operator.centered_gram())
    np.testing.assert_allclose(distances, oracle.squared_distances(expected), atol=1e-5)
    rows[1, 1] = np.nan
    with pytest.raises(C.NonFiniteGradientError, match="must be finite by themselves"):
        step(rows)


def test_clipping_has_its_unit_at_any_scale():
    """Limits are absolute: at 1e200 all rows are clipped, at 1e-200 none."""
    rows = clean_rows(8, 3)
    huge = C.ClipNorm(2.0)(rows * 1e200)
    np.testing.assert_allclose(np.linalg.norm(huge, axis=1), 2.0)
    np.testing.assert_array_equal(C.ClipNorm(2.0)(rows * 1e-200), rows * 1e-200)
    far = C.CenteredClipping(1.0, iterations=1, start="zero")(rows * 1e200)
    np.testing.assert_allclose(
        far, np.mean(rows / np.linalg.norm(rows, axis=1, keepdims=True), axis=0)
    )


@pytest.mark.parametrize(
    ("robustifier", "left"),
    [
        (C.MedianOfMeans(10), C.MedianOfMeans(8)),
        (C.MedianOfMeans(9, center="coordinate"), C.MedianOfMeans(8, center="coordinate")),
        (C.MedianOfMeans(4), C.MedianOfMeans(4)),
        (C.MultiKrum(0, m=10), C.MultiKrum(0, m=8)),
        (C.MultiKrum(1, m=9), C.MultiKrum(0, m=8)),
        (C.MultiKrum(3, m=7), C.MultiKrum(1, m=7)),
        (C.Bucketing(2) >> C.MedianOfMeans(5), C.Bucketing(2) >> C.MedianOfMeans(4)),
    ],
    ids=repr,
)
def test_counts_that_the_rows_left_cannot_fill_are_cut_down(robustifier, left):
    rows = clean_rows(10, 3)
    kept = np.delete(rows, [2, 6], axis=0)
    rows[[2, 6], 1] = np.nan
    with pytest.warns(C.NonFiniteGradientWarning, match="2 of 10"):
        found = robustifier(rows)
    np.testing.assert_allclose(found, left(kept), rtol=1e-12)


def test_a_radius_at_any_scale():
    rows = clean_rows(8, 3)
    with pytest.raises(ValueError, match=r"at least 2\*\*-1022 .* found radius=1e-300 with"):
        C.CenteredClipping(1e-300, start="zero")(rows * 1e100)
    # A radius that is beyond all numbers in the unit of the rows clips nothing.
    wide = C.CenteredClipping(1e300, iterations=1)(rows * 1e-100)
    np.testing.assert_allclose(wide, rows.mean(axis=0) * 1e-100, rtol=1e-12)
