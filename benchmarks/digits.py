"""Train a convolutional net on contaminated digits: accuracy, and how well suspects are found.

    python benchmarks/digits.py accuracy [--seeds 10] [--epochs 12]
    python benchmarks/digits.py suspects [--seeds 10] [--epochs 12]
    python benchmarks/digits.py suspects_of_one_class [--seeds 10] [--epochs 12]

accuracy: scikit-learn's digits, 1000 for training and 797 for testing. 10% of the training labels
are flipped to another class and 2% of the training images are pushed across the center, 10 standard
deviations out (the tutorial's push). Every method trains the same net from the same initial weights
on the same batches with the same optimizer, by Chainer's Trainer; only the robustifier differs.
Controls: training on the clean data, and the plain mean with a tenth of the learning rate. One rate
serves all, which is not every method's best, and there are no one-line baselines here: the fair
comparison is ``chainrob compare`` (``--data digits:network=cnn8:batch=50`` trains a net like this).

suspects: 5% of the labels are flipped, nothing else. Precision is the share of flipped labels among
the 5% of the samples that rank first, by ``SuspectReport`` with the weights and with the suspicion
and, for the same trained net, by the loss at the end of training and by the loss averaged over the
epochs. Of the plain net everything but the weights. With suspects_of_one_class the wrong labels all
say the same class, another one for every seed.

Results go to benchmarks/results/digits_*.json after every run, so that a benchmark that was
interrupted goes on where it was, and to a table beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import textwrap
import time
import warnings
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

import chainrob
import chainer
import chainer.functions as F
from chainer.training import extensions
from chainrob.datasets import contamination, random_split
from chainrob.experiments.files import write_bytes, write_json
from chainrob.experiments.versions import versions

RESULTS = Path(__file__).parent / "results"
RATE, BATCH = 0.05, 50

# name: (robustifier, scope, clean data, share of the learning rate)
METHODS = {
    "clean data, plain mean": (None, "layer", True, 1.0),
    "plain mean": (None, "layer", False, 1.0),
    "plain mean, rate / 10": (None, "layer", False, 0.1),
    "soft truncation": (chainrob.SoftTruncation(), "layer", False, 1.0),
    "soft truncation, pilot median": (
        chainrob.SoftTruncation(pilot="median"),
        "layer",
        False,
        1.0,
    ),
    "adaptive mean": (chainrob.AdaptiveMean(), "layer", False, 1.0),
    "trimmed mean 10%": (chainrob.TrimmedMean(fraction=0.1), "layer", False, 1.0),
    "trimmed mean 20%": (chainrob.TrimmedMean(fraction=0.2), "layer", False, 1.0),
    "M-estimator": (chainrob.robustifiers.get("m_estimator"), "layer", False, 1.0),
    "coordinate median": (chainrob.CoordinateMedian(), "layer", False, 1.0),
    "geometric median, layer": (chainrob.GeometricMedian(), "layer", False, 1.0),
    "geometric median, model": (chainrob.GeometricMedian(), "model", False, 1.0),
    "multi-Krum, model": (chainrob.robustifiers.get("multi_krum", f=10), "model", False, 1.0),
}


class ConvNet(chainer.Chain):
    """Two convolutions, one pooling, two linear layers; stock links."""

    def __init__(self) -> None:
        super().__init__()
        with self.init_scope():
            self.conv1 = chainer.links.Convolution2D(1, 8, 3, pad=1)
            self.conv2 = chainer.links.Convolution2D(8, 16, 3, pad=1)
            self.fc1 = chainer.links.Linear(16 * 16, 32)
            self.fc2 = chainer.links.Linear(32, 10)

    def forward(self, x):
        h = F.relu(self.conv1(x.reshape(-1, 1, 8, 8)))
        h = F.max_pooling_2d(F.relu(self.conv2(h)), 2)
        return self.fc2(F.relu(self.fc1(h)))


def data(seed, flips, pushes):
    """Clean and contaminated training data, the flipped rows, and the test data."""
    digits = load_digits()
    x, t = digits.data / 16.0, digits.target.astype(np.int32)
    train, test = random_split(len(t), 1000, seed)
    flipped = contamination.flip_labels(t[train], flips, n_classes=10, seed=seed + 1000)
    pushed = contamination.push_random_inputs(x[train], pushes, 10.0, seed=seed + 2000)
    return (
        (x[train].astype(np.float32), t[train]),
        (pushed.data.astype(np.float32), flipped.data),
        flipped.rows,
        (x[test].astype(np.float32), t[test]),
    )


def fit(name, seed, epochs, x, t, test, *, progress, reports=()):
    """Train by Trainer; return the model and the training losses after every epoch."""
    robustifier, scope, _, share = METHODS[name]
    np.random.seed(seed)  # noqa: NPY002
    model = chainer.links.Classifier(ConvNet())
    optimizer = chainer.optimizers.MomentumSGD(RATE * share)
    if robustifier is None and reports:
        robustifier = chainrob.Mean()  # the plain mean, in links that can be watched
    if robustifier is not None:
        chainrob.robustify(model, robustifier, scope=scope)
    optimizer.setup(model)
    if scope == "model":
        optimizer.add_hook(chainrob.training.RobustGradient(model))
    order = chainrob.training.SeededShuffle(seed)
    batches = chainer.iterators.SerialIterator(
        chainer.datasets.TupleDataset(x, t), BATCH, order_sampler=order
    )
    losses = []

    @chainer.training.make_extension(trigger=(1, "epoch"))
    def note_losses(trainer):
        with chainer.no_backprop_mode(), chainer.using_config("train", False):
            losses.append(F.softmax_cross_entropy(model.predictor(x), t, reduce="no").array)

    with tempfile.TemporaryDirectory() as out:
        trainer = chainer.training.Trainer(
            chainer.training.StandardUpdater(batches, optimizer), (epochs, "epoch"), out=out
        )
        held_out = chainer.iterators.SerialIterator(
            chainer.datasets.TupleDataset(*test), 797, repeat=False, shuffle=False
        )
        trainer.extend(extensions.Evaluator(held_out, model), trigger=(epochs, "epoch"))
        trainer.extend(extensions.LogReport(trigger=(1, "epoch")))
        trainer.extend(note_losses)
        for report in reports:
            trainer.extend(report, name=report.rank_by)
        if progress:
            trainer.extend(extensions.ProgressBar(update_interval=10))
        trainer.run()
        log = trainer.get_extension("LogReport").log
    return model, np.array(losses), log[-1]["validation/main/accuracy"]


def accuracy(name, seed, epochs, progress):
    clean, bad, _, test = data(seed, 0.10, 0.02)
    begin = time.perf_counter()
    x, t = clean if METHODS[name][2] else bad
    _, _, found = fit(name, seed, epochs, x, t, test, progress=progress)
    return {"accuracy": found, "seconds": time.perf_counter() - begin}


def flips_to_one_class(seed, share):
    """As ``data``: the labels of that share of the samples now say class seed modulo 10."""
    (x, t), _, _, test = data(seed, 0.0, 0.0)
    others = np.flatnonzero(t != seed % 10)
    rng = np.random.default_rng(seed + 1000)
    rows = np.sort(rng.choice(others, round(share * len(t)), replace=False))
    labels = t.copy()
    labels[rows] = seed % 10
    return (x, t), (x, labels), rows, test


def suspects_of_one_class(name, seed, epochs, progress):
    return suspects(name, seed, epochs, progress, flips_to_one_class(seed, 0.05))


def suspects(name, seed, epochs, progress, flips=None):
    _, (x, t), flipped, test = flips or data(seed, 0.05, 0.0)
    reports = [
        chainrob.training.SuspectReport(rank_by=what, filename=None, plot_name=None)
        for what in ("weight", "suspicion")
    ]
    _, losses, found = fit(name, seed, epochs, x, t, test, progress=progress, reports=reports)

    def precision(ranking):
        return float(np.isin(ranking[: len(flipped)], flipped).mean())

    result = {
        "accuracy": found,
        "loss at the end": precision(np.argsort(-losses[-1], kind="stable")),
        "mean loss": precision(np.argsort(-losses.mean(axis=0), kind="stable")),
    }
    for report in reports[METHODS[name][0] is None :]:
        result[report.rank_by] = precision(report.averages.ranking())
    return result


KINDS = {
    "accuracy": accuracy,
    "suspects": suspects,
    "suspects_of_one_class": suspects_of_one_class,
}


def table(results):
    """A Markdown table: mean and standard deviation over the seeds, in percent.

    Rows of fewer seeds than the others are marked.
    """
    runs = results["runs"]
    columns = ["accuracy", "weight", "suspicion", "loss at the end", "mean loss"]
    columns = [
        c for c in columns if any(c in run for rows in runs.values() for run in rows.values())
    ]
    most = max((len(rows) for rows in runs.values()), default=0)
    lines = [
        f"| method | {' | '.join(columns)} | seeds |",
        f"|---|{'---|' * (len(columns) + 1)}",
    ]
    for name, rows in runs.items():
        cells = []
        for column in columns:
            values = [run[column] for run in rows.values() if column in run]
            text = "-"
            if values:
                spread = np.std(values, ddof=len(values) > 1)
                text = f"{100 * np.mean(values):.1f} ± {100 * spread:.1f}"
            cells.append(text)
        few = "" if len(rows) == most else " (few)"
        lines.append(f"| {name} | {' | '.join(cells)} | {len(rows)}{few} |")
    said = f"One rate, {results['settings']['rate']:g}, for all. "
    said += f"Mean and standard deviation of {most} seeds, in percent."
    if "mean loss" in columns:
        said += differences(runs)
    elif missing := [name for name in METHODS if name not in runs]:
        said += f" Not run: {', '.join(missing)}."
    return "\n".join([*lines, "", *textwrap.wrap(said, 120)]) + "\n"


def differences(runs):
    """How the rankings of each run differ from the plain net's by the mean loss, seed by seed."""
    plain = {seed: run["mean loss"] for seed, run in runs["plain mean"].items()}
    told = []
    for name, rows in runs.items():
        for column in ("suspicion", "weight"):
            found = [
                100 * (run[column] - plain[seed])
                for seed, run in rows.items()
                if column in run and seed in plain
            ]
            if len(found) > 1:
                error = np.std(found, ddof=1) / np.sqrt(len(found))
                told.append(
                    f"{column} beside {name} {round(np.mean(found), 1) + 0.0:+.1f} ± {error:.1f}"
                )
    if not told:
        return ""
    return (
        " In pairs of seeds, the difference to the mean loss of the plain net, in points, with one "
        f"standard error: {', '.join(told)}."
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--methods", nargs="*", choices=METHODS, default=list(METHODS))
    parser.add_argument("--progress", action="store_true", help="show Chainer's ProgressBar")
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / f"digits_{args.kind}.json"
    settings = {"epochs": args.epochs, "rate": RATE, "batch": BATCH}
    results = {"settings": settings, "versions": versions(), "runs": {}}
    if file.exists():
        before = json.loads(file.read_text())
        if before["settings"] == settings:
            results["runs"] = before["runs"]
    for seed in range(args.seeds):
        for name in args.methods:
            rows = results["runs"].setdefault(name, {})
            if str(seed) in rows or (args.kind != "accuracy" and METHODS[name][2]):
                continue
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", chainrob.ConvergenceWarning)
                rows[str(seed)] = KINDS[args.kind](name, seed, args.epochs, args.progress)
            print(f"seed {seed}, {name}: {rows[str(seed)]}", flush=True)
            write_json(file, results)
            write_bytes(file.with_suffix(".md"), table(results).encode())
    print(table(results))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
