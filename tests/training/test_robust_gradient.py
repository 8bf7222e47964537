"""RobustGradient against the materialized rows of the whole model."""

from __future__ import annotations

import copy

import numpy as np
import pytest

import chainrob
import chainer
from chainer import functions as F
from chainer import links as L
from chainrob.training import RobustGradient
from tests.training.whole_models import N, Recurrent, Tied, gradients, joint, make, oracle_rows, run


@pytest.mark.parametrize("kind", [Tied, Recurrent])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize(
    "robustifier",
    [
        chainrob.Mean(),
        chainrob.GeometricMedian(),
        chainrob.TrimmedMean(0.2),
        chainrob.MedianOfMeans(3),
        lambda rows: np.median(rows, axis=0),
    ],
    ids=["mean", "geometric", "trimmed", "median_of_means", "callable"],
)
def test_against_the_rows_of_the_whole_model(kind, reduction, robustifier):
    model, x, t = make(kind)
    expected = joint(robustifier, oracle_rows(model, x, t))
    chainrob.robustify(model, robustifier, scope="model", loss_reduction=reduction)
    found = run(model, RobustGradient(model), x, t, reduction)
    factor = N if reduction == "sum" else 1
    for name, estimate in expected.items():
        np.testing.assert_allclose(
            found[name].ravel(), factor * estimate, rtol=1e-6, atol=1e-7, err_msg=name
        )


@pytest.mark.parametrize("kind", [Tied, Recurrent])
def test_an_optimizer_takes_the_steps_of_the_oracle(kind):
    robustifier = chainrob.GeometricMedian()
    model, x, t = make(kind)
    reference = copy.deepcopy(model)
    chainrob.robustify(model, robustifier, scope="model")
    optimizer = chainer.optimizers.SGD(0.1).setup(model)
    optimizer.add_hook(RobustGradient(model))
    parameters = dict(reference.namedparams())
    for _ in range(3):
        optimizer.update(lambda: F.softmax_cross_entropy(model(x), t))
        step = joint(robustifier, oracle_rows(reference, x, t))
        shared = {id(parameters[name]): estimate for name, estimate in step.items()}
        for parameter in parameters.values():
            # Chainer's optimizers update a parameter of two names twice.
            parameter.array -= 0.1 * shared[id(parameter)].reshape(parameter.shape)
    for name, parameter in reference.namedparams():
        found = dict(model.namedparams())[name].array
        np.testing.assert_allclose(found, parameter.array, atol=1e-6, err_msg=name)


def test_what_else_the_loss_says_of_a_parameter_is_kept():
    model, x, t = make(Tied)
    rows = oracle_rows(model, x, t)
    chainrob.robustify(model, chainrob.CoordinateMedian(), scope="model")
    penalty = lambda: 0.5 * F.sum(model.twice.W**2)  # noqa: E731
    found = run(model, RobustGradient(model), x, t, extra=penalty)
    expected = np.median(rows["/twice/W"], axis=0) + model.twice.W.array.ravel()
    np.testing.assert_allclose(found["/twice/W"].ravel(), expected, atol=1e-10)


def test_plain_links_keep_their_plain_gradient():
    model, x, t = make(Tied)
    rows = oracle_rows(model, x, t)
    robustifier = chainrob.GeometricMedian()
    chainrob.robustify(model, robustifier, scope="model", layers=["conv", "norm"])
    model.norm.robustifier = None
    found = run(model, RobustGradient(model), x, t)
    conv = joint(robustifier, {name: rows[name] for name in ("/conv/W", "/conv/b")})
    for name in rows:
        expected = conv[name] if name in conv else rows[name].mean(axis=0)
        np.testing.assert_allclose(found[name].ravel(), expected, atol=1e-7, err_msg=name)


INDEX_SETS = {
    "names": (["/conv/W", "twice"], {"/conv/W", "/twice/W", "/twice/b"}),
    "link": ("norm", {"/norm/gamma", "/norm/beta"}),
    "none": ([], set()),
    "predicate": (lambda name, p: name.endswith("/b"), {"/conv/b", "/twice/b", "/out/b"}),
}


@pytest.mark.parametrize("case", INDEX_SETS)
def test_any_subset_of_parameters_may_be_robust(case):
    selection, chosen = INDEX_SETS[case]
    model, x, t = make(Tied)
    rows = oracle_rows(model, x, t)
    robustifier = chainrob.GeometricMedian()
    chainrob.robustify(model, robustifier, scope="model")
    hook = RobustGradient(model)
    everything = joint(robustifier, rows)
    for parameters, names in [(selection, chosen), (None, set(rows)), (selection, chosen)]:
        hook.parameters = parameters
        found = run(model, hook, x, t)
        if names == set(rows):
            expected = everything
        else:
            expected = {name: row.mean(axis=0) for name, row in rows.items()}
            if names:
                expected |= joint(robustifier, {n: r for n, r in rows.items() if n in names})
        for name in rows:
            np.testing.assert_allclose(found[name].ravel(), expected[name], atol=1e-7, err_msg=name)


