"""The estimate by scope is the same whether anybody watches it or not."""

from __future__ import annotations

import numpy as np
import pytest

import chainrob
from chainrob.aggregation.scopes import estimate, estimate_watched
from chainrob.sample_gradients import OuterProducts


def outer_products(generator: np.random.Generator, bad: tuple[int, int] | None) -> OuterProducts:
    """Seven samples of a layer 4 -> 3; ``bad`` is the sample and the unit of a NaN."""
    x, gy = generator.normal(size=(7, 1, 4)), generator.normal(size=(7, 1, 3))
    if bad is not None:
        gy[bad[0], 0, bad[1]] = np.nan
    return OuterProducts(x, gy)


@pytest.mark.filterwarnings("ignore::chainrob.robustifiers.NonFiniteGradientWarning")
@pytest.mark.parametrize("bad", [None, (2, 1)])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("scope", ["unit", "parameter", "layer"])
@pytest.mark.parametrize(
    "robustifier",
    [
        chainrob.Mean(),
        chainrob.CoordinateMedian(),
        chainrob.TrimmedMean(count=1),
        chainrob.SoftTruncation(),
        chainrob.GeometricMedian(),
    ],
    ids=str,
)
def test_to_watch_changes_no_estimate(robustifier, scope, bias, bad):
    generator = np.random.default_rng(0)
    weights = outer_products(generator, bad)
    rows = [weights, weights.bias()] if bias else [weights]
    watched, of_samples = estimate_watched(robustifier, rows, scope)
    for one, other in zip(watched, estimate(robustifier, rows, scope), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12)
    assert of_samples.shape == (7,)
    assert np.isfinite(of_samples).all()


@pytest.mark.filterwarnings("ignore::chainrob.robustifiers.NonFiniteGradientWarning")
@pytest.mark.parametrize("watch", [False, True])
def test_a_unit_drops_its_own_rows_only(watch):
    generator = np.random.default_rng(0)
    weights = outer_products(generator, bad=(2, 1))
    (found,), _ = estimate_watched(chainrob.CoordinateMedian(), [weights], "unit", watch=watch)
    rows = np.einsum("nsq,nsp->nqp", weights.gy, weights.x)
    expected = np.median(rows, axis=0)
    expected[1] = np.median(np.delete(rows[:, 1], 2, axis=0), axis=0)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
