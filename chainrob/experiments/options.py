"""Command line options that all long runs have in common."""

from __future__ import annotations

import argparse


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--resume`` and ``--progress`` / ``--no-progress``."""
    parser.add_argument(
        "--resume", action="store_true", help="go on where an interrupted run in --out stopped"
    )
    parser.add_argument(
        "--progress",
        action=argparse.BooleanOptionalAction,
        help="show a progress bar (default: on a terminal)",
    )
