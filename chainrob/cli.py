"""The command ``chainrob``, also ``python -m chainrob``."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from typing import NoReturn

import chainrob
from chainrob.datasets import DataFileError
from chainrob.experiments import UsageError

__all__ = ["main"]

# Every experiment is a module with add_arguments(parser) and run(args) -> exit status.
COMMANDS = {
    "reproduce": (
        "chainrob.experiments.reproduce",
        "every table and figure of the tutorial, and a referee's questions",
    ),
    "compare": (
        "chainrob.experiments.compare",
        "robustifiers x contaminations x data sets x seeds, ranked",
    ),
    "iris": ("chainrob.experiments.iris", "reproduce Figures 3 and 4 of the tutorial (Iris)"),
    "digits": ("chainrob.experiments.digits", "train on handwritten digits, also on many machines"),
}

EXAMPLES = """\
examples:
  chainrob iris                              the tutorial's Figure 4, in results/iris
  chainrob iris --robustifier "all=trimmed_mean:fraction=0.05"
  chainrob reproduce --quick                 a minute; without --quick, all of it
  chainrob compare --quick                   where robust gradients pay
  chainrob digits --epochs 3                 a small network, some labels wrong
  mpiexec -n 4 chainrob digits --distributed

chainrob COMMAND --help lists the options of a command.
"""


class _Parser(argparse.ArgumentParser):
    """A parser that complains in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def _wide(prog: str) -> argparse.HelpFormatter:
    """The epilog as it is, and a command's summary beside its name."""
    return argparse.RawDescriptionHelpFormatter(prog, max_help_position=14)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments (sequence of str or None): What follows ``chainrob``; None takes it from the
            command line.

    Returns:
        int: 0 if all went well; 2 after one line on standard error if an option, a folder or a
        data file is bad; 130 if interrupted.

    Example:
        >>> from chainrob.cli import main
        >>> main(["iris", "--trials", "0"])
        2
    """
    parser = _Parser(
        prog="chainrob",
        description="Robust training: robust estimates in place of the sum of the gradients.",
        epilog=EXAMPLES,
        formatter_class=_wide,
    )
    parser.add_argument("--version", action="version", version=f"chainrob {chainrob.__version__}")
    commands = parser.add_subparsers(
        title="commands", dest="command", metavar="COMMAND", required=True
    )
    chosen = next((a for a in arguments or sys.argv[1:] if not a.startswith("-")), None)
    for name, (module, summary) in COMMANDS.items():
        command = commands.add_parser(name, help=summary, allow_abbrev=False)
        if name == chosen:  # the other experiments need not even be imported
            experiment = importlib.import_module(module)
            experiment.add_arguments(command)
            command.set_defaults(run=experiment.run)
    try:
        args = parser.parse_args(arguments)
        status: int = args.run(args)
    except (UsageError, DataFileError) as error:
        print(f"chainrob {args.command}: error: {error}", file=sys.stderr)
        return 2
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else 0
    except KeyboardInterrupt:
        if hasattr(args, "resume"):
            print(
                f"interrupted; what was finished is kept in {args.out}, and the same command with "
                "--resume goes on from there",
                file=sys.stderr,
            )
        return 130
    return status
