"""``chainrob compare``: its options, and what it prints."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from chainrob.experiments.compare.settings import CompareSettings, read_settings
from chainrob.experiments.usage import UsageError
from chainrob.experiments.options import add_run_options
from chainrob.experiments.specs import GRAMMAR

__all__ = ["add_arguments", "run"]

_LISTS = ("data", "robustifiers", "contaminations", "learning_rates")
_NUMBERS = ("seeds", "updates", "batch", "hidden", "seed")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``chainrob compare``."""
    defaults = CompareSettings()
    parser.description = (
        "Compare robustifiers x contaminations x data sets x seeds, and name the best setting for "
        "the worst contamination. Writes errors.csv, summary.json, report.html and figures. "
        "Flags win over the file."
    )
    add = parser.add_argument
    add("file", nargs="?", metavar="FILE.toml", help="settings, one key an option below")
    meanings = {
        "data": "data sets that scikit-learn ships",
        "robustifiers": f"{GRAMMAR}; a name alone has its defaults by batch size",
        "contaminations": "NAME or NAME:PARAMETER=VALUE,... of none, push, labels, noise, leverage",
        "learning_rates": "rates to choose among on validation data",
    }
    for name in _LISTS:
        text = f"{meanings[name]} (default: {' '.join(map(str, getattr(defaults, name)))})"
        kind: dict[str, Any] = {"type": float} if name == "learning_rates" else {}
        add(f"--{name.replace('_', '-')}", nargs="+", metavar="X", help=_plain(text), **kind)
    for name in _NUMBERS:
        add(f"--{name}", type=int, metavar="N", help=f"default: {getattr(defaults, name)}")
    add(
        "--assumed",
        type=float,
        metavar="SHARE",
        help=f"share of bad samples that defaults are made for (default: {defaults.assumed})",
    )
    add("--workers", type=int, metavar="N", help="processes (default: one a processor)")
    add("--out", default="results/compare", metavar="FOLDER", help="default: %(default)s")
    add_run_options(parser)


def run(args: argparse.Namespace) -> int:
    """Run ``chainrob compare`` and print its result.

    Returns:
        int: The exit status.
    """
    from chainrob.experiments.compare.running import run_compare  # matplotlib takes its time

    content = read_settings(args.file) if args.file else {}
    names = (*_LISTS, *_NUMBERS, "assumed")
    content |= {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    try:
        settings = CompareSettings(**content)
    except (ValueError, TypeError) as error:
        raise UsageError(str(error)) from error
    out = Path(args.out)
    try:
        results = run_compare(
            settings, out, workers=args.workers, resume=args.resume, progress=args.progress
        )
    except KeyboardInterrupt:
        print(
            f"interrupted; the parts that were finished are kept in {out}, and the same command "
            "with --resume goes on from there",
            file=sys.stderr,
        )
        return 130
    ranking = results.ranking()
    if ranking is not None:
        print(
            f"all robustifiers are alike: p = {ranking.p_value:.2g}; average ranks differ if more "
            f"than {ranking.critical_difference:.2f} apart (5%)"
            if len(settings.data) > 1
            else "average ranks on one data set, which says nothing of others:"
        )
        for rank, name in sorted(zip(ranking.ranks, settings.robustifiers, strict=True)):
            print(f"  average rank {rank:.2f}  {name}")
    print(f"results are in {out}")
    for data, one in results.best().items():
        rate = "" if one.learning_rate != one.learning_rate else f" at rate {one.learning_rate:g}"
        print(
            f"best for the worst contamination, {data}: {one.robustifier}{rate}, error "
            f"{one.test_error:.3f} under {one.worst_contamination}"
        )
    return 0


def _plain(text: str) -> str:
    return text.replace("%", "%%")
