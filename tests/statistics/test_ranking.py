import numpy as np
import pytest
from scipy import stats

from chainrob.statistics import rank_methods


def losses(problems=12, methods=4, seed=0):
    return np.random.default_rng(seed).normal(size=(problems, methods)) + np.arange(methods) * 0.6


def test_with_every_problem_its_own_group_the_test_is_friedmans():
    table = losses(40, 4, seed=3)
    near = table - np.arange(4) * 0.45
    found = rank_methods(near, np.arange(40))
    p = stats.friedmanchisquare(*near.T).pvalue
    assert found.p_value == pytest.approx(p, abs=0.02)
    assert 0.001 < p < 0.9
    np.testing.assert_allclose(found.ranks, stats.rankdata(near, axis=1).mean(axis=0))


def test_critical_difference_is_the_tables():
    # Demsar 2006, table 5: q_0.05 for 4 classifiers is 2.569.
    difference = rank_methods(losses(40, 4), np.arange(40)).critical_difference
    assert difference == pytest.approx(2.569 * np.sqrt(4 * 5 / (6 * 40)), rel=0.03)


def test_methods_that_are_alike_are_called_alike():
    same = rank_methods(np.ones((5, 3)), np.arange(5))
    assert same.p_value == 1
    assert (same.pairwise == 1).all()
    assert (same.ranks == 2).all()


def test_a_problem_said_five_times_over_is_no_more_evidence_than_said_once():
    table = losses(6, 4)
    once = rank_methods(table, groups=np.arange(6))
    often = rank_methods(np.repeat(table, 5, axis=0), groups=np.repeat(np.arange(6), 5))
    assert often.p_value == once.p_value
    assert often.critical_difference == pytest.approx(once.critical_difference)
    np.testing.assert_array_equal(often.pairwise, once.pairwise)
    independent = rank_methods(np.repeat(table, 5, axis=0), np.arange(30))
    assert independent.critical_difference < 0.6 * once.critical_difference


def test_tests_by_permutation_keep_their_level_where_problems_of_a_group_are_alike():
    # Methods alike on average, but one data set's problems share who is better there. About 6 of
    # 120 such comparisons may be refused (1 to 13: three deviations); the classical test refuses
    # most.
    rng = np.random.default_rng(4)
    groups = np.repeat(np.arange(6), 5)
    refused = np.zeros(3)
    for _ in range(120):
        table = rng.normal(size=(6, 5))[groups] + 0.3 * rng.normal(size=(30, 5))
        found = rank_methods(table, groups=groups, permutations=399)
        classical = stats.friedmanchisquare(*table.T)
        farthest = np.ptp(found.ranks)
        assert found.pairwise.min() == pytest.approx(found.pairwise[
            found.ranks.argmin(), found.ranks.argmax()
        ])  # fmt: skip
        refused += [
            found.p_value <= 0.05, farthest > found.critical_difference, classical.pvalue <= 0.05
        ]  # fmt: skip
    assert 1 <= refused[0] <= 13
    assert 1 <= refused[1] <= 13
    assert refused[2] > 40


def test_of_one_group_nothing_follows():
    found = rank_methods(losses(5, 3), groups=[0] * 5)
    assert found.p_value == 1
    assert found.critical_difference == pytest.approx(np.ptp(found.ranks))
    with pytest.raises(ValueError, match=r"groups must have shape \(5,\), found \(4,\)"):
        rank_methods(losses(5, 3), groups=[0] * 4)


@pytest.mark.parametrize("table", [[[1, 2]], [[1], [2]], [1, 2], [[1, 2], [np.nan, 1]]])
def test_bad_tables(table):
    with pytest.raises(ValueError, match="losses must"):
        rank_methods(table, np.arange(len(table)))
