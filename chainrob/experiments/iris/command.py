"""``chainrob iris``: its options, and what it prints."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from chainrob.experiments.errors import UsageError
from chainrob.experiments.iris.running import run_iris
from chainrob.experiments.iris.settings import SETTINGS, iris_settings
from chainrob.experiments.options import add_run_options
from chainrob.experiments.specs import GRAMMAR

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``chainrob iris``."""
    defaults = SETTINGS["released"]
    parser.description = (
        "The Iris experiment of section 5 of the tutorial: a small network trained on the plain "
        "sum of sample gradients (deep) and with a robust first layer (deep-rob), some training "
        "points being pushed far away. Writes curves.csv, settings.json, summary.json, figure3 "
        "and figure4 (PNG and PDF)."
    )
    add = parser.add_argument
    add(
        "--setting",
        choices=sorted(SETTINGS),
        default="released",
        help="released: what made the published figure; text: what the paper says (default: "
        "%(default)s)",
    )
    number: dict[str, Any] = {"type": int, "metavar": "N"}
    add("--trials", default=defaults.trials, help="default: %(default)s", **number)
    add("--iterations", default=defaults.iterations, help="default: %(default)s", **number)
    add("--seed", default=defaults.seed, help="default: %(default)s", **number)
    add(
        "--record-every",
        default=defaults.record_every,
        help="record the errors every N iterations (default: %(default)s)",
        **number,
    )
    add(
        "--contamination",
        type=float,
        default=defaults.contamination,
        metavar="SHARE",
        help="share of the training points that are pushed (default: %(default)s)",
    )
    add(
        "--push",
        type=float,
        default=defaults.push,
        metavar="K",
        help="how far, in standard deviations (default: %(default)g)",
    )
    add(
        "--robustifier",
        action="append",
        default=[],
        metavar="LAYER=ROBUSTIFIER",
        help="robustifier of a layer of deep-rob, in place of the setting's; LAYER is l1, l2, l3 "
        f"or all, ROBUSTIFIER is none (the plain sum), {GRAMMAR}; may be repeated (example: "
        "l1=trimmed_mean:fraction=0.05)",
    )
    add("--device", default="@numpy", help="@numpy or @cupy:N (default: %(default)s)")
    add(
        "--out",
        default="results/iris",
        metavar="FOLDER",
        help="folder for the results (default: %(default)s)",
    )
    add_run_options(parser)


def run(args: argparse.Namespace) -> int:
    """Run ``chainrob iris`` and print its result.

    Returns:
        int: The exit status.
    """
    names = ("trials", "iterations", "seed", "record_every", "contamination", "push")
    try:
        settings = iris_settings(
            args.setting,
            robustifier=tuple(args.robustifier),
            **{name: getattr(args, name) for name in names},
        )
    except ValueError as error:
        raise UsageError(str(error)) from error
    try:
        results = run_iris(
            settings, args.out, device=args.device, resume=args.resume, progress=args.progress
        )
    except KeyboardInterrupt:
        print(
            f"interrupted; the trials that were finished are kept in {args.out}, and the same "
            "command with --resume goes on from there",
            file=sys.stderr,
        )
        return 130
    diverged = {m: f["trials_that_diverged"] for m, f in results.final().items()}
    if any(diverged.values()):
        print(f"trials whose test error ended at 1 because they diverged: {diverged}")
    print(f"results are in {args.out}")
    print(results.last_line())
    return 0
