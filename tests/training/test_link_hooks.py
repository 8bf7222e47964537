"""scope='model' where a link hook puts another array in a parameter's place."""

from __future__ import annotations

import numpy as np
import pytest

import chainrob
import chainer
from chainer import functions as F
from chainer import link_hooks
from chainer import links as L
from chainrob.training import RobustGradient, WeightAverages, observe

N = 6
HOOKS = {
    "spectral": lambda: link_hooks.SpectralNormalization(),
    "gamma": lambda: link_hooks.SpectralNormalization(use_gamma=True),
    "standardized": lambda: link_hooks.WeightStandardization(),
}


def make(hook, kind="linear", seed=0):
    """A model with a hook on its first link, and data."""
    rng = np.random.default_rng(seed)
    with chainer.using_config("dtype", np.dtype(np.float64)):
        if kind == "linear":
            model = chainer.Sequential(L.Linear(5, 4), F.tanh, L.Linear(4, 3))
            x = rng.normal(size=(N, 5))
        elif kind == "embed":
            model = chainer.Sequential(L.EmbedID(5, 4), F.tanh, L.Linear(4, 3))
            x = rng.integers(0, 5, size=N).astype(np.int32)
        else:
            model = chainer.Sequential(L.Convolution2D(2, 4, 2), F.tanh, L.Linear(16, 3))
            x = rng.normal(size=(N, 2, 3, 3))
        model[0].add_hook(HOOKS[hook]())
        for _, parameter in sorted(model.namedparams()):
            parameter.array = rng.normal(size=parameter.shape)
        # The hook makes gamma at the first pass; its vector u is as one likes.
        with chainer.using_config("train", False):
            model(x)
        if hook == "gamma":
            model[0].gamma.array = np.asarray(1.7)
    return model, x, rng.integers(0, 3, size=N).astype(np.int32)


def gradients(model, x, t, weights=None, hook=None):
    model.cleargrads()
    with chainer.using_config("train", False):  # u stays
        losses = F.softmax_cross_entropy(model(x), t, reduce="no")
        loss = F.mean(losses) if weights is None else F.sum(losses * weights)
        loss.backward()
    if hook is not None:
        hook()
    return {name: one.grad.copy() for name, one in sorted(model.namedparams())}


def assert_same(found, expected, rtol=1e-9):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=rtol, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("kind", ["linear", "convolution", "embed"])
@pytest.mark.parametrize("hook", HOOKS)
def test_the_mean_is_the_plain_gradient(hook, kind):
    if hook == "standardized" and kind == "embed":
        pytest.skip("Chainer's hook standardizes along axis 1 on")
    model, x, t = make(hook, kind)
    expected = gradients(model, x, t)
    chainrob.robustify(model, chainrob.Mean(), scope="model")
    estimator = RobustGradient(model)
    for _ in range(2):
        assert_same(gradients(model, x, t, hook=estimator), expected)


@pytest.mark.parametrize("hook", HOOKS)
def test_one_weight_a_sample_through_the_hook(hook):
    """The estimate is what a loss gives that weighs the samples as the robustifier does."""
    model, x, t = make(hook)
    x[0] *= 30.0
    chainrob.robustify(model, chainrob.GeometricMedian(), scope="model")
    estimator = RobustGradient(model)
    seen = []
    with observe(model, lambda one: seen.append((set(one.gradients), one.sample_weights()))):
        found = gradients(model, x, t, hook=estimator)
    ((names, weights),) = seen
    assert names == {"/0/W", "/0/b", "/1/W", "/1/b"}
    assert weights.std() > 0.1
    chainrob.plain(model)
    # The rows are of what the layer is run with.
    assert_same(found, gradients(model, x, t, weights=weights / N), rtol=1e-6)


def test_coordinates_are_those_that_the_layer_runs_with():
    model, x, t = make("spectral")
    chainrob.robustify(model, chainrob.TrimmedMean(0.2))
    expected = gradients(model, x, t)
    chainrob.robustify(model, chainrob.TrimmedMean(0.2), scope="model")
    assert_same(gradients(model, x, t, hook=RobustGradient(model)), expected)


def test_cleared_gradients_leave_nothing_behind():
    model, x, t = make("gamma")
    chainrob.robustify(model, chainrob.GeometricMedian(), scope="model")
    estimator = RobustGradient(model)
    expected = gradients(model, x, t, hook=estimator)
    with chainer.using_config("train", False):
        F.softmax_cross_entropy(model(x[::-1]), t).backward()  # never updated
    assert_same(gradients(model, x, t, hook=estimator), expected)
    assert not estimator._recorder.recordings


def test_a_link_that_is_called_twice():
    model, x, t = make("spectral")
    twice = chainer.Sequential(model[0], F.tanh, L.Linear(4, 5), F.tanh, model[0], model[2])
    with chainer.using_config("dtype", np.dtype(np.float64)):
        twice[2].W.array = np.random.default_rng(1).normal(size=(5, 4))
        twice[2].b.array = np.zeros(5)
    expected = gradients(twice, x, t)
    chainrob.robustify(twice, chainrob.Mean(), scope="model")
    assert_same(gradients(twice, x, t, hook=RobustGradient(twice)), expected)


def test_training_with_everything_around_it():
    model, x, t = make("gamma")
    chainrob.robustify(model, chainrob.GeometricMedian(), scope="model")
    optimizer = chainer.optimizers.SGD(0.5).setup(model)
    optimizer.add_hook(RobustGradient(model))
    averages = WeightAverages(N)
    before = model[0].gamma.array.copy()
    with observe(model, lambda one: averages.add(one.name, range(N), one.sample_weights())):
        for _ in range(3):
            optimizer.update(lambda: F.softmax_cross_entropy(model(x), t))
    assert model[0].gamma.array != before
    assert averages.layers == ["/"]
