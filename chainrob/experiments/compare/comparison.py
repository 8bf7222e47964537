"""``chainrob compare``: its options, the run with its files and report, and what it prints."""

from __future__ import annotations

import argparse
import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np

from chainrob.experiments.compare.choices import CompareResults
from chainrob.experiments.compare.comparison_settings import (
    QUICK,
    CompareSettings,
    read_settings,
)
from chainrob.experiments.compare.train_cell import train_cell
from chainrob.experiments.engine import Run
from chainrob.experiments.files import write_json
from chainrob.experiments.jobs import Job
from chainrob.experiments.options import add_run_options, add_settings, given, made
from chainrob.experiments.tables import write_csv

__all__ = ["add_arguments", "run", "run_compare"]

_OFFERED = ("data", "methods", "contaminations", "learning_rates", "seeds", "updates", "seed")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``chainrob compare``."""
    parser.usage = "%(prog)s [FILE.toml] [options]"
    parser.description = (
        "Compare robust gradients with one-line baselines, over methods, contaminations, data sets "
        "and seeds. All methods have the same budget. Their parameters are chosen on contaminated "
        "validation points. Writes report.html (also .md), figures, errors.csv, times.csv and "
        "summary.json. The defaults take one to one and a half hours on two cores."
    )
    parser.epilog = (
        "examples:\n"
        "  chainrob compare --quick\n"
        '  chainrob compare --data wine --methods "plain mean" krum:f=3 --seeds 5\n'
        "  chainrob compare --data mine.csv:target=price --out results/mine"
    )
    add = parser.add_argument
    add("file", nargs="?", metavar="FILE.toml", help="settings by option name; options override it")
    add("--quick", action="store_true", help="a small comparison of about a minute")
    add_settings(parser, CompareSettings, _OFFERED)
    add("--workers", type=int, metavar="N", help="number of processes (default: one per processor)")
    add_run_options(parser, "results/compare")


def run(args: argparse.Namespace) -> int:
    """Run ``chainrob compare`` and print its result.

    Returns:
        int: The exit status.
    """
    content = QUICK if args.quick else {}
    content = content | (read_settings(args.file) if args.file else {}) | given(args, _OFFERED)
    settings = made(CompareSettings, **content)
    results = run_compare(
        settings, args.out, workers=args.workers, resume=args.resume, progress=args.progress
    )
    ranking = results.ranking()
    if ranking is not None:
        print(
            f"hypothesis that all methods are alike: p = {ranking.p_value:.2g}; average ranks "
            f"differ at the 5% level if they are more than {ranking.critical_difference:.2f} apart"
            if len(settings.data) > 1
            else "average ranks on one data set (they say nothing about other data):"
        )
        for rank, name in sorted(zip(ranking.ranks, results.common_methods(), strict=True)):
            print(f"  average rank {rank:.2f}  {name}")
    for outcome, words in (
        ("pay", "robust gradients pay"),
        ("as well", "a baseline does as well"),
        ("harm", "robust gradients harm"),
    ):
        number = sum(case.outcome == outcome for case in results.cases)
        if results.cases:
            print(f"{words} in {number} of {len(results.cases)} cases")
    print(f"the report is {Path(args.out) / 'report.html'} (also report.md)")
    return 0


def run_compare(
    settings: CompareSettings,
    out: str | os.PathLike[str] | None = None,
    *,
    workers: int | None = 1,
    resume: bool = False,
    progress: bool | None = None,
) -> CompareResults:
    """Compare methods over contaminations, data sets and seeds.

    The folder gets ``report.html`` (one file, figures inside), ``report.md``, ``figures/``,
    ``errors.csv`` (tidy: one row per model), ``times.csv`` and ``summary.json``. The same settings
    give the same bytes in ``errors.csv``, on any number of workers. ``partial/`` keeps
    finished parts.

    Args:
        settings: The settings of the comparison.
        out: Folder for the files; None writes none.
        workers: Number of processes; None is one per processor.
        resume: Use the parts that an earlier run in ``out`` finished.
        progress: Show the progress. None shows a bar on a terminal, else a line per minute.

    Returns:
        CompareResults: All scores.

    Raises:
        UsageError: If the folder cannot be used, or ``resume`` finds other settings.

    Example:
        >>> from chainrob.experiments.compare import CompareSettings, run_compare
        >>> results = run_compare(CompareSettings(
        ...     data=["iris"], methods=["plain mean", "trimmed mean"],
        ...     contaminations=["none", "push:0.1"], seeds=2, updates=5))
        >>> results.chosen("iris").shape  # methods, seeds, contaminations
        (2, 2, 2)
    """
    the_run = Run(settings.as_dict(), out, workers=workers, resume=resume, progress=progress)
    jobs = {
        (data, method, k): Job(
            _name(data, method, settings.seed + k),
            (
                data, method, settings.seed + k, settings.contaminations_of(data),
                settings.learning_rates, settings.updates,
            ),
        )
        for k in range(settings.seeds)
        for data in settings.data
        for method in settings.methods_of(data)
    }  # fmt: skip
    found = the_run.compute(train_cell, list(jobs.values()), "part")
    cells = {
        data: np.array(
            [
                [found[jobs[data, method, k].name] for k in range(settings.seeds)]
                for method in settings.methods_of(data)
            ]
        )
        for data in settings.data
    }
    results = CompareResults(settings, cells)
    if the_run.folder is not None:
        _write(results, the_run, the_run.folder)
    return results


def _write(results: CompareResults, the_run: Run, folder: Path) -> None:
    from chainrob.experiments.compare.overview import compare_sections  # matplotlib takes its time
    from chainrob.experiments.report import write_report

    settings = results.settings
    results.write_csv(folder / "errors.csv")
    times = (
        (data, method, f"{seconds:.4f}")
        for data in settings.data
        for method, seconds in zip(settings.methods_of(data), results.seconds(data), strict=True)
    )
    write_csv(folder / "times.csv", ("data", "method", "processor_seconds_a_model"), times)
    ranking, record = results.ranking(), the_run.record()
    ranks: dict[str, Any] | None = None
    if ranking is not None:
        ranks = {
            "p": ranking.p_value,
            "critical_difference": ranking.critical_difference,
            "average": dict(zip(results.common_methods(), ranking.ranks.tolist(), strict=True)),
        }
    cases = [
        {
            "data": case.data,
            "contamination": case.contamination,
            "plain_mean": float(case.plain.mean()),
            "best_without": float(case.baseline.mean()),
            "best_with_robust_gradients": float(case.robust.mean()),
            "outcome": case.outcome,
            "chosen_most_often": case.favorite,
        }
        for case in results.cases
    ]
    write_json(folder / "summary.json", {"cases": cases, "ranks": ranks, **record})
    sections = [*compare_sections(results), the_run.section(record)]
    write_report("Robust gradients and one-line baselines", sections, folder)


def _name(data: str, method: str, seed: int) -> str:
    digest = hashlib.sha256(f"{data}|{method}".encode()).hexdigest()[:16]
    return f"{digest}-{seed}"
