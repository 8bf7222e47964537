"""Robustifiers that ask for more than the gradients: groups and losses of the samples."""

import pickle

import numpy as np
import pytest

import chainrob
import chainer
from chainrob.robustifiers import Grouped, MedianOfMeansMinimization
from chainrob.sample_gradients import Dense, OuterProducts
from tests.oracles import estimators as oracle
from tests.robustifiers.cases import clean_rows


def grouped_oracle(rows, groups, estimator):
    parts = [(np.mean(groups == key), estimator(rows[groups == key])) for key in set(groups)]
    return sum(share * part for share, part in parts)


@pytest.mark.parametrize("robustifier", [chainrob.CoordinateMedian(), chainrob.GeometricMedian()])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_each_group_is_estimated_by_itself(robustifier, dtype):
    rows = clean_rows(17, 7).astype(dtype)
    groups = np.array(list("abcabcabcabcabcab"))
    name = "median" if isinstance(robustifier, chainrob.CoordinateMedian) else "geometric_median"
    expected = grouped_oracle(rows.astype(float), groups, getattr(oracle, name))
    with chainrob.sample_facts(groups=groups):
        found = Grouped(robustifier)(rows)
    assert found.dtype == dtype
    tolerance = {np.float16: 3e-3, np.float32: 1e-5, np.float64: 1e-6}[dtype]
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)


def test_small_groups_are_put_together():
    rows = clean_rows(12, 3)
    groups = np.array([0] * 6 + [1] * 2 + [2] * 3 + [3])
    median = chainrob.CoordinateMedian()
    with chainrob.sample_facts(groups=groups):
        found = Grouped(median, least=5)(rows)
        np.testing.assert_allclose(found, (median(rows[:6]) + median(rows[6:])) / 2)
        # The six left over are too few for a group of seven, and so are the first six.
        np.testing.assert_allclose(Grouped(median, least=7)(rows), median(rows))
    with chainrob.sample_facts(groups=np.array([0] * 4 + [1] * 7 + [2])):
        found = Grouped(median, least=4)(rows)
        joined = median(rows[[0, 1, 2, 3, 11]])
        np.testing.assert_allclose(found, joined * 5 / 12 + median(rows[4:11]) * 7 / 12)


def test_the_mean_within_groups_is_the_mean():
    rows = clean_rows(20, 3)
    with chainrob.sample_facts(groups=np.arange(20) % 3):
        np.testing.assert_allclose(Grouped(chainrob.Mean())(rows), rows.mean(axis=0))
        np.testing.assert_allclose(Grouped(chainrob.Mean()).sample_weights(rows), 1.0)


def test_weights_and_dropped_rows_keep_their_groups():
    rows = clean_rows(12, 3)
    rows[2] = np.nan
    rows[9] = 1e6
    groups = np.array([0, 1] * 6)
    kept = np.delete(np.arange(12), 2)
    with chainrob.sample_facts(groups=groups), pytest.warns(chainrob.NonFiniteGradientWarning):
        found = Grouped(chainrob.GeometricMedian())(rows)
    with chainrob.sample_facts(groups=groups[kept]):
        np.testing.assert_allclose(found, Grouped(chainrob.GeometricMedian())(rows[kept]))
    with chainrob.sample_facts(groups=groups), pytest.warns(chainrob.NonFiniteGradientWarning):
        weights = Grouped(chainrob.GeometricMedian()).sample_weights(rows)
    assert weights[2] == 0
    assert weights[9] < 1e-4
    stacked = np.stack([rows, np.nan_to_num(rows)])
    with chainrob.sample_facts(groups=groups), pytest.warns(chainrob.NonFiniteGradientWarning):
        both = Grouped(chainrob.GeometricMedian())(Dense(stacked, 1))
    np.testing.assert_allclose(both[0], found, rtol=1e-6)


