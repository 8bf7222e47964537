"""The run of a comparison: jobs, files, resuming."""

from __future__ import annotations

import hashlib
import os
import time

import numpy as np

from chainrob.experiments.compare.results import CompareResults
from chainrob.experiments.compare.sections import compare_sections
from chainrob.experiments.compare.settings import CompareSettings
from chainrob.experiments.compare.training import train_cell
from chainrob.experiments.files import prepare_folder, write_json
from chainrob.experiments.jobs import Job, check_workers, run_jobs
from chainrob.experiments.partial import PartialResults
from chainrob.experiments.progress import progress_bar
from chainrob.experiments.report import write_report
from chainrob.experiments.versions import machine, versions

__all__ = ["run_compare"]


def run_compare(
    settings: CompareSettings,
    out: str | os.PathLike[str] | None = None,
    *,
    workers: int | None = 1,
    resume: bool = False,
    progress: bool | None = None,
) -> CompareResults:
    """Compare robustifiers over contaminations, data sets and seeds.

    The folder gets ``errors.csv`` (tidy: one row a run), ``summary.json`` (best settings, ranks),
    ``report.html``, ``report.md`` and ``figures/``. The same settings give the same bytes in
    ``errors.csv``, on any number of workers. ``partial/`` keeps what is finished.

    Args:
        settings: What to compare.
        out: Folder for the files; None writes none.
        workers: Processes; None is one a processor.
        resume: Take over what an earlier run in ``out`` finished.
        progress: Show a progress bar; None shows it on a terminal.

    Returns:
        CompareResults: All errors.

    Raises:
        UsageError: If the folder cannot be used, or ``resume`` finds other settings.

    Example:
        >>> from chainrob.experiments.compare import CompareSettings, run_compare
        >>> results = run_compare(CompareSettings(
        ...     data=["iris"], robustifiers=["mean", "trimmed_mean"],
        ...     contaminations=["none", "push"], seeds=2, updates=5))
        >>> results.best()["iris"].robustifier in ("mean", "trimmed_mean")
        True
    """
    start = time.monotonic()
    processes = check_workers(workers)
    folder = None if out is None else prepare_folder(out)
    kept, found_before = None, 0
    if folder is not None:
        named = {f"version of {name}": version for name, version in versions().items()}
        kept = PartialResults(folder, {**settings.as_dict(), **named}, resume=resume)
        found_before = kept.count()
    cells = [
        (data, robustifier, seed)
        for robustifier in settings.robustifiers
        for data in settings.data
        for seed in range(settings.seeds)
    ]
    jobs = {cell: Job(_name(*cell), (settings, *cell)) for cell in cells}
    with progress_bar(len(jobs), "part", progress) as bar:
        found = run_jobs(train_cell, list(jobs.values()), kept=kept, workers=processes, bar=bar)
    errors = np.array(
        [
            [[found[jobs[d, r, k].name] for k in range(settings.seeds)]
             for r in settings.robustifiers]
            for d in settings.data
        ]
    )  # fmt: skip
    results = CompareResults(settings, errors)
    if folder is not None:
        results.write_csv(folder / "errors.csv")
        ranking = results.ranking()
        summary = {
            "best": {data: one._asdict() for data, one in results.best().items()},
            "ranks": None
            if ranking is None
            else {
                "friedman_p": ranking.p_value,
                "critical_difference": ranking.critical_difference,
                "average": dict(zip(settings.robustifiers, ranking.ranks.tolist(), strict=True)),
            },
            "settings": settings.as_dict(),
            "versions": versions(),
        }
        write_json(folder / "summary.json", summary)
        record = {
            **{f"setting: {name}": value for name, value in settings.as_dict().items()},
            **{f"version: {name}": version for name, version in versions().items()},
            "device": "@numpy",
            "workers": processes,
            "processor": machine(),
            "duration of this run, in seconds": round(time.monotonic() - start, 1),
            "parts taken over from an earlier run": found_before,
        }
        write_report("Comparison of robustifiers", compare_sections(results, record), folder)
    return results


def _name(data: str, robustifier: str, seed: int) -> str:
    digest = hashlib.sha256(robustifier.encode()).hexdigest()[:10]
    return f"{data}-{digest}-{seed}"