def test_the_hooks_robustifier_comes_before_the_links():
    model, x, t = make(Tied)
    rows = oracle_rows(model, x, t)
    chainrob.robustify(model, chainrob.Mean(), scope="model")
    model.norm.robustifier = chainrob.TrimmedMean(0.1)
    with pytest.raises(ValueError, match=r"one robustifier, found \[Mean\(\), TrimmedMean"):
        run(model, RobustGradient(model), x, t)
    found = run(model, RobustGradient(model, chainrob.CoordinateMedian()), x, t)
    for name, row in rows.items():
        np.testing.assert_allclose(found[name].ravel(), np.median(row, axis=0), atol=1e-10)


def test_two_losses_of_one_batch_add_up_by_sample():
    model, x, t = make(Tied)
    other = (t + 1) % 7
    rows, more = oracle_rows(model, x, t), oracle_rows(model, x, other)
    chainrob.robustify(model, chainrob.CoordinateMedian(), scope="model")
    hook = RobustGradient(model)
    model.cleargrads()
    F.softmax_cross_entropy(model(x), t).backward()
    F.softmax_cross_entropy(model(x), other.astype(np.int32)).backward()
    hook()
    found = gradients(model)
    for name, row in rows.items():
        expected = np.median(row + more[name], axis=0)
        np.testing.assert_allclose(found[name].ravel(), expected, atol=1e-10, err_msg=name)


def test_two_batches_may_be_estimated_one_by_one():
    model, x, t = make(Tied)
    chainrob.robustify(model, chainrob.GeometricMedian(), scope="model")
    hook = RobustGradient(model)
    first = run(model, hook, x, t)
    second = run(model, hook, x[:4], t[:4])
    model.cleargrads()
    for n in (N, 4):
        F.softmax_cross_entropy(model(x[:n]), t[:n]).backward()
        hook()
    for name, grad in gradients(model).items():
        np.testing.assert_allclose(grad, first[name] + second[name], atol=1e-12)


def test_bad_samples_are_dropped_from_all_layers():
    model, x, t = make(Recurrent)
    rows = oracle_rows(model, x, t)
    chainrob.robustify(model, chainrob.CoordinateMedian(), scope="model")
    hook = RobustGradient(model)
    x = x.copy()
    x[1] = np.nan
    with pytest.warns(chainrob.NonFiniteGradientWarning, match="1 of 6"):
        found = run(model, hook, x, t)
    for name, row in rows.items():
        expected = np.median(np.delete(row, 1, axis=0), axis=0)
        np.testing.assert_allclose(found[name].ravel(), expected, atol=1e-10)


def test_an_empty_batch_gives_zeros():
    model = chainer.Sequential(L.Linear(2, 2), L.Linear(2, 1))
    chainrob.robustify(model, chainrob.GeometricMedian(), scope="model")
    hook = RobustGradient(model)
    model.cleargrads()
    F.sum(model(np.ones((0, 2), np.float32))).backward()
    hook()
    assert all(not parameter.grad.any() for parameter in model.params())


def test_recomputation_in_the_backward_pass():
    model, x, t = make(Recurrent)
    chainrob.robustify(model, chainrob.GeometricMedian(), scope="model")
    hook = RobustGradient(model)
    expected = run(model, hook, x, t)
    model.cleargrads()
    again = F.forget(lambda xs: model(xs), chainer.Variable(x))
    F.softmax_cross_entropy(again, t).backward()
    hook()
    for name, grad in gradients(model).items():
        np.testing.assert_allclose(grad, expected[name], atol=1e-12)


def test_gradient_clipping_after_it_sees_the_estimate():
    model, x, t = make(Tied)
    chainrob.robustify(model, chainrob.Mean(), scope="model")
    optimizer = chainer.optimizers.SGD(1.0).setup(model)
    optimizer.add_hook(RobustGradient(model))
    optimizer.add_hook(chainer.optimizer_hooks.GradientClipping(1e-3))
    before = {name: parameter.array.copy() for name, parameter in model.namedparams()}
    optimizer.update(lambda: F.softmax_cross_entropy(model(x), t))
    moved = {
        id(parameter): np.sum((parameter.array - before[name]) ** 2)
        for name, parameter in model.namedparams()
    }
    assert np.sqrt(sum(moved.values())) <= 1e-3 * (1 + 1e-9)
    assert sum(moved.values()) > 0
