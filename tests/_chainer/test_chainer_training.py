"""Chainer as a whole under the mends: pickles, snapshots and a Trainer that stops and resumes."""

from __future__ import annotations

import io
import json
import pickle
from pathlib import Path

import numpy
import pytest

import chainer
from chainer import training
from chainer.training import extensions


def make_model() -> chainer.links.Classifier:
    chain = chainer.Sequential(chainer.links.Linear(4, 5), chainer.functions.relu)
    chain.append(chainer.links.Linear(5, 3))
    return chainer.links.Classifier(chain)


def parameters(model: chainer.Link) -> dict[str, numpy.ndarray]:
    return {name: parameter.array.copy() for name, parameter in model.namedparams()}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickle(protocol):
    model = make_model()
    optimizer = chainer.optimizers.Adam().setup(model)
    loaded, loaded_optimizer = pickle.loads(pickle.dumps((model, optimizer), protocol))
    assert loaded_optimizer.target is loaded
    for name, array in parameters(model).items():
        numpy.testing.assert_array_equal(parameters(loaded)[name], array)


def test_cloudpickle_of_a_mended_function():
    cloudpickle = pytest.importorskip("cloudpickle")
    functions = chainer.functions.fix, chainer.distributions.Categorical
    assert pickle.loads(cloudpickle.dumps(functions)) == functions
    local = pickle.loads(cloudpickle.dumps(lambda x: chainer.functions.fix(x)))
    assert local(numpy.float32([-1.5])).array[0] == -1


@pytest.mark.parametrize("kind", ["npz", "hdf5"])
def test_serialized_model(tmp_path, kind):
    if kind == "hdf5":
        pytest.importorskip("h5py")
    saved, loaded = make_model(), make_model()
    getattr(chainer.serializers, f"save_{kind}")(tmp_path / "model.npz", saved)
    getattr(chainer.serializers, f"load_{kind}")(tmp_path / "model.npz", loaded)
    for name, array in parameters(saved).items():
        numpy.testing.assert_array_equal(parameters(loaded)[name], array)


def make_trainer(out: Path, stop: int, printed: io.StringIO) -> training.Trainer:
    rng = numpy.random.default_rng(0)
    x = rng.normal(size=(12, 4)).astype(numpy.float32)
    data = chainer.datasets.TupleDataset(x, (x[:, 0] > 0).astype(numpy.int32))
    model = make_model()
    for parameter in model.params():
        parameter.array[...] = rng.normal(size=parameter.shape)
    optimizer = chainer.optimizers.MomentumSGD(0.1).setup(model)
    updater = training.StandardUpdater(
        chainer.iterators.SerialIterator(data, 4, shuffle=False), optimizer
    )
    trainer = training.Trainer(updater, (stop, "epoch"), out=str(out))
    test = chainer.iterators.SerialIterator(data, 4, repeat=False, shuffle=False)
    trainer.extend(extensions.Evaluator(test, model))
    trainer.extend(extensions.LogReport())
    trainer.extend(extensions.PlotReport(["main/loss"], "epoch", filename="loss.png"))
    trainer.extend(
        extensions.PrintReport(["epoch", "main/loss", "validation/main/accuracy"], out=printed)
    )
    trainer.extend(extensions.ProgressBar(update_interval=1, out=printed))
    return trainer


@pytest.mark.parametrize("kind", ["npz", "hdf5"])
def test_trainer_stops_and_resumes(tmp_path, kind):
    pytest.importorskip("matplotlib").use("Agg")
    if kind == "hdf5":
        pytest.importorskip("h5py")
    save = getattr(chainer.serializers, f"save_{kind}")
    load = getattr(chainer.serializers, f"load_{kind}")

    printed = io.StringIO()
    whole = make_trainer(tmp_path / "whole", 4, printed)
    whole.run()

    first = make_trainer(tmp_path / "parts", 2, printed)
    first.run()
    save(tmp_path / "snapshot.npz", first)
    second = make_trainer(tmp_path / "parts", 4, printed)
    load(tmp_path / "snapshot.npz", second)
    second.run()

    expected = parameters(whole.updater.get_optimizer("main").target)
    found = parameters(second.updater.get_optimizer("main").target)
    for name, array in expected.items():
        numpy.testing.assert_array_equal(found[name], array)
    logs = [json.loads((tmp_path / part / "log").read_text()) for part in ("whole", "parts")]
    for log in logs:
        for entry in log:
            del entry["elapsed_time"]
    assert logs[0] == logs[1]
    assert len(logs[0]) == 4
    assert (tmp_path / "parts" / "loss.png").stat().st_size > 1000
    assert "main/loss" in printed.getvalue()
