from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from chainrob.datasets.contamination import add_heavy_tailed_noise, choose_rows

SETTINGS = [("student_t", 2.5), ("lognormal", 1.2), ("pareto", 1.5)]


def _standard(distribution: str, tail: float):
    return {
        "student_t": stats.t(tail),
        "lognormal": stats.lognorm(tail),
        "pareto": stats.lomax(tail),
    }[distribution]


@pytest.mark.parametrize(("distribution", "tail"), SETTINGS)
@pytest.mark.parametrize("symmetric", [True, False])
def test_the_draws_have_the_distribution_that_scipy_gives_the_name(distribution, tail, symmetric):
    x = np.random.default_rng(0).normal(3.0, [1.0, 50.0], (3000, 2))
    noisy = add_heavy_tailed_noise(
        x, distribution=distribution, tail=tail, scale=2.0, symmetric=symmetric, seed=1
    )
    draws = (noisy.data - x) / (2.0 * x.std(axis=0))
    assert noisy.rows.tolist() == list(range(3000))
    law = _standard(distribution, tail)
    for column in draws.T:
        if symmetric and distribution != "student_t":
            assert abs((column > 0).mean() - 0.5) < 0.05
            column = abs(column)
        assert stats.kstest(column, law.cdf).pvalue > 1e-3


@pytest.mark.parametrize(("distribution", "tail"), SETTINGS)
def test_only_the_rows_it_names_change_and_the_input_stays(distribution, tail):
    x = np.random.default_rng(0).normal(size=(40, 3, 2)).astype(np.float32)
    before = x.copy()
    noisy = add_heavy_tailed_noise(x, 0.25, distribution=distribution, tail=tail, seed=5)
    again = add_heavy_tailed_noise(x, 0.25, distribution=distribution, tail=tail, seed=5)
    np.testing.assert_array_equal(x, before)
    np.testing.assert_array_equal(noisy.data, again.data)
    changed = np.flatnonzero((noisy.data != x).any(axis=(1, 2)))
    assert changed.tolist() == noisy.rows.tolist() == choose_rows(40, 0.25, seed=5).tolist()
    assert noisy.data.dtype == np.float32


def test_a_narrow_dtype_gets_its_largest_number_and_never_infinity():
    x = np.ones((200, 4), np.float16)
    x[::2] = 0
    noisy = add_heavy_tailed_noise(x, distribution="pareto", tail=0.05, seed=0)
    assert np.isfinite(noisy.data).all()
    assert abs(noisy.data).max() == np.finfo(np.float16).max


def test_integers_become_floating_point_and_a_constant_feature_gets_noise_of_size_one():
    noisy = add_heavy_tailed_noise(np.ones((5, 1), int), distribution="lognormal", seed=0)
    assert noisy.data.dtype == np.float64
    assert (noisy.data != 1).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"distribution": "cauchy"}, "distribution must be one of"),
        ({"tail": 0.0}, "tail must be positive and finite, found 0.0"),
        ({"scale": np.inf}, "scale must be positive and finite, found inf"),
        ({"share": 1.5}, "share must be between 0 and 1, found 1.5"),
        ({"x": [[np.nan]]}, "x must be finite"),
        ({"x": np.zeros((0, 2))}, "not be empty"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        add_heavy_tailed_noise(**{"x": np.ones((3, 2)), "seed": 0, **arguments})


def test_text_is_refused():
    with pytest.raises(TypeError, match="x must hold real numbers"):
        add_heavy_tailed_noise([["a"]], seed=0)
