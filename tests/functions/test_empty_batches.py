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


@pytest.mark.parametrize("shape", [(5, 0), (5, 3, 0), (5, 2, 3, 0), (5, 0, 4)])
def test_without_inputs_there_are_biases_only(shape):
    W = chainer.Parameter(np.zeros((2, 0), np.float32))
    b = chainer.Parameter(np.ones(2, np.float32))
    x = np.zeros(shape, np.float32)
    axes = 1 if shape == (5, 0, 4) else len(shape) - 1
    y = chainrob.functions.linear(x, W, b, axes, robustifier=chainrob.CoordinateMedian())
    np.testing.assert_array_equal(y.array, np.ones((*shape[:axes], 2)))
    chainer.functions.sum(y).backward()
    assert W.grad.shape == (2, 0)
    np.testing.assert_array_equal(b.grad, 5 * np.prod(shape[1:axes]) * np.ones(2))
