from __future__ import annotations

import gc
import pickle

import numpy as np
import pytest

import chainrob
import chainer
from chainrob.training import record_robustness, robustness_report

X = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)
X[5] *= 1e4


def backward(model):
    model.cleargrads()
    chainer.functions.mean(model(X) ** 2).backward()


def test_the_report_is_of_the_last_backward_pass():
    np.random.seed(1)  # noqa: NPY002 (Chainer draws weights that let sample 5 through)
    model = chainrob.links.MLP((3, 4, 2), [chainrob.GeometricMedian(), chainrob.Mean()])
    with record_robustness(model):
        assert robustness_report(model).layers == ()
        backward(model)
        report = robustness_report(model)
        first, last = report.layers
        assert [first.name, last.name] == ["/l1", "/l2"]
        assert first.n_samples == 12
        assert first.weights.argmin() == 5
        np.testing.assert_allclose(first.weights.sum(), 12)
        assert 0 < first.down_weighted() < 0.5
        assert first.effective_samples < 12
        np.testing.assert_allclose(last.weights, 1)
        np.testing.assert_allclose(last.effective_samples, 12)
        assert last.down_weighted() == 0
        before = first.weights
        model.l1.robustifier = chainrob.TrimmedMean(count=2)
        backward(model)
        assert not np.array_equal(robustness_report(model).layers[0].weights, before)
    with pytest.raises(RuntimeError, match="this model is not recorded"):
        robustness_report(model)


def test_it_prints_as_a_table():
    model = chainrob.links.MLP((3, 4, 2), chainrob.GeometricMedian())
    model.l2.robustifier = lambda rows: rows.mean(axis=0)
    with record_robustness(model):
        backward(model)
        header, first, second = str(robustness_report(model)).splitlines()
    assert header.split()[:2] == ["layer", "samples"]
    assert first.split()[0] == "/l1"
    assert "GeometricMedian()" in first
    assert second.split()[:5] == ["/l2", "12", "nan", "nan%", "-"]


def test_the_model_knows_nothing_of_it():
    model = chainrob.links.MLP((3, 4, 2), chainrob.GeometricMedian())
    before = len(pickle.dumps(model))
    watch = record_robustness(model)
    assert len(pickle.dumps(model)) == before
    with pytest.raises(RuntimeError):
        robustness_report(pickle.loads(pickle.dumps(model)))
    watch.close()
    watch.close()
    del model, watch
    gc.collect()
