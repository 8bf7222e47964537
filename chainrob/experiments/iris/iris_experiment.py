"""``chainrob iris``: its options, the run with its files, and what it prints."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chainrob.datasets import load_iris
from chainrob.experiments.devices import get_device
from chainrob.experiments.engine import Run, flat_record
from chainrob.experiments.files import prepare_folder, read_json, save_figure, write_json
from chainrob.experiments.iris.protocol import SETTINGS, IrisSettings, iris_settings
from chainrob.experiments.iris.published import published_figure4
from chainrob.experiments.iris.train_trials import train
from chainrob.experiments.iris.trial_errors import IrisResults
from chainrob.experiments.iris.unfinished import Unfinished
from chainrob.experiments.jobs import Job
from chainrob.experiments.options import add_run_options, add_settings, given, made
from chainrob.experiments.partial import check_same_settings
from chainrob.experiments.robustifier_texts import LAYERS_HELP
from chainrob.experiments.usage import UsageError
from chainrob.experiments.versions import blas, machine, versions

__all__ = ["add_arguments", "run", "run_iris"]

TRIALS_AT_ONCE = {"numpy": 25, "cupy": 2000}
"""Number of trials that are trained in one graph (both methods) and saved together. They are enough
to hide the overhead of a step, and few enough for the processor's cache."""

_OFFERED = (
    "trials", "iterations", "seed", "record_every", "contamination", "push", "robustifier",
)  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``chainrob iris``."""
    parser.usage = "%(prog)s [options]"
    parser.description = (
        "Run the Iris experiment of section 5 of the tutorial. A small network is trained with "
        "the plain sum of the sample gradients (deep) and with a robust first layer (deep-rob). "
        "Some training points are pushed far away. Writes curves.csv, settings.json, "
        "summary.json, figure3 and figure4 (PNG and PDF)."
    )
    parser.epilog = (
        f"{LAYERS_HELP}\nexamples:\n"
        '  chainrob iris --robustifier "all=trimmed_mean:fraction=0.05"\n'
        "  chainrob iris --setting text --trials 200 --out results/text"
    )
    parser.add_argument(
        "--setting",
        choices=sorted(SETTINGS),
        default="released",
        help="released: as the program of the published figure; text: as the paper says "
        "(default: %(default)s)",
    )
    add_settings(
        parser, IrisSettings, _OFFERED, defaults=SETTINGS["released"], repeated=["robustifier"]
    )
    parser.add_argument(
        "--device", default="@numpy", help="@numpy or @cupy:N (default: %(default)s)"
    )
    add_run_options(parser, "results/iris")


def run(args: argparse.Namespace) -> int:
    """Run ``chainrob iris`` and print its result.

    Returns:
        int: The exit status.
    """
    settings = made(iris_settings, args.setting, **given(args, _OFFERED))
    results = run_iris(
        settings, args.out, device=args.device, resume=args.resume, progress=args.progress
    )
    diverged = {m: f["trials_that_diverged"] for m, f in results.final().items()}
    if any(diverged.values()):
        listed = ", ".join(f"{method} {number}" for method, number in diverged.items())
        print(f"trials that diverged (their test error is 1): {listed}")
    print(f"results are in {args.out}")
    print(results.last_line())
    return 0


def run_iris(
    settings: IrisSettings,
    out: str | os.PathLike[str] | None = None,
    *,
    device: str = "@numpy",
    resume: bool = False,
    progress: bool | None = None,
) -> IrisResults:
    """Run the Iris experiment, and write its files if a folder is given.

    The folder gets ``curves.csv``, ``settings.json``, ``summary.json``, and ``figure3`` and
    ``figure4`` as PNG and PDF. During the run ``partial/`` holds the finished trials and, saved
    every ten seconds, the state of the trials in training.

    Args:
        settings: The settings of the run.
        out: Folder for the files; None writes none.
        device: ``'@numpy'`` or ``'@cupy:N'``.
        resume: Continue an interrupted run in ``out`` from its last saved state.
        progress: Show the progress. None shows a bar on a terminal, else a line per minute.

    Returns:
        IrisResults: All errors.

    Raises:
        UsageError: If the device or the folder cannot be used, or ``resume`` finds other settings.
        DataFileError: If a data file is missing or damaged.

    Example:
        >>> from chainrob.experiments.iris import iris_settings, run_iris
        >>> results = run_iris(iris_settings(trials=3, iterations=20))
        >>> results.errors["deep-rob"].shape
        (3, 3, 2)

    References:
        M. J. Holland. Robust gradient descent via back-propagation: a Chainer-based tutorial,
        section 5.
    """
    load_iris()  # a missing data file shows here, before anything is computed or written
    published_figure4()
    if resume and out is None:
        raise UsageError("resume needs the folder of the interrupted run, found out=None")
    get_device(device)
    if out is not None and resume:
        finished = _finished(prepare_folder(out), settings, device)
        if finished is not None:
            return finished
    the_run = Run(settings.as_dict(), out, device=device, resume=resume, progress=progress)
    results = _train_all(settings, the_run)
    if the_run.folder is not None and the_run.kept is not None:
        _write_files(results, the_run.record(), the_run.folder)
        the_run.kept.remove()
    return results


def _train_all(settings: IrisSettings, the_run: Run) -> IrisResults:
    methods = settings.methods()
    at_once = TRIALS_AT_ONCE["numpy" if the_run.device.name == "@numpy" else "cupy"]
    jobs = []
    for first in range(0, settings.trials, at_once):
        trials = range(first, min(first + at_once, settings.trials))
        name = f"trials-{trials[0]}-{trials[-1]}"
        jobs.append(Job(name, (trials, name), len(trials) * settings.iterations))

    def train_some(
        trials: range, name: str, advance: Callable[[int], object]
    ) -> NDArray[np.float64]:
        state = Unfinished(the_run.kept, name) if the_run.kept else None
        return train(settings, list(methods.values()), trials, the_run.device, advance, state)

    found = the_run.compute(train_some, jobs, "trial update", stepwise=True)
    errors = np.concatenate([found[job.name] for job in jobs], axis=1)
    return IrisResults(settings, dict(zip(methods, errors, strict=True)))


def _write_files(results: IrisResults, record: dict[str, Any], folder: Path) -> None:
    from chainrob.experiments.iris.figures import figure3, figure4  # matplotlib takes its time

    results.write_csv(folder / "curves.csv")
    robustifiers = {
        method: [repr(one) for one in layers]
        for method, layers in results.settings.methods().items()
    }
    made_with = {name: record[name] for name in ("settings", "device", "versions")}
    hardware = {"machine": machine(), "blas": blas()}
    write_json(folder / "settings.json", {**made_with, **hardware, "robustifiers": robustifiers})
    write_json(folder / "summary.json", {"test_error": results.final()})
    save_figure(figure3(results.settings), folder / "figure3")
    save_figure(figure4(results), folder / "figure4")


def _finished(folder: Path, settings: IrisSettings, device: str) -> IrisResults | None:
    """The results of a complete run, or None. Missing files are written again."""
    record = folder / "settings.json"
    if (folder / "partial").exists() or not record.exists():
        return None
    now = {"settings": settings.as_dict(), "device": device, "versions": versions()}
    try:
        kept = flat_record(read_json(record))
    except (KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"cannot resume: {record} is damaged") from error
    check_same_settings(kept, flat_record(now), folder)
    results = IrisResults.read_csv(folder / "curves.csv", settings)
    _write_files(results, now, folder)
    return results
