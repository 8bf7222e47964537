"""Losses of replicas against Chainer's and finite differences."""

import numpy as np
import pytest

import chainer
import chainer.functions as F
from chainrob.experiments.compare.losses import CLASSIFICATION_LOSSES, REGRESSION_LOSSES, loss_of


@pytest.mark.parametrize("classification", [True, False])
def test_gradients_by_finite_differences(classification):
    rng = np.random.default_rng(0)
    y = 2 * rng.normal(size=(2, 5, 3 if classification else 1))
    t = rng.integers(0, 3, (2, 5)) if classification else rng.normal(size=(2, 5, 1))
    parameter = np.array([0.2, 0.6])[:, None, None]
    for name, loss in (CLASSIFICATION_LOSSES if classification else REGRESSION_LOSSES).items():
        if name == "dropped":
            continue
        gradient = loss(y, t, parameter)[1]
        for at in np.ndindex(y.shape):
            step = np.zeros_like(y)
            step[at] = 1e-6
            low, high = (loss(y + s * step, t, parameter)[0].sum() for s in (-1, 1))
            assert gradient[at] == pytest.approx((high - low) / 2e-6, abs=1e-5), name


def test_losses_equal_chainers():
    rng = np.random.default_rng(1)
    y, t = rng.normal(size=(1, 6, 4)).astype("f"), rng.integers(0, 4, (1, 6)).astype("i")
    expected = F.softmax_cross_entropy(y[0], t[0], reduce="no").array
    found = CLASSIFICATION_LOSSES["plain"](y, t, np.zeros((1, 1, 1), "f"))[0]
    np.testing.assert_allclose(found[0], expected, rtol=1e-5)
    x, r = rng.normal(size=(1, 6, 1)), rng.normal(size=(1, 6, 1))
    losses, gradient = REGRESSION_LOSSES["huber"](x, r, np.full((1, 1, 1), 0.7))
    variable = chainer.Variable(x[0])
    total = F.sum(F.huber_loss(variable, r[0], 0.7))
    total.backward()
    np.testing.assert_allclose(gradient[0], variable.grad)
    np.testing.assert_allclose(losses[0].sum(), total.array)


def test_the_highest_losses_of_each_replica_are_dropped():
    y, t = np.array([[[0.0], [1.0], [9.0], [2.0]]] * 2), np.zeros((2, 4, 1))
    _, gradient = REGRESSION_LOSSES["dropped"](y, t, np.array([0.25, 0.5])[:, None, None])
    np.testing.assert_allclose(gradient[0, :, 0], np.array([0, 1, 0, 2]) * 4 / 3)
    np.testing.assert_allclose(gradient[1, :, 0], [0, 2, 0, 0])
    y[:, 2] = np.nan  # what diverged is the highest
    assert np.isfinite(REGRESSION_LOSSES["dropped"](y, t, np.full((2, 1, 1), 0.25))[1]).all()


def test_a_loss_that_the_task_has_not_is_refused():
    with pytest.raises(ValueError, match="loss must be one of plain, smoothing"):
        loss_of("huber=1", True)
