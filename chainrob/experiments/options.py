"""Command line options from the fields of a settings dataclass."""

from __future__ import annotations

import argparse
import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from chainrob.experiments.usage import UsageError

__all__ = ["add_run_options", "add_settings", "described", "given", "made"]

T = TypeVar("T")

_MOST_SHOWN = 8


def add_settings(
    parser: argparse.ArgumentParser,
    settings: type,
    names: Iterable[str],
    *,
    defaults: Any = None,
    repeated: Iterable[str] = (),
) -> None:
    """Add one option per field, with its type from the annotation and its help from the docstring.

    An option that is not on the command line is None. So ``given`` can find the others.

    Args:
        parser: Where to add them.
        settings: A dataclass whose docstring describes its fields under ``Args:``.
        names: Fields to offer, in the order of the help.
        defaults: An instance whose values the help shows; None makes one.
        repeated: Fields with several texts, given by repeating the option. Other fields with
            several values take them all at once.

    Example:
        >>> import argparse
        >>> from chainrob.experiments.iris import IrisSettings
        >>> from chainrob.experiments.options import add_settings, given
        >>> parser = argparse.ArgumentParser()
        >>> add_settings(parser, IrisSettings, ["trials", "record_every"])
        >>> given(parser.parse_args(["--record-every", "5"]), ["trials", "record_every"])
        {'record_every': 5}
    """
    hints, texts = get_type_hints(settings), described(settings)
    defaults = settings() if defaults is None else defaults
    for name in names:
        hint, value = hints[name], getattr(defaults, name)
        shown = " ".join(_shortened(value)) if isinstance(value, tuple) else value
        text = f"{texts[name]} (default: {'empty' if shown in ('', None) else shown})"
        options: dict[str, Any] = {"help": text.replace("%", "%%")}
        if get_origin(hint) is tuple and name in repeated:
            options |= {"action": "append", "metavar": "TEXT"}
        elif get_origin(hint) is tuple:
            options |= {"nargs": "+", "metavar": "X", "type": get_args(hint)[0]}
        elif get_origin(hint) is Literal:
            choices = get_args(hint)
            options |= {"choices": choices, "type": type(choices[0])}
        elif hint is str:
            options["metavar"] = "TEXT"
        else:
            options |= {"type": hint, "metavar": "N" if hint is int else "X"}
        parser.add_argument(f"--{name.replace('_', '-')}", **options)


def _shortened(values: tuple[Any, ...]) -> list[str]:
    """The values as text. Of many values only the first three and the last one are shown."""
    texts = [str(value) for value in values]
    return texts if len(texts) <= _MOST_SHOWN else [*texts[:3], "...", texts[-1]]


def add_run_options(parser: argparse.ArgumentParser, out: str | None = None) -> None:
    """Add ``--out``, ``--resume`` and ``--progress`` / ``--no-progress``."""
    add = parser.add_argument
    if out is not None:
        text = "folder of the results (default: %(default)s)"
        add("--out", default=out, metavar="FOLDER", help=text)
    add("--resume", action="store_true", help="continue an interrupted run in --out")
    add(
        "--progress",
        action=argparse.BooleanOptionalAction,
        help="show the progress (default: a bar on a terminal, else a line per minute)",
    )


def given(args: argparse.Namespace, names: Iterable[str]) -> dict[str, Any]:
    """Those of the named options that are on the command line, by name."""
    found = {name: getattr(args, name) for name in names}
    return {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in found.items()
        if value is not None
    }


def made(make: Callable[..., T], *arguments: Any, **fields: Any) -> T:
    """Make settings. An error in them becomes a UsageError, because the user can correct it.

    Raises:
        UsageError: ``make`` raises ValueError or TypeError.
    """
    try:
        return make(*arguments, **fields)
    except (ValueError, TypeError) as error:
        raise UsageError(str(error)) from error


def described(settings: type) -> Mapping[str, str]:
    """The entries under ``Args:`` in the docstring, each in one line without the full stop.

    Example:
        >>> from chainrob.experiments.iris import IrisSettings
        >>> from chainrob.experiments.options import described
        >>> described(IrisSettings)["seed"]
        'seed of all random numbers'
    """
    text = inspect.getdoc(settings) or ""
    section = re.search(r"^Args:\n((?:    .*\n|\n)+)", text + "\n", re.M)
    entries = re.findall(r"^    (\w+): (.*(?:\n {5,}.*)*)", section[1] if section else "", re.M)
    result = {}
    for name, entry in entries:
        line = " ".join(entry.split()).rstrip(".").replace("``", "")
        result[name] = line[:1].lower() + line[1:] if line[1:2].islower() else line
    return result
