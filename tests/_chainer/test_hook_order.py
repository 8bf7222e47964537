"""RobustGradient completes the gradient before any other hook looks at it, in any order."""

from __future__ import annotations

import copy

import numpy as np
import pytest

import chainrob
import chainer
from chainer import functions as F
from chainer import optimizer_hooks as hooks
from chainrob.training import RobustGradient

OTHERS = {
    "clipping": lambda: hooks.GradientClipping(0.01),
    "hard clipping": lambda: hooks.GradientHardClipping(-0.01, 0.01),
    "decay": lambda: hooks.WeightDecay(0.1),
    "lasso": lambda: hooks.Lasso(0.1),
    "lars": lambda: hooks.GradientLARS(),
}


def trained(model, order):
    """The parameters after three updates, the hooks added in this order."""
    model = copy.deepcopy(model)
    optimizer = chainer.optimizers.SGD(0.5).setup(model)
    for one in order:
        optimizer.add_hook(RobustGradient(model) if one == "robust" else OTHERS[one]())
    rng = np.random.default_rng(0)
    x, t = rng.normal(size=(8, 3)).astype(np.float32), rng.integers(0, 2, 8).astype(np.int32)
    x[0] *= 1e3
    for _ in range(3):
        optimizer.update(lambda: F.softmax_cross_entropy(model(x), t))
    return {name: one.array for name, one in model.namedparams()}


@pytest.fixture
def model():
    return chainrob.links.MLP((3, 4, 2), chainrob.GeometricMedian(), scope="model")


@pytest.mark.parametrize("other", OTHERS)
def test_the_order_does_not_matter(model, other):
    expected = trained(model, ["robust", other])
    found = trained(model, [other, "robust"])
    alone = trained(model, ["robust"])
    assert any(not np.allclose(expected[name], alone[name]) for name in alone)
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value)


def test_other_hooks_keep_their_order(model):
    called = []
    optimizer = chainer.optimizers.SGD(0.5).setup(model)
    for name in ("first", "second"):
        optimizer.add_hook(lambda _, name=name: called.append(name), name=name)
    optimizer.add_hook(RobustGradient(model))
    optimizer.add_hook(lambda _: called.append("third"), name="third")
    x = np.ones((4, 3), np.float32)
    optimizer.update(lambda: F.mean(model(x)))
    assert called == ["first", "second", "third"]


def test_after_the_update_is_too_late(model):
    optimizer = chainer.optimizers.SGD(0.5).setup(model)
    optimizer.add_hook(RobustGradient(model), timing="post")
    with pytest.raises(ValueError, match=r"timing must be 'pre'.*found 'post'"):
        optimizer.update(lambda: F.mean(model(np.ones((4, 3), np.float32))))
