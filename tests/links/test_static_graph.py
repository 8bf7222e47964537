"""Robust links under Chainer's @static_graph, which keeps the functions that it has seen once."""

from __future__ import annotations

import numpy as np
import pytest

import chainrob
import chainer
from chainer import functions as F
from chainer import link_hooks, static_graph
from chainrob.training import RobustGradient

N = 8
ARRAYS = np.random.default_rng(0).normal(size=(N, 3)).astype(np.float32)
ARRAYS[0] *= 100.0
T = np.arange(N, dtype=np.int32) % 2


class Plain(chainer.Chain):
    def __init__(self, robustifier, scope):
        super().__init__()
        with self.init_scope():
            self.l1 = chainrob.links.Linear(3, 4, robustifier=robustifier, scope=scope)
            self.l2 = chainrob.links.Linear(4, 2, robustifier=robustifier, scope=scope)
        rng = np.random.default_rng(1)
        for _, one in sorted(self.namedparams()):
            one.array = rng.normal(size=one.shape).astype(np.float32)

    def forward(self, x):
        return self.l2(F.tanh(self.l1(x)))


class Static(Plain):
    forward = static_graph(Plain.forward)


def step(model, hook=None, exact=False):
    model.cleargrads()
    # The decorator wants arrays of one shape; a new one each time.
    loss = F.softmax_cross_entropy(model(chainer.Variable(ARRAYS.copy())), T)
    if exact:
        with chainrob.exact_backward():
            loss.backward()
    else:
        loss.backward()
    if hook is not None:
        hook()
    return {name: one.grad.copy() for name, one in model.namedparams()}


def assert_same(found, expected):
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-7, err_msg=name)


@pytest.fixture(autouse=True)
def quiet(capsys):
    yield
    capsys.readouterr()  # the decorator prints


def pair(robustifier, scope):
    models = Plain(robustifier, scope), Static(robustifier, scope)
    hooks = [RobustGradient(one) if scope == "model" else None for one in models]
    return models, hooks


@pytest.mark.parametrize("scope", ["layer", "unit", "model"])
@pytest.mark.parametrize("robustifier", [chainrob.Mean(), chainrob.GeometricMedian()], ids=repr)
def test_every_pass_is_the_ordinary_one(robustifier, scope):
    models, hooks = pair(robustifier, scope)
    expected, *found = (
        step(model, hook) for model, hook in [(models[0], hooks[0])] + 4 * [(models[1], hooks[1])]
    )
    for one in found:
        assert_same(one, expected)
    assert hasattr(models[1], "schedule_manager")  # it is a static graph indeed


@pytest.mark.parametrize("scope", ["layer", "model"])
def test_settings_may_change(scope):
    models, hooks = pair(chainrob.GeometricMedian(), scope)
    changes = [
        chainrob.GeometricMedian(),
        chainrob.Mean(),
        chainrob.CoordinateMedian(),
        None,
        chainrob.TrimmedMean(0.2),
    ]
    for robustifier in changes:
        results = []
        for model, hook in zip(models, hooks, strict=True):
            for link in (model.l1, model.l2):
                link.robustifier = robustifier
            results.append(step(model, hook if robustifier is not None else None))
        assert_same(results[1], results[0])


def test_a_link_that_becomes_robust_later():
    models, _ = pair(None, "layer")
    for robustifier in (None, None, chainrob.CoordinateMedian(), None):
        for model in models:
            model.l1.robustifier = robustifier
        assert_same(step(models[1]), step(models[0]))


def test_exact_backward_is_heard():
    models, _ = pair(chainrob.GeometricMedian(), "layer")
    for exact in (False, True, False):
        assert_same(step(models[1], exact=exact), step(models[0], exact=exact))


def test_link_hooks_with_scope_model_are_refused():
    model = Static(chainrob.Mean(), "model")
    model.l1.add_hook(link_hooks.SpectralNormalization())
    hook = RobustGradient(model)
    with pytest.raises(RuntimeError, match="which @static_graph hides"):
        step(model, hook)
