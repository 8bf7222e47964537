"""``chainrob reproduce``: its options, and what it prints."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from chainrob.experiments.errors import UsageError
from chainrob.experiments.options import add_run_options
from chainrob.experiments.reproduce.settings import QUICK, ReproduceSettings

__all__ = ["add_arguments", "run"]

_COUNTS = (
    "trials", "sweep_trials", "robustifier_trials", "slow_trials", "iterations",
    "seed",
)  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``chainrob reproduce``."""
    defaults = ReproduceSettings()
    parser.description = (
        "Regenerate every artefact of the tutorial beside its published values, with verdicts by "
        "stated rules, and answer a referee's questions (report.html, report.md, CSV files, "
        "figures). 'rgd' instead runs Holland and Ikeda's synthetic linear regression."
    )
    add = parser.add_argument
    add(
        "what",
        nargs="?",
        choices=("report", "rgd"),
        default="report",
        help="report (default: about ten minutes on two cores) or rgd (seconds)",
    )
    add("--quick", action="store_true", help="few and short trials: a look at the report")
    number: dict[str, Any] = {"type": int, "metavar": "N"}
    meanings = {
        "trials": "for Figure 4, differences, ablation and clean bound; for rgd, default 250",
        "sweep_trials": "for each setting of a sweep",
        "robustifier_trials": "for each robustifier",
        "slow_trials": "for each slow robustifier",
        "iterations": "updates in every trial; for rgd, default 45",
        "seed": "of everything",
    }
    for name in _COUNTS:
        text = f"{meanings[name]} (default: {getattr(defaults, name)})"
        add(f"--{name.replace('_', '-')}", help=text, **number)
    add("--device", default="@numpy", help="@numpy or @cupy:N (default: %(default)s)")
    add("--workers", help="processes (default: one a processor)", **number)
    add("--out", metavar="FOLDER", help="default: results/reproduce or results/rgd")
    add_run_options(parser)


def run(args: argparse.Namespace) -> int:
    """Run ``chainrob reproduce`` and print its result.

    Returns:
        int: The exit status.
    """
    given = {name: getattr(args, name) for name in _COUNTS if getattr(args, name) is not None}
    return _rgd(args, given) if args.what == "rgd" else _report(args, given)


def _report(args: argparse.Namespace, given: dict[str, int]) -> int:
    from chainrob.experiments.reproduce.running import run_reproduction  # matplotlib takes its time

    out = Path(args.out or "results/reproduce")
    try:
        settings = ReproduceSettings(**{**(QUICK if args.quick else {}), **given})
    except ValueError as error:
        raise UsageError(str(error)) from error
    try:
        verdicts = run_reproduction(
            settings,
            out,
            device=args.device,
            workers=args.workers,
            resume=args.resume,
            progress=args.progress,
        )
    except KeyboardInterrupt:
        print(
            f"interrupted; the trials that were finished are kept in {out}, and the same command "
            "with --resume goes on from there",
            file=sys.stderr,
        )
        return 130
    for verdict in verdicts:
        print(f"{verdict.outcome:14} {verdict.claim}")
    print(f"the report is {out / 'report.html'} (also report.md)")
    return 0


def _rgd(args: argparse.Namespace, given: dict[str, int]) -> int:
    from chainrob.experiments.rgd import RgdSettings, run_rgd

    out = Path(args.out or "results/rgd")
    unknown = sorted(set(given) - {"trials", "iterations", "seed"})
    if unknown or args.device != "@numpy" or args.resume or args.workers:
        raise UsageError("reproduce rgd takes --trials, --iterations, --seed, --quick and --out")
    try:
        settings = RgdSettings(**{**({"trials": 20} if args.quick else {}), **given})
    except ValueError as error:
        raise UsageError(str(error)) from error
    final = run_rgd(settings, out).final()
    print(f"results are in {out}")
    for noise, methods in final.items():
        for name, found in methods.items():
            low, high = found["interval"]
            print(f"{noise:10} {name:14} excess risk {found['mean']:.4g} [{low:.4g}, {high:.4g}]")
    return 0
