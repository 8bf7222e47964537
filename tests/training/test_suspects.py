from __future__ import annotations

import csv
import json
from collections import defaultdict

import numpy as np
import pytest
from sklearn.datasets import load_digits

import chainrob
import chainer
from chainer.training import extensions
from chainrob.aggregation.weight_averages import WeightAverages
from chainrob.datasets import contamination
from chainrob.experiments.iris import iris_settings, make_model, trial_data
from chainrob.training import SeededShuffle, Snapshot, SuspectReport, observe, resume
from chainrob.training.suspect_files import draw_suspects
from tests.oracles import estimators as oracle

RNG = np.random.default_rng(0)
X = RNG.normal(size=(30, 4)).astype(np.float32)
T = X @ RNG.normal(size=(4, 3)).astype(np.float32)
T[11] += 50


def squared(model):
    loss = chainer.functions.mean_squared_error
    wrapped = chainer.links.Classifier(model, lossfun=loss)
    wrapped.compute_accuracy = False
    return wrapped


def make_trainer(out, epochs, report, *, robustifier=None, iterator=None, model=None, seed=0):
    np.random.seed(seed)  # noqa: NPY002
    robustifier = robustifier or chainrob.GeometricMedian()
    model = squared(model or chainrob.links.MLP((4, 6, 3), robustifier))
    data = chainer.datasets.TupleDataset(X, T)
    iterator = iterator or chainer.iterators.SerialIterator(data, 8)
    optimizer = chainer.optimizers.SGD(0.1).setup(model)
    trainer = chainer.training.Trainer(
        chainer.training.StandardUpdater(iterator, optimizer), (epochs, "epoch"), out=str(out)
    )
    if report is not None:
        trainer.extend(report)
    return trainer


def test_the_weights_are_those_that_an_observer_sees(tmp_path):
    """The oracle knows the samples by their inputs, not by the iterator's order."""
    seen = defaultdict(lambda: defaultdict(list))
    batch = []
    report = SuspectReport()
    trainer = make_trainer(tmp_path, 4, report)
    model = trainer.updater.get_optimizer("main").target
    stock = type(model).forward

    def forward(self, x, t):
        batch[:] = [int(np.flatnonzero((row == X).all(axis=1))[0]) for row in x]
        return stock(self, x, t)

    def note(observation):
        weights = observation.sample_weights()
        for index, weight in zip(batch, weights, strict=True):
            seen[observation.name][index].append(weight)

    with observe(model, note), pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(model), "forward", forward)
        trainer.run()
    assert report.averages.layers == ["/predictor/l1", "/predictor/l2"]
    for name in report.averages.layers:
        expected = [np.mean(seen[name][index]) for index in range(30)]
        np.testing.assert_allclose(report.averages.weights(name), expected)
    assert report.averages.ranking()[0] == 11
    assert report.averages.counts().tolist() == [4] * 30


@pytest.mark.parametrize("kind", ["SerialIterator", "MultithreadIterator"])
def test_files_log_and_figure(tmp_path, kind):
    data = chainer.datasets.TupleDataset(X, T)
    iterator = getattr(chainer.iterators, kind)(data, 8, order_sampler=SeededShuffle(0))
    report = SuspectReport(below=0.4)
    trainer = make_trainer(tmp_path, 3, report, iterator=iterator)
    trainer.extend(extensions.LogReport())
    trainer.extend(
        extensions.PrintReport(["epoch", "main/loss", "down_weighted/predictor/l1"], out=_Sink())
    )
    trainer.run()
    rows = list(csv.DictReader((tmp_path / "suspects.csv").read_text().splitlines()))
    assert [int(row["index"]) for row in rows] == report.averages.ranking().tolist()
    assert [int(row["rank"]) for row in rows] == list(range(1, 31))
    assert float(rows[0]["weight"]) == pytest.approx(report.averages.weights()[11], rel=1e-5)
    assert list(rows[0]) == [
        "rank",
        "index",
        "relative_weight",
        "weight",
        "updates",
        *report.averages.layers,
    ]
    for entry in json.loads((tmp_path / "log").read_text()):
        assert 0 < entry["down_weighted/predictor/l1"] < 0.5
    assert (tmp_path / "suspects.png").read_bytes()[:4] == b"\x89PNG"
    assert not list(tmp_path.glob(".*"))


