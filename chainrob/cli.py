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
        "reproduce every table and figure of the tutorial",
    ),
    "compare": (
        "chainrob.experiments.compare",
        "compare robust gradients with simple baselines on bad data",
    ),
    "iris": ("chainrob.experiments.iris", "reproduce Figures 3 and 4 of the tutorial (Iris)"),
    "digits": ("chainrob.experiments.digits", "train on handwritten digits, also on many machines"),
}

EXAMPLES = """\
examples:
  chainrob iris                      the tutorial's Figure 4, in the folder results/iris
  chainrob reproduce --quick         a report in a minute or two
  chainrob compare --quick           a small comparison in a minute
  chainrob digits --epochs 3         a small network, with some labels wrong
Each command has more examples and its options: chainrob COMMAND --help
"""


class _Parser(argparse.ArgumentParser):
    """A parser whose error message is one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


class _Help(argparse.HelpFormatter):
    """Wraps each line of a text separately. Lines that begin with a space stay as they are."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        wrap = super()._fill_text
        return "\n".join(
            line if line.startswith(" ") else wrap(line, width, indent)
            for line in text.splitlines()
        )


def _wide(prog: str) -> argparse.HelpFormatter:
    """The formatter with a narrow first column, so that a summary stands beside its command."""
    return _Help(prog, max_help_position=14)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: The words after ``chainrob``. None takes them from the command line.

    Returns:
        int: The exit status. 0: success. 2: an option, a folder or a data file is bad; one line on
        standard error says which. 130: interrupted.

    Example:
        >>> from chainrob.cli import main
        >>> main(["iris", "--trials", "0"])
        2
    """
    parser = _Parser(
        prog="chainrob",
        description="Robust training: a robust estimate replaces the sum of the sample gradients.",
        epilog=EXAMPLES,
        formatter_class=_wide,
    )
    parser.add_argument("--version", action="version", version=f"chainrob {chainrob.__version__}")
    commands = parser.add_subparsers(
        title="commands", dest="command", metavar="COMMAND", required=True
    )
    chosen = next((a for a in arguments or sys.argv[1:] if not a.startswith("-")), None)
    for name, (module, summary) in COMMANDS.items():
        command = commands.add_parser(name, help=summary, allow_abbrev=False, formatter_class=_Help)
        if name == chosen:  # do not import the other experiments
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
                f"interrupted; the finished parts are kept in {args.out}, and the same command "
                "with --resume continues from there",
                file=sys.stderr,
            )
        return 130
    return status
