"""What it costs to ask which samples are suspect: one backward pass watched over unwatched.

    python benchmarks/watching.py [--out FOLDER] [--fit]

Writes watching.json: CPU time of one robust Linear layer's backward pass with and without an
observer that takes the samples' weights, one thread, both in one process and in turn; and with
``--fit`` that of a whole RobustMLPClassifier fit of the digits with and without ``track_suspects``.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["OPENBLAS_NUM_THREADS"] = "1"

import argparse
import json
import statistics
import time
import tracemalloc
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np

import chainrob
from chainer import Variable
from chainrob.atomic_files import atomic_path
from chainrob.experiments.versions import versions
from chainrob.training import observe

SIZES = ((784, 1000, 256), (784, 100, 64), (64, 64, 64))

ROUNDS = {256: 5, 64: 15}
"""Pairs of passes by batch size."""


def robustifiers(n_samples: int) -> list[chainrob.Robustifier]:
    default = chainrob.robustifiers.default
    return [
        chainrob.AdaptiveMean(),
        chainrob.GeometricMedian(),
        default("multi_krum", n_samples),
        chainrob.SoftTruncation(),
        chainrob.SoftTruncation(pilot="median"),
        default("trimmed_mean", n_samples),
        default("winsorized_mean", n_samples),
        chainrob.CoordinateMedian(),
        default("mean_around_median", n_samples),
        default("phocas", n_samples),
        chainrob.MEstimator(),
        chainrob.MEstimator(pilot="median"),
    ]


def backward(
    robustifier: chainrob.Robustifier, n_inputs: int, n_outputs: int, n_samples: int
) -> Callable[[bool], float]:
    """A function that runs one backward pass, watched or not, and answers with its CPU time."""
    rng = np.random.default_rng(0)
    layer = chainrob.links.Linear(n_inputs, n_outputs, robustifier=robustifier)
    x = Variable(rng.normal(size=(n_samples, n_inputs)).astype(np.float32))
    gy = rng.normal(size=(n_samples, n_outputs)).astype(np.float32) / np.float32(n_samples)

    def run(watched: bool) -> float:
        taken = []
        watch = observe(layer, lambda one: taken.append(one.sample_weights()))
        with watch if watched else nullcontext():
            if not watched:
                watch.close()
            layer.cleargrads()
            y = layer(x)
            y.grad = gy
            begin = time.thread_time()
            y.backward()
            seconds = time.thread_time() - begin
        assert len(taken) == watched
        return seconds

    return run


def fit() -> Callable[[bool], float]:
    """A function that fits the digits, with and without the ranking of suspects."""
    from sklearn.datasets import load_digits

    from chainrob.sklearn import RobustMLPClassifier

    features, labels = load_digits(return_X_y=True)

    def run(watched: bool) -> float:
        model = RobustMLPClassifier(max_iter=10, random_state=0, track_suspects=watched, tol=0.0)
        begin = time.thread_time()
        model.fit(features / 16.0, labels)
        return time.thread_time() - begin

    return run


def compared(run: Callable[[bool], float], rounds: int) -> dict[str, float]:
    """Seconds of both, as medians, and the median of the pairs' ratios."""
    for watched in (False, True):
        run(watched)
    pairs = [(run(False), run(True)) for _ in range(rounds)]
    return {
        "plain_seconds": statistics.median(plain for plain, _ in pairs),
        "watched_seconds": statistics.median(watched for _, watched in pairs),
        "ratio": statistics.median(watched / plain for plain, watched in pairs),
        "ratio_of_least": min(watched for _, watched in pairs) / min(plain for plain, _ in pairs),
    }


def peak(run: Callable[[bool], float], watched: bool) -> int:
    """The most bytes that a pass held at one time."""
    tracemalloc.start()
    run(watched)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return most


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--only", default="", help="robustifiers whose repr holds this")
    parser.add_argument("--no-fit", action="store_true", help="leave the digits out")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for n_inputs, n_outputs, n_samples in SIZES:
        for robustifier in robustifiers(n_samples):
            if options.only not in repr(robustifier):
                continue
            run = backward(robustifier, n_inputs, n_outputs, n_samples)
            found = compared(run, ROUNDS[n_samples])
            row = {
                "robustifier": repr(robustifier),
                "layer": [n_inputs, n_outputs],
                "samples": n_samples,
                **found,
                "extra_bytes": peak(run, True) - peak(run, False),
            }
            rows.append(row)
            print(
                f"{n_inputs} -> {n_outputs}, {n_samples}: {robustifier!r} "
                f"{1e3 * row['plain_seconds']:.2f} ms, watched {row['ratio']:.2f} "
                f"({row['ratio_of_least']:.2f}), {row['extra_bytes'] / 2**20:.2f} MiB more",
                flush=True,
            )
    result: dict[str, Any] = {"versions": versions(), "backward": rows}
    if not options.no_fit:
        result["digits_fit"] = compared(fit(), 3)
        print(f"digits: {result['digits_fit']}")
    options.out.mkdir(parents=True, exist_ok=True)
    with atomic_path(options.out / "watching.json") as temporary:
        temporary.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
