"""Everything that belongs to a Trainer, on a robust convolutional net."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest

import chainrob
import chainer
import chainer.functions as F
from chainer.training import extensions
from chainrob.training import RobustGradient, SeededShuffle, Snapshot, SuspectReport, resume

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 1, 6, 6)).astype(np.float32)
T = (X.mean(axis=(1, 2, 3)) > 0).astype(np.int32)


class Net(chainer.Chain):
    def __init__(self):
        super().__init__()
        with self.init_scope():
            self.conv = chainer.links.Convolution2D(1, 4, 3)
            self.norm = chainer.links.GroupNormalization(2)
            self.fc = chainer.links.Linear(None, 2)

    def forward(self, x):
        return self.fc(F.dropout(F.relu(self.norm(self.conv(x))), 0.2))


def make_trainer(out, epochs, scope, seed=0):
    np.random.seed(seed)  # noqa: NPY002
    model = chainer.links.Classifier(Net())
    model(X[:2], T[:2])
    chainrob.robustify(model, chainrob.SoftTruncation(), scope=scope)
    optimizer = chainer.optimizers.MomentumSGD(0.05).setup(model)
    optimizer.add_hook(chainer.optimizer_hooks.WeightDecay(1e-4))
    if scope == "model":
        optimizer.add_hook(RobustGradient(model))
    data = chainer.datasets.TupleDataset(X, T)
    train = chainer.iterators.SerialIterator(data, 10, order_sampler=SeededShuffle(0))
    test = chainer.iterators.SerialIterator(data, 40, repeat=False, shuffle=False)
    trainer = chainer.training.Trainer(
        chainer.training.StandardUpdater(train, optimizer), (epochs, "epoch"), out=str(out)
    )
    printed = io.StringIO()
    trainer.extend(extensions.Evaluator(test, model))
    trainer.extend(SuspectReport())
    trainer.extend(extensions.LogReport())
    trainer.extend(
        extensions.PrintReport(["epoch", "main/loss", "validation/main/accuracy"], out=printed)
    )
    # Chainer 7.8.1's ProgressBar takes `out` and writes to stdout all the same.
    trainer.extend(extensions.ProgressBar(update_interval=2))
    trainer.extend(extensions.PlotReport(["main/loss"], filename="loss.png", trigger=(2, "epoch")))
    trainer.extend(Snapshot(), trigger=(1, "epoch"))
    return trainer, model, printed


# matplotlib's own locator complains of the axes of Chainer's PlotReport.
@pytest.mark.filterwarnings("ignore::UserWarning:chainer")
@pytest.mark.parametrize("scope", ["layer", "model"])
def test_a_convolutional_net_with_every_extension_and_a_resumed_run(tmp_path, scope, capfd):
    trainer, whole, printed = make_trainer(tmp_path / "whole", 4, scope)
    trainer.run()
    assert "validation/main/accuracy" in printed.getvalue()
    assert "this epoch [" in capfd.readouterr().out
    entries = json.loads((tmp_path / "whole" / "log").read_text())
    assert len(entries) == 4
    assert entries[-1]["main/loss"] < entries[0]["main/loss"]
    names = [key for key in entries[0] if key.startswith("down_weighted/")]
    expected = {"layer": ["conv", "fc", "norm"], "model": None}[scope]
    if expected is not None:
        assert sorted(names) == [f"down_weighted/predictor/{name}" for name in expected]
    else:
        assert names == ["down_weighted/model"]
    report = trainer.get_extension("SuspectReport")
    assert report.averages.counts().tolist() == [4] * 40
    assert (tmp_path / "whole" / "loss.png").exists()
    make_trainer(tmp_path / "cut", 2, scope)[0].run()
    trainer, resumed, _ = make_trainer(tmp_path / "cut", 4, scope, seed=9)
    assert resume(trainer) is not None
    trainer.run()
    for (name, one), (_, other) in zip(
        sorted(whole.namedparams()), sorted(resumed.namedparams()), strict=True
    ):
        np.testing.assert_array_equal(one.array, other.array, err_msg=name)
