"""Attacks whose factor is chosen against the aggregator."""

import numpy as np
import pytest

import chainrob
from chainrob.datasets.contamination import (
    a_little_is_enough,
    gaussian,
    inner_product_manipulation,
    optimal_a_little_is_enough,
    optimal_inner_product_manipulation,
)

ATTACKS = {
    "alie": (optimal_a_little_is_enough, lambda rows, f, z: a_little_is_enough(rows, f, z=z)),
    "ipm": (
        optimal_inner_product_manipulation,
        lambda rows, f, e: inner_product_manipulation(rows, f, epsilon=e),
    ),
}
AGGREGATORS = [
    chainrob.CoordinateMedian(),
    chainrob.MultiKrum(4),
    chainrob.TrimmedMean(count=4),
    chainrob.CenteredClipping(),
    chainrob.NearestNeighborMixing(4) >> chainrob.GeometricMedian(),
]


@pytest.fixture
def honest():
    return np.random.default_rng(0).normal(1.0, 0.3, (16, 5))


def moved(aggregator, honest, bad):
    return np.linalg.norm(aggregator(np.concatenate([honest, bad])) - honest.mean(axis=0))


@pytest.mark.parametrize("aggregator", AGGREGATORS, ids=repr)
@pytest.mark.parametrize("name", ATTACKS)
def test_no_factor_of_a_fine_grid_does_much_more_harm(honest, name, aggregator):
    optimal, fixed = ATTACKS[name]
    found = moved(aggregator, honest, optimal(honest, 4, aggregator))
    signs = (1, -1) if name == "alie" else (1,)
    factors = [s * z for s in signs for z in np.geomspace(0.01, 100.0, 400)]
    most = max(moved(aggregator, honest, fixed(honest, 4, z)) for z in factors)
    assert found >= 0.85 * most
    assert found >= moved(aggregator, honest, fixed(honest, 4, 0.3)) * (1 - 1e-12)


@pytest.mark.parametrize("name", ATTACKS)
def test_a_mean_is_carried_as_far_as_allowed(honest, name):
    optimal, fixed = ATTACKS[name]
    bad = optimal(honest, 3, chainrob.Mean(), largest=70.0)
    ends = [fixed(honest, 3, z) for z in ((70.0, -70.0) if name == "alie" else (70.0,))]
    assert any(np.allclose(bad, end) for end in ends)


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_shapes_and_refusals(honest, name, dtype):
    optimal, _ = ATTACKS[name]
    rows = honest.astype(dtype)
    before = rows.copy()
    bad = optimal(rows, 2, chainrob.CoordinateMedian(), evaluations=10)
    assert bad.dtype == dtype
    assert bad.shape == (2, 5)
    np.testing.assert_array_equal(rows, before)
    assert optimal(rows, 0, chainrob.Mean()).shape == (0, 5)
    with pytest.raises(ValueError, match=r"largest must be finite and above 0\.01, found 0"):
        optimal(rows, 2, chainrob.Mean(), largest=0)
    with pytest.raises(ValueError, match="evaluations must be at least 8, found 3"):
        optimal(rows, 2, chainrob.Mean(), evaluations=3)
    with pytest.raises(TypeError, match="aggregator must be callable, found 'mean'"):
        optimal(rows, 2, "mean")


def test_gaussian_rows_are_noise_of_the_stated_size(honest):
    bad = gaussian(honest, 400, mean=3.0, deviation=2.0, seed=4)
    assert abs(bad.mean() - 3.0) < 0.2
    assert abs(bad.std() - 2.0) < 0.2
    assert not np.allclose(bad, gaussian(honest, 400, mean=3.0, deviation=2.0, seed=5))
    with pytest.raises(ValueError, match="deviation must be positive"):
        gaussian(honest, 1, deviation=0.0)
    with pytest.raises(ValueError, match="mean must be finite"):
        gaussian(honest, 1, mean=np.inf)
