import numpy as np
import pytest

import chainrob
from chainrob.characteristics import breakdown, cost, efficiency, influence, normal_scores


def test_influence_of_the_mean_is_a_line_and_of_the_median_a_step():
    z = np.linspace(-8, 8, 33)
    sample = normal_scores(50)
    np.testing.assert_allclose(influence(chainrob.Mean(), z), z, atol=1e-9)
    # The median of 51 rows is z itself between the middle two of the 50, so the step is finite.
    edge = 51 * np.sort(sample[:, 0])[25]
    expected = np.clip(51 * z, -edge, edge)
    np.testing.assert_allclose(influence(chainrob.CoordinateMedian(), z), expected, atol=1e-9)


def test_influence_takes_any_callable_and_any_dimension():
    rows = np.random.default_rng(0).normal(size=(30, 3))
    ours = influence(lambda x: np.median(x, axis=0), [[4.0], [-4.0]], sample=rows)
    assert ours.shape == (2, 1)
    moved = np.append(rows, [[4.0, 0, 0]], axis=0)
    assert ours[0, 0] == pytest.approx(31 * (np.median(moved[:, 0]) - np.median(rows[:, 0])))


def test_breakdown_happens_where_theory_puts_it():
    counts = np.arange(26)
    points = {
        chainrob.Mean(): 1,
        chainrob.TrimmedMean(count=10): 11,
        chainrob.CoordinateMedian(): 25,
        chainrob.SoftTruncation(): 1,
    }
    for robustifier, first in points.items():
        broken = breakdown(robustifier, counts) > 100
        assert broken.argmax() == first, robustifier
        assert broken[first:].all()
    assert breakdown(chainrob.Mean(), 0) == 0


def test_efficiency_agrees_with_theory():
    median = efficiency(chainrob.CoordinateMedian(), n=101, draws=4000)
    assert median == pytest.approx(2 / np.pi, abs=0.05)
    by_hand = efficiency(lambda x: np.median(x, axis=0), n=101, draws=4000)
    assert by_hand == pytest.approx(median, rel=1e-9)
    assert efficiency(chainrob.CoordinateMedian(), distribution="student") > 1
    assert efficiency(chainrob.Mean(), d=3, draws=10) == pytest.approx(1)


def test_cost_is_a_ratio():
    assert cost(chainrob.Mean(), n=32, shape=(16, 16), repeats=5) == pytest.approx(1, abs=0.9)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: influence(chainrob.Mean(), [1.0], sample=[1.0]), "sample must have shape"),
        (lambda: influence(chainrob.Mean(), [1.0], sample=[[np.nan]]), "finite"),
        (lambda: breakdown(chainrob.Mean(), [51]), "counts must be whole numbers from 0 to 50"),
        (lambda: breakdown(chainrob.Mean(), [0.5]), "counts must be whole"),
        (lambda: efficiency(chainrob.Mean(), distribution="cauchy"), "'normal' or 'student'"),
        (lambda: normal_scores(0), "positive integer"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
