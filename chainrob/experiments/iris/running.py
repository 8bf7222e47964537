"""The run of the Iris experiment: training, files, resuming."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from chainrob.datasets import load_iris
from chainrob.experiments.devices import get_device
from chainrob.experiments.errors import UsageError
from chainrob.experiments.files import prepare_folder, read_json, save_figure, write_json
from chainrob.experiments.iris.published import published_figure4
from chainrob.experiments.iris.results import IrisResults
from chainrob.experiments.iris.settings import IrisSettings
from chainrob.experiments.iris.training import train
from chainrob.experiments.iris.unfinished import Unfinished
from chainrob.experiments.partial import PartialResults, check_same_settings
from chainrob.experiments.progress import progress_bar
from chainrob.experiments.versions import versions

__all__ = ["run_iris"]

TRIALS_AT_ONCE = {"numpy": 25, "cupy": 2000}
"""Trials that are trained in one graph (both methods) and kept together: enough to hide what a step
costs besides its arithmetic, few enough for the processor's cache."""


def run_iris(
    settings: IrisSettings,
    out: str | os.PathLike[str] | None = None,
    *,
    device: str = "@numpy",
    resume: bool = False,
    progress: bool | None = None,
) -> IrisResults:
    """Run the Iris experiment, and write its files if there is a folder for them.

    The folder gets ``curves.csv``, ``settings.json``, ``summary.json``, and ``figure3`` and
    ``figure4`` as PNG and PDF. While the run goes on, finished trials are kept in ``partial/``, and
    every ten seconds the state of those that are being trained.

    Args:
        settings (IrisSettings): What to run.
        out (path or None): Folder for the files; None writes none.
        device (str): ``'@numpy'`` or ``'@cupy:N'``.
        resume (bool): Go on where an interrupted run last kept what it had.
        progress (bool or None): Show a progress bar; None shows it on a terminal.

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
    load_iris()  # what cannot work fails here, before anything is computed or written
    published_figure4()
    chainer_device = get_device(device)
    if resume and out is None:
        raise UsageError("resume needs the folder of the run to resume")
    if out is None:
        return _train_all(settings, chainer_device, None, progress)
    folder = prepare_folder(out)
    record = {"settings": settings.as_dict(), "device": device, "versions": versions()}
    if resume and not (folder / "partial").exists() and (folder / "settings.json").exists():
        _check_record(read_json(folder / "settings.json"), record, folder)
        results = IrisResults.read_csv(folder / "curves.csv", settings)
        _write_files(results, record, folder)
        return results
    kept = PartialResults(folder, _flat(record), resume=resume)
    results = _train_all(settings, chainer_device, kept, progress)
    _write_files(results, record, folder)
    kept.remove()
    return results


def _train_all(
    settings: IrisSettings, device: Any, kept: PartialResults | None, progress: bool | None
) -> IrisResults:
    methods = settings.methods()
    at_once = TRIALS_AT_ONCE["numpy" if device.name == "@numpy" else "cupy"]
    chunks = []
    with progress_bar(settings.trials * settings.iterations, "updates of a trial", progress) as bar:
        for first in range(0, settings.trials, at_once):
            trials = range(first, min(first + at_once, settings.trials))
            part = f"trials-{trials[0]}-{trials[-1]}"
            errors = kept.load(part) if kept else None
            if errors is not None:
                bar.update(len(trials) * settings.iterations)
            else:
                advance = partial(bar.update, len(trials))
                state = Unfinished(kept, part) if kept else None
                errors = train(settings, list(methods.values()), trials, device, advance, state)
                if kept:
                    kept.save(part, errors)
            chunks.append(errors)
    return IrisResults(settings, dict(zip(methods, np.concatenate(chunks, axis=1), strict=True)))


def _write_files(results: IrisResults, record: dict[str, Any], folder: Path) -> None:
    from chainrob.experiments.iris.figures import figure3, figure4  # matplotlib takes its time

    results.write_csv(folder / "curves.csv")
    robustifiers = {
        method: [repr(one) for one in layers]
        for method, layers in results.settings.methods().items()
    }
    write_json(folder / "settings.json", {**record, "robustifiers": robustifiers})
    write_json(folder / "summary.json", {"test_error": results.final()})
    save_figure(figure3(results.settings), folder / "figure3")
    save_figure(figure4(results), folder / "figure4")


def _flat(record: dict[str, Any]) -> dict[str, Any]:
    """Settings, device and versions as one level of names, for messages about what changed."""
    named = {f"version of {name}": version for name, version in record["versions"].items()}
    return {**record["settings"], "device": record["device"], **named}


def _check_record(kept: Any, record: dict[str, Any], folder: Path) -> None:
    try:
        flat = _flat(kept)
    except (KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"cannot resume: {folder / 'settings.json'} is damaged") from error
    check_same_settings(flat, _flat(record), folder)
