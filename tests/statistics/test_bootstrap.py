import numpy as np
import pytest
from scipy import stats

from chainrob.statistics import bootstrap_interval


def test_agrees_with_the_normal_interval_for_a_large_normal_sample():
    sample = np.random.default_rng(0).normal(3.0, 2.0, size=500)
    low, high = bootstrap_interval(sample)
    half = 1.96 * sample.std(ddof=1) / np.sqrt(len(sample))
    assert low == pytest.approx(sample.mean() - half, abs=0.1 * half)
    assert high == pytest.approx(sample.mean() + half, abs=0.1 * half)


def test_agrees_with_scipy_on_a_bimodal_sample():
    sample = np.array([0.05] * 13 + [0.7] * 7)
    theirs = stats.bootstrap(
        (sample,), np.mean, n_resamples=20000, method="percentile", rng=1
    ).confidence_interval
    ours = bootstrap_interval(sample, size=len(sample), resamples=20000)
    np.testing.assert_allclose(ours, theirs, atol=0.01)


def test_tails_are_those_of_the_expanded_percentiles():
    # Student's table has 2.262 for 9 degrees of freedom and 2.093 for 19; the normal distribution
    # leaves 0.86% below -2.262 sqrt(10/9), and 1.59% below -2.093 sqrt(20/19); 1.968 for 299
    # leaves 2.43% below -1.968 sqrt(300/299).
    for n, tail in ((10, 0.0086), (20, 0.0159), (300, 0.0243)):
        sample = np.random.default_rng(n).normal(size=n)
        theirs = stats.bootstrap(
            (sample,), np.mean, n_resamples=40000, method="percentile", rng=1,
            confidence_level=1 - 2 * tail,
        ).confidence_interval  # fmt: skip
        width = theirs.high - theirs.low
        ours = bootstrap_interval(sample, resamples=40000)
        np.testing.assert_allclose(ours, theirs, atol=0.02 * width)


@pytest.mark.parametrize(("n", "least"), [(5, 0.89), (8, 0.92), (20, 0.92)])
def test_small_samples_are_covered_nearly_as_often_as_large_ones(n, least):
    # 4000 runs gave 91.7%, 94.0% and 93.9%, and plain percentiles 83.5%, 87.2% and 91.7%; here
    # 1000 runs with a binomial error of 0.8%.
    runs = np.random.default_rng(6).normal(size=(n, 1000))
    low, high = bootstrap_interval(runs, resamples=2000)
    assert least <= ((low <= 0) & (high >= 0)).mean() <= 0.975


def test_covers_the_truth_about_as_often_as_it_says():
    # 60 trials of which each is bad with probability 0.4: the coverage over 400 such runs is
    # 95% less what percentile intervals of a small sample lose; binomial error 1.1%.
    rng = np.random.default_rng(5)
    runs = np.where(rng.random((400, 60)) < 0.4, 0.7, 0.05)
    truth = 0.4 * 0.7 + 0.6 * 0.05
    ends = np.array([bootstrap_interval(run, resamples=500) for run in runs])
    covered = ((ends[:, 0] <= truth) & (truth <= ends[:, 1])).mean()
    assert 0.91 <= covered <= 0.98


def test_size_tells_how_means_of_fewer_trials_scatter():
    sample = np.random.default_rng(2).normal(size=(500, 3))
    of_all = np.ptp(bootstrap_interval(sample), axis=0)
    of_20 = np.ptp(bootstrap_interval(sample, size=20), axis=0)
    np.testing.assert_allclose(of_20 / of_all, 5.0, rtol=0.12)


def test_seeded_and_exact_for_equal_trials():
    sample = np.random.default_rng(2).normal(size=(7, 2, 2))
    np.testing.assert_array_equal(bootstrap_interval(sample), bootstrap_interval(sample))
    assert bootstrap_interval(sample).shape == (2, 2, 2)
    np.testing.assert_allclose(bootstrap_interval(np.full(9, 0.25)), 0.25)


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        ([], {}, "at least one trial"),
        (1.0, {}, "at least one trial"),
        ([1.0], {"level": 1.0}, "level must lie strictly between 0 and 1"),
        ([1.0], {"size": 0}, "size must be at least 1"),
    ],
)
def test_bad_input_is_named(values, options, message):
    with pytest.raises(ValueError, match=message):
        bootstrap_interval(values, **options)
