"""Batches with an empty axis: no samples, or samples without positions."""

import numpy as np
import pytest

import chainrob
import chainer


@pytest.mark.parametrize("shape", [(0, 3, 4), (5, 0, 4), (0, 0, 4), (5, 2, 0, 4)])
@pytest.mark.parametrize("scope", ["layer", "parameter", "unit"])
@pytest.mark.parametrize("loss_reduction", ["mean", "sum"])
@pytest.mark.parametrize(
    "robustifier",
    [chainrob.Mean(), chainrob.TrimmedMean(0.1), chainrob.GeometricMedian(), chainrob.Krum(1)],
)
def test_gradients_are_zero(shape, scope, loss_reduction, robustifier):
    link = chainrob.links.Linear(
        4, 2, robustifier=robustifier, scope=scope, loss_reduction=loss_reduction
    )
    link.cleargrads()
    x = chainer.Variable(np.zeros(shape, np.float32))
    y = link(x, n_batch_axes=len(shape) - 1)
    assert y.shape == (*shape[:-1], 2)
    chainer.functions.sum(y).backward()
    np.testing.assert_array_equal(link.W.grad, np.zeros((2, 4)))
    np.testing.assert_array_equal(link.b.grad, np.zeros(2))
    assert x.grad.shape == shape
