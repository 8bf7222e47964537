import numpy as np
import pytest
from scipy import stats

from chainrob.statistics import holm, rank_methods


def losses(problems=12, methods=4, seed=0):
    return np.random.default_rng(seed).normal(size=(problems, methods)) + np.arange(methods) * 0.6


def test_friedman_agrees_with_scipy_with_and_without_ties():
    for table in (losses(), losses().round(0)):
        found = rank_methods(table)
        assert found.p_value == pytest.approx(stats.friedmanchisquare(*table.T).pvalue)
        np.testing.assert_allclose(found.ranks, stats.rankdata(table, axis=1).mean(axis=0))


def test_wilcoxon_agrees_with_scipy_before_the_correction():
    table = losses(methods=2)
    exact = stats.wilcoxon(table[:, 0], table[:, 1], method="exact").pvalue
    assert rank_methods(table).pairwise[0, 1] == pytest.approx(exact)


def test_critical_difference_is_the_tables():
    # Demsar 2006, table 5: q_0.05 for 4 classifiers is 2.569; his example has 14 data sets.
    difference = rank_methods(losses(14, 4)).critical_difference
    assert difference == pytest.approx(2.569 * np.sqrt(4 * 5 / (6 * 14)), abs=1e-3)


def test_methods_that_are_alike_are_called_alike():
    same = rank_methods(np.ones((5, 3)))
    assert same.p_value == 1
    assert (same.pairwise == 1).all()
    assert (same.ranks == 2).all()


def test_holm_rejects_what_the_step_down_rule_rejects():
    p = np.array([0.001, 0.2, 0.012, 0.03])
    ordered = np.sort(p)
    passed = np.cumprod([q <= 0.05 / (4 - i) for i, q in enumerate(ordered)]).astype(bool)
    rejected = set(ordered[passed])
    assert {q for q, c in zip(p, holm(p), strict=True) if c <= 0.05} == rejected
    assert (holm(p) >= p).all()


@pytest.mark.parametrize("table", [[[1, 2]], [[1], [2]], [1, 2], [[1, 2], [np.nan, 1]]])
def test_bad_tables(table):
    with pytest.raises(ValueError, match="losses must"):
        rank_methods(table)
