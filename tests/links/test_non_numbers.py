"""A training that diverges, with Chainer's own means to notice it."""

from __future__ import annotations

import numpy as np
import pytest

import chainrob
import chainer
from chainer import functions as F
from chainer.training import extensions

N = 8


def trainer_of(model, tmp_path, bad=np.nan):
    rng = np.random.default_rng(0)
    x, t = rng.normal(size=(N, 3)).astype(np.float32), np.zeros(N, np.int32)
    iterator = chainer.iterators.SerialIterator(
        chainer.datasets.TupleDataset(x * bad, t), N, shuffle=False
    )
    optimizer = chainer.optimizers.SGD(0.1).setup(L := chainer.links.Classifier(model))
    updater = chainer.training.StandardUpdater(iterator, optimizer)
    trainer = chainer.training.Trainer(updater, (3, "iteration"), out=str(tmp_path))
    trainer.extend(extensions.FailOnNonNumber())
    return trainer, L


@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize("robustifier", [chainrob.Mean(), chainrob.GeometricMedian()], ids=repr)
def test_the_error_comes_before_the_parameters_are_spoiled(robustifier, tmp_path, capfd):
    model = chainrob.links.MLP((3, 4, 2), robustifier)
    trainer, _ = trainer_of(model, tmp_path)
    # A RuntimeError, as FailOnNonNumber's.
    with pytest.raises(RuntimeError, match=r"no finite row is left.*nonfinite='propagate'"):
        trainer.run()
    assert all(np.isfinite(one.array).all() for one in model.params())
    capfd.readouterr()


@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize(
    "robustifier",
    [
        chainrob.Mean(nonfinite="propagate"),
        chainrob.TrimmedMean(0.2, nonfinite="propagate"),
        chainrob.GeometricMedian(nonfinite="propagate"),
        chainrob.SoftTruncation(nonfinite="propagate"),
    ],
    ids=repr,
)
def test_what_is_let_through_reaches_the_extension(robustifier, tmp_path, capfd):
    model = chainrob.links.MLP((3, 4, 2), robustifier)
    trainer, _ = trainer_of(model, tmp_path)
    with pytest.raises(RuntimeError, match="Kill the process"):
        trainer.run()
    capfd.readouterr()


@pytest.mark.filterwarnings("ignore:overflow", "ignore:invalid value", "ignore:Non finite")
@pytest.mark.parametrize("scope", ["layer", "model"])
@pytest.mark.parametrize(
    "kind", [chainrob.Mean, chainrob.GeometricMedian, chainrob.CoordinateMedian]
)
def test_an_overflow_reaches_the_loss_scaler(kind, scope):
    """A dynamic loss scale that is too large: the step is skipped, and the scale halved."""
    with chainer.using_config("dtype", np.float16):
        model = chainrob.links.MLP((3, 4, 2), kind(nonfinite="propagate"), scope=scope)
    optimizer = chainer.optimizers.SGD(0.1).setup(model)
    if scope == "model":
        optimizer.add_hook(chainrob.training.RobustGradient(model))
    optimizer.loss_scaling()
    optimizer._loss_scale = 2.0**24
    x = np.random.default_rng(0).normal(size=(N, 3)).astype(np.float16)
    before = [one.array.copy() for one in model.params()]
    optimizer.update(lambda: F.mean(F.cast(model(x), np.float32) ** 2))
    for one, array in zip(model.params(), before, strict=True):
        np.testing.assert_array_equal(one.array, array)
    assert optimizer._loss_scale < 2.0**24
