"""How long RobustGradient's records live, whose they are, and what it refuses."""

from __future__ import annotations

import copy
import gc
import pickle
import warnings
import weakref

import numpy as np
import pytest

import chainrob
import chainer
from chainer import functions as F
from chainer import links as L
from chainrob.aggregation import layer_gradients
from chainrob.training import RobustGradient
from tests.training.whole_models import Tied, gradients, make, run


@pytest.mark.parametrize("how", ["model", "links", "parameters", "update"])
def test_cleared_gradients_leave_nothing_behind(how):
    model, x, t = make(Tied)
    chainrob.robustify(model, chainrob.GeometricMedian(), scope="model")
    hook = RobustGradient(model)
    expected = run(model, hook, x, t)
    for _ in range(2):
        loss = F.softmax_cross_entropy(model(x[::-1]), t)
        loss.backward()  # never updated
        del loss
        if how == "model":
            model.cleargrads()
        elif how == "links":
            for link in model.links():
                link.cleargrads()
        elif how == "parameters":
            for parameter in model.params():
                parameter.cleargrad()
        else:
            hook()
            model.cleargrads()
    F.softmax_cross_entropy(model(x), t).backward()
    hook()
    for name, grad in gradients(model).items():
        np.testing.assert_array_equal(grad, expected[name])


def test_an_update_without_a_backward_pass_changes_nothing():
    model, _, _ = make(Tied)
    chainrob.robustify(model, chainrob.GeometricMedian(), scope="model")
    optimizer = chainer.optimizers.SGD(0.1).setup(model)
    optimizer.add_hook(RobustGradient(model))
    before = {name: parameter.array.copy() for name, parameter in model.namedparams()}
    model.cleargrads()
    optimizer.update()
    for name, parameter in model.namedparams():
        np.testing.assert_array_equal(parameter.array, before[name])


def test_memory_is_freed_after_the_update():
    model, x, t = make(Tied)
    chainrob.robustify(model, chainrob.GeometricMedian(), scope="model")
    optimizer = chainer.optimizers.SGD(0.1).setup(model)
    optimizer.add_hook(RobustGradient(model))
    seen = []
    original = layer_gradients.record

    def spy(link, operators, *args):
        seen.extend(weakref.ref(one) for one in operators.values())
        original(link, operators, *args)

    layer_gradients.record = spy
    try:
        optimizer.update(lambda: F.softmax_cross_entropy(model(x), t))
    finally:
        layer_gradients.record = original
    gc.collect()
    assert len(seen) == 11
    assert all(reference() is None for reference in seen)


def test_without_a_hook_the_backward_pass_says_so():
    model, x, t = make(Tied)
    chainrob.robustify(model, chainrob.Mean(), scope="model")
    with pytest.raises(RuntimeError, match=r"add_hook\(chainrob.training.RobustGradient\(model\)"):
        F.softmax_cross_entropy(model(x), t).backward()
    hook = RobustGradient(model)
    F.softmax_cross_entropy(model(x), t).backward()
    del hook
    model.cleargrads()
    with pytest.raises(RuntimeError, match="nobody waits for it"):
        F.softmax_cross_entropy(model(x), t).backward()


def test_a_hook_that_was_never_added_is_noticed():
    model, x, t = make(Tied)
    chainrob.robustify(model, chainrob.Mean(), scope="model")
    hook = RobustGradient(model)
    optimizer = chainer.optimizers.SGD(0.1).setup(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.update(lambda: F.softmax_cross_entropy(model(x), t))
    with pytest.warns(UserWarning, match="is the hook added to the optimizer"):
        optimizer.update(lambda: F.softmax_cross_entropy(model(x), t))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.update(lambda: F.softmax_cross_entropy(model(x), t))
    del hook


def test_forgetting_to_robustify_is_an_error():
    for scope in (None, "layer"):
        model, x, t = make(Tied)
        if scope:
            chainrob.robustify(model, chainrob.Mean(), scope=scope)
        optimizer = chainer.optimizers.SGD(0.1).setup(model)
        optimizer.add_hook(RobustGradient(model, chainrob.Mean()))
        with pytest.raises(ValueError, match="no link of the model has scope='model'"):
            optimizer.update(lambda m=model, x=x, t=t: F.softmax_cross_entropy(m(x), t))


def test_a_second_hook_takes_over():
    model, x, t = make(Tied)
    chainrob.robustify(model, chainrob.Mean(), scope="model")
    first, second = RobustGradient(model), RobustGradient(model)
    with pytest.raises(RuntimeError, match="another RobustGradient"):
        run(model, first, x, t)
    with pytest.warns(UserWarning, match="none was ever estimated"):
        run(model, second, x, t)


def test_different_numbers_of_samples_are_an_error():
    model = chainer.Sequential(L.Linear(2, 2), L.Linear(2, 1))
    chainrob.robustify(model, chainrob.Mean(), scope="model")
    hook = RobustGradient(model)
    h = model[0](np.ones((4, 2), np.float32))
    F.mean(model[1](F.reshape(h, (2, 4))[:, :2])).backward()
    with pytest.raises(ValueError, match="see the same samples, found numbers of samples"):
        hook()
    shared = chainrob.robustify(L.Linear(2, 2), chainrob.Mean(), scope="model")
    hook = RobustGradient(shared)
    h = shared(np.ones((4, 2), np.float32))
    F.mean(shared(F.reshape(h, (2, 4))[:, :2])).backward()
    with pytest.raises(ValueError, match="parameter /W is used several times"):
        hook()


def test_different_loss_reductions_are_an_error():
    model = chainer.Sequential(L.Linear(2, 2), L.Linear(2, 1))
    chainrob.robustify(model, chainrob.Mean(), scope="model")
    model[1].loss_reduction = "sum"
    hook = RobustGradient(model)
    F.mean(model(np.ones((4, 2), np.float32))).backward()
    with pytest.raises(ValueError, match="one loss_reduction, found"):
        hook()


def test_unknown_parameters():
    model, _, _ = make(Tied)
    with pytest.raises(KeyError, match="found 'conv/V'; there are"):
        RobustGradient(model, parameters=["conv", "conv/V"])
    with pytest.raises(TypeError, match=r"model must be a chainer\.Link"):
        RobustGradient(3)


def test_scope_model_needs_a_link():
    with pytest.raises(ValueError, match="a function by itself has none"):
        chainrob.functions.linear(
            np.ones((2, 2)), np.ones((3, 2)), robustifier=chainrob.Mean(), scope="model"
        )


@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
def test_copies_belong_to_their_own_model(how):
    model, x, t = make(Tied)
    chainrob.robustify(model, chainrob.GeometricMedian(), scope="model")
    hook = RobustGradient(model)
    expected = run(model, hook, x, t)
    again = copy.deepcopy(hook) if how == "deepcopy" else pickle.loads(pickle.dumps(hook))
    assert again.model is not model
    for one in (again, hook):
        for name, grad in run(one.model, one, x, t).items():
            np.testing.assert_array_equal(grad, expected[name])