class _Sink:
    def write(self, text):
        pass

    def flush(self):
        pass


@pytest.mark.parametrize("cut", [1, 3])
def test_a_resumed_run_goes_on_counting(tmp_path, cut):
    def run(out, epochs, seed):
        report = SuspectReport(trigger=(2, "epoch"), plot_name=None)
        trainer = make_trainer(tmp_path / out, epochs, report, seed=seed)
        trainer.extend(Snapshot(), trigger=(3, "iteration"))
        resume(trainer)
        trainer.run()
        return report.averages

    whole = run("whole", 5, 0)
    run("cut", cut, 0)
    resumed = run("cut", 5, 77)
    np.testing.assert_array_equal(resumed.weights(), whole.weights())
    np.testing.assert_array_equal(resumed.counts(), whole.counts())
    names = ("suspects.csv",)
    for name in names:
        assert (tmp_path / "whole" / name).read_text() == (tmp_path / "cut" / name).read_text()


def test_layers_can_be_chosen_and_plain_callables_say_nothing(tmp_path):
    model = chainrob.links.MLP((4, 6, 3), [chainrob.Mean(), lambda rows: rows.mean(axis=0)])
    report = SuspectReport(plot_name=None)
    make_trainer(tmp_path / "a", 1, report, model=model).run()
    assert report.averages.layers == ["/predictor/l1"]
    np.testing.assert_allclose(report.averages.weights(), 1)
    for layers in (["/predictor/l2"], lambda name: name.endswith("l2")):
        report = SuspectReport(layers=layers, filename=None, plot_name=None)
        make_trainer(tmp_path / "b", 1, report).run()
        assert report.averages.layers == ["/predictor/l2"]
    assert not list((tmp_path / "b").iterdir())


def test_indices_of_ones_own(tmp_path):
    class Iterator(chainer.iterators.SerialIterator):
        def next(self):
            self.taken = RNG.permutation(30)[:8]
            super().next()
            return [self.dataset[index] for index in self.taken]

        __next__ = next

    iterator = Iterator(chainer.datasets.TupleDataset(X, T), 8)
    report = SuspectReport(
        indices=lambda trainer: trainer.updater.get_iterator("main").taken, n_samples=30
    )
    make_trainer(tmp_path, 20, report, iterator=iterator).run()
    assert report.averages.ranking()[0] == 11


