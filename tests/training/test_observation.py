"""Observers of the robust links: who is told what, and that nobody else notices."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref

import numpy as np
import pytest

import chainrob
import chainer
from chainer import functions as F
from chainrob.aggregation import observers
from chainrob.robustifiers import CoordinateWise, Robustifier
from chainrob.sample_gradients import Dense, Joined
from chainrob.training import RobustGradient, observe
from tests.links.cases import CASES

N = 7


def step(link, x, call):
    link.cleargrads()
    y = link(x, **call)
    F.mean(F.sin(y) * F.tanh(y)).backward()
    return {name: parameter.grad.copy() for name, parameter in link.namedparams()}


@pytest.mark.parametrize("scope", ["unit", "parameter", "layer"])
@pytest.mark.parametrize(
    "robustifier", [chainrob.TrimmedMean(0.2), chainrob.GeometricMedian(tolerance=1e-4)], ids=repr
)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_link_reports_the_rows_of_its_estimate(case, robustifier, scope):
    link = case.robust(robustifier=robustifier, scope=scope)
    x = case.inputs(N)
    expected = step(link, x, case.call)
    seen = []

    def look(observation):
        # The rows as arrays, for the operators live as long as the pass.
        rows = {name: one.materialize() for name, one in observation.gradients.items()}
        seen.append((observation, rows, observation.sample_weights()))

    with observe(link, look):
        found = step(link, x, case.call)
    step(link, x, case.call)
    assert len(seen) == (2 if case.name == "scale_bias" else 1)
    for name, grad in expected.items():
        np.testing.assert_array_equal(found[name], grad)
    for observation, rows, weights in seen:
        assert observation.robustifier == robustifier
        assert (observation.scope, observation.loss_reduction) == (scope, "mean")
        assert observation.n_samples == N
        assert weights.shape == (N,)
        assert weights.dtype == np.float64
        assert np.isfinite(weights).all()
        if scope == "layer" or isinstance(robustifier, CoordinateWise):
            joined = Joined([Dense(one) for one in rows.values()])
            np.testing.assert_allclose(weights, robustifier.sample_weights(joined), atol=1e-6)


def test_names_are_those_of_the_observed_model():
    model = chainrob.links.MLP((2, 3, 1), chainrob.Mean())
    model.l2.robustifier = None
    outer = chainer.Sequential(model)
    names = []
    with observe(outer, lambda observation: names.append(observation.name)):
        F.mean(outer(np.ones((4, 2), np.float32))).backward()
    assert names == ["/0/l1"]


def test_two_observers_and_closing_one():
    model = chainrob.links.MLP((2, 3, 1), chainrob.Mean())
    counts = {"a": 0, "b": 0}

    def count(key):
        def look(observation):
            counts[key] += 1

        return look

    a, b = observe(model, count("a")), observe(model.l1, count("b"))
    x = np.ones((4, 2), np.float32)
    F.mean(model(x)).backward()
    assert counts == {"a": 2, "b": 1}
    a.close()
    a.close()
    F.mean(model(x)).backward()
    assert counts == {"a": 2, "b": 2}
    b.close()
    assert not {model, model.l1} & set(observers._observers)


def test_bound_methods_are_removed():
    class Counter:
        n = 0

        def look(self, observation):
            self.n += 1

    model = chainrob.links.Linear(2, 3, robustifier=chainrob.Mean())
    counter = Counter()
    with observe(model, counter.look):
        F.mean(model(np.ones((4, 2), np.float32))).backward()
    assert counter.n == 1
    assert model not in observers._observers


def test_a_model_may_go_while_it_is_observed():
    model = chainrob.links.Linear(2, 3, robustifier=chainrob.Mean())
    gc.collect()  # models of other tests go first
    before = len(observers._observers)
    observers.add_observer(model, print)
    assert len(observers._observers) == before + 1
    reference = weakref.ref(model)
    del model
    gc.collect()
    assert reference() is None
    assert len(observers._observers) == before


def test_copies_pickles_and_files_are_not_observed(tmp_path):
    model = chainrob.links.MLP((2, 3, 1), chainrob.Mean())
    before = pickle.dumps(model)
    seen = []
    with observe(model, seen.append):
        assert pickle.dumps(model) == before
        for again in (copy.deepcopy(model), pickle.loads(before)):
            F.mean(again(np.ones((4, 2), np.float32))).backward()
        assert not seen
        F.mean(model(np.ones((4, 2), np.float32))).backward()
        assert len(seen) == 2


def test_the_whole_model_reports_once():
    np.random.seed(0)  # noqa: NPY002 - other weights may leave the huge sample without an active unit
    model = chainrob.links.MLP((2, 3, 1), chainrob.GeometricMedian(), scope="model")
    hook = RobustGradient(model)
    x = np.random.default_rng(0).normal(size=(6, 2)).astype(np.float32)
    x[2] = 1e3
    seen = []
    with observe(chainer.Sequential(model), seen.append):
        F.mean(model(x) ** 2).backward()
        assert not seen
        hook()
    (observation,) = seen
    assert observation.link is model
    assert observation.name == "/0"
    assert observation.scope == "model"
    assert set(observation.gradients) == {"/l1/W", "/l1/b", "/l2/W", "/l2/b"}
    weights = observation.sample_weights()
    assert weights.argmin() == 2
    assert weights.sum() == pytest.approx(6)


def test_a_plain_callable_has_no_known_weights():
    link = chainrob.links.Linear(2, 3, robustifier=lambda rows: rows.mean(axis=0))
    found = []
    with observe(link, lambda observation: found.append(observation.sample_weights())):
        F.mean(link(np.ones((4, 2), np.float32))).backward()
    assert found == [None]


def test_replicas_have_weights_each():
    models = [chainrob.links.MLP((2, 3, 1), chainrob.GeometricMedian()) for _ in range(3)]
    ensemble = chainrob.links.Ensemble(models)
    found = []
    with observe(ensemble, lambda observation: found.append(observation.sample_weights())):
        x = np.random.default_rng(0).normal(size=(3, 5, 2)).astype(np.float32)
        F.sum(ensemble(x)).backward()
    assert [one.shape for one in found] == [(3, 5), (3, 5)]


def test_dropped_samples_have_weight_zero():
    link = chainrob.links.Linear(2, 3, robustifier=chainrob.CoordinateMedian())
    x = np.ones((4, 2), np.float32)
    x[1] = np.nan
    found = []
    with (
        observe(link, lambda observation: found.append(observation.sample_weights())),
        pytest.warns(chainrob.NonFiniteGradientWarning),
    ):
        F.sum(link(x)).backward()
    assert found[0][1] == 0.0


def test_an_observers_error_ends_the_pass():
    link = chainrob.links.Linear(2, 3, robustifier=chainrob.Mean())

    def fail(observation):
        raise KeyError("mine")

    with observe(link, fail), pytest.raises(KeyError, match="mine"):
        F.mean(link(np.ones((4, 2), np.float32))).backward()


def test_weights_of_every_robustifier_in_the_registry():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(12, 4)).astype(np.float32)
    for robustifier in (chainrob.Mean(), chainrob.MedianOfMeans(4), chainrob.SoftTruncation()):
        assert isinstance(robustifier, Robustifier)
        link = chainrob.links.Linear(4, 3, robustifier=robustifier)
        found = []
        with observe(link, lambda one, found=found: found.append(one.sample_weights())):
            F.mean(link(x) ** 2).backward()
        assert found[0].shape == (12,)