def test_a_layer_grouped_by_class():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(20, 4)).astype(np.float32)
    t = (np.arange(20) % 2).astype(np.int32)
    link = chainrob.links.Linear(4, 2, robustifier=Grouped(chainrob.GeometricMedian()))
    link.cleargrads()
    with chainrob.sample_facts(groups=lambda: t):
        chainer.functions.softmax_cross_entropy(link(x), t).backward()
    parts = []
    for key in (0, 1):
        other = link.copy(mode="copy")
        other.robustifier = chainrob.GeometricMedian()
        other.cleargrads()
        chainer.functions.softmax_cross_entropy(other(x[t == key]), t[t == key]).backward()
        parts.append(other.W.grad)
    np.testing.assert_allclose(link.W.grad, sum(parts) / 2, rtol=1e-4, atol=1e-6)
    operator = OuterProducts(x[:, None], rng.normal(size=(20, 1, 2)))
    with (
        chainrob.sample_facts(groups=t),
        pytest.raises(chainrob.NotDifferentiableError, match="not known"),
    ):
        link.robustifier.pullback(operator, np.ones((2, 4)))


def test_the_block_of_median_loss():
    rows = clean_rows(11, 4)
    losses = np.array([5, 5, 0, 0, 0, 2, 2, 2, 9, 9, 9.0])
    expected = rows[[5, 6, 7]].mean(axis=0)
    blocks = oracle.block_means(rows, 4)
    means = oracle.block_means(losses[:, None], 4)[:, 0]
    expected = blocks[np.argsort(means)[1]]
    robustifier = MedianOfMeansMinimization(4)
    with chainrob.sample_facts(losses=losses):
        np.testing.assert_allclose(robustifier(rows), expected)
        weights = robustifier.sample_weights(rows)
        np.testing.assert_allclose(weights @ rows / 11, expected)
        (pulled,) = robustifier.pullback(rows, np.ones(4))
        np.testing.assert_allclose(pulled, np.tile(weights[:, None] / 11, (1, 4)))
        with pytest.raises(ValueError, match="must not exceed"):
            MedianOfMeansMinimization(12)(rows)
        rows[0] = np.nan
        with pytest.warns(chainrob.NonFiniteGradientWarning):
            assert np.isfinite(robustifier(rows)).all()
    losses[5] = np.nan
    rows[0] = 0.0
    with chainrob.sample_facts(losses=losses):
        assert MedianOfMeansMinimization(4).sample_weights(rows)[5] == 0


def test_what_is_refused():
    rows = clean_rows(6, 2)
    robustifier = Grouped(chainrob.Mean())
    with pytest.raises(ValueError, match=r"needs the samples' groups: .*sample_facts\(groups="):
        robustifier(rows)
    with (
        chainrob.sample_facts(groups=[1, 2]),
        pytest.raises(ValueError, match=r"groups must hold one value a sample, .*\(2,\)"),
    ):
        robustifier(rows)
    with pytest.raises(TypeError, match="facts are groups, losses, found 'labels'"):
        chainrob.sample_facts(labels=[1]).__enter__()
    with pytest.raises(TypeError, match=r"must be a chainrob\.Robustifier"):
        Grouped(np.mean)
    with pytest.raises(ValueError, match="least must be an integer of at least 1"):
        Grouped(chainrob.Mean(), least=0)
    with (
        chainrob.sample_facts(groups=[0] * 6),
        pytest.raises(ValueError, match="below the number of samples"),
    ):
        Grouped(chainrob.Krum(2))(rows)


def test_facts_end_with_their_block_and_inner_ones_add_to_outer_ones():
    rows = clean_rows(6, 2)
    with chainrob.sample_facts(groups=np.zeros(6)):
        with chainrob.sample_facts(losses=np.arange(6.0)):
            Grouped(MedianOfMeansMinimization(2))
            assert Grouped(chainrob.Mean())(rows).shape == (2,)
        with pytest.raises(ValueError, match="losses"):
            MedianOfMeansMinimization(2)(rows)


def test_it_is_a_value():
    robustifier = Grouped(chainrob.TrimmedMean(count=1, nonfinite="raise"), least=3)
    assert pickle.loads(pickle.dumps(robustifier)) == robustifier
    assert eval(repr(robustifier), vars(chainrob)) == robustifier
    assert len({robustifier, Grouped(chainrob.Mean())}) == 2
    assert robustifier.nonfinite == "raise"