def test_layers_whose_samples_are_not_the_batch_are_an_error(tmp_path):
    class Stacked(chainer.Chain):
        def __init__(self):
            super().__init__()
            with self.init_scope():
                self.l = chainrob.links.Linear(2, 3, robustifier=chainrob.Mean())

        def forward(self, x):
            pairs = chainer.functions.reshape(x, (-1, 2))
            return chainer.functions.sum(
                chainer.functions.reshape(self.l(pairs), (len(x), 2, 3)), axis=1
            )

    trainer = make_trainer(tmp_path, 1, SuspectReport(), model=Stacked())
    with pytest.raises(ValueError, match="layer /predictor/l saw 16 samples in a batch of 8"):
        trainer.run(show_loop_exception_msg=False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"below": 0}, "below must lie in"),
        ({"below": 1.5}, "below must lie in"),
        ({"indices": lambda trainer: []}, "must be given together"),
        ({"n_samples": 3}, "must be given together"),
        ({"rank_by": "loss"}, "rank_by must be 'weight' or 'suspicion', found 'loss'"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        SuspectReport(**arguments)


def test_names_of_layers_must_be_a_collection():
    with pytest.raises(TypeError, match="layers must be a collection of names"):
        SuspectReport(layers="/l1")


@pytest.mark.parametrize("setting", ["text", "released"])
@pytest.mark.parametrize("trial", range(2))
def test_the_two_contaminated_points_of_the_iris_experiment_come_first(tmp_path, setting, trial):
    settings = iris_settings(setting)
    data = trial_data(settings, trial)
    model = chainer.links.Classifier(make_model(settings, settings.methods()["deep-rob"], trial))
    points = chainer.datasets.TupleDataset(data.x_train.astype(np.float32), data.t_train)
    updater = chainer.training.StandardUpdater(
        chainer.iterators.SerialIterator(points, 100, order_sampler=SeededShuffle(trial)),
        chainer.optimizers.SGD(settings.learning_rate).setup(model),
    )
    trainer = chainer.training.Trainer(updater, (60, "iteration"), out=str(tmp_path))
    report = SuspectReport(plot_name=None)
    trainer.extend(report)
    trainer.run()
    assert data.pushed.size == 2
    assert set(report.averages.ranking()[:2].tolist()) == set(data.pushed.tolist())


@pytest.mark.parametrize(
    ("robustifier", "rank_by"),
    [(chainrob.SoftTruncation(), "weight"), (chainrob.Mean(), "suspicion")],
)
def test_most_flipped_digits_are_found(tmp_path, robustifier, rank_by):
    digits = load_digits()
    x, t = (digits.data[:1000] / 16).astype(np.float32), digits.target[:1000].astype(np.int32)
    flipped = contamination.flip_labels(t, 0.05, n_classes=10, seed=0)
    np.random.seed(0)  # noqa: NPY002
    model = chainer.links.Classifier(chainrob.links.MLP((64, 30, 10), robustifier))
    updater = chainer.training.StandardUpdater(
        chainer.iterators.SerialIterator(chainer.datasets.TupleDataset(x, flipped.data), 100),
        chainer.optimizers.MomentumSGD(0.2).setup(model),
    )
    trainer = chainer.training.Trainer(updater, (8, "epoch"), out=str(tmp_path))
    report = SuspectReport(rank_by=rank_by, plot_name=None)
    trainer.extend(report)
    trainer.run()
    precision = np.isin(report.averages.ranking()[:50], flipped.rows).mean()
    assert precision > 0.7  # chance is 0.05; a longer training finds more


@pytest.mark.parametrize("scope", ["unit", "parameter", "layer", "model"])
def test_suspicion_is_that_of_the_rows(scope):
    """An oracle on rows that are not outer products: norms and cosines in a few slow lines."""
    model = chainrob.links.MLP((4, 6, 3), chainrob.Mean(), scope=scope)
    seen = []
    optimizer = chainer.optimizers.SGD(0.0).setup(model)
    if scope == "model":
        optimizer.add_hook(chainrob.training.RobustGradient(model))
    with observe(model, seen.append):
        optimizer.update(lambda: chainer.functions.sum((model(X) - T) ** 2) / len(X))
    assert len(seen) == (1 if scope == "model" else 2)
    for one in seen:
        found = one.suspicion()
        assert found.shape == (len(X),)
        assert ((found >= 0) & (found <= 1)).all()
    if scope == "model":
        rows = np.concatenate(
            [g.materialize().reshape(len(X), -1) for g in one.gradients.values()], 1
        )
        rows = rows.astype(np.float64)
        expected = oracle.suspicion(rows, np.linalg.norm(rows, axis=1))
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_figures_say_what_ranks_the_samples():
    averages = WeightAverages(3)
    averages.add("/l", [0, 1, 2], [0.5, 1.0, 0.9])
    for rank_by, word in (("weight", "weight"), ("suspicion", "suspicion")):
        overview, bars = draw_suspects(averages, rank_by).axes
        assert word in overview.get_ylabel()
        assert word in bars.get_xlabel()
