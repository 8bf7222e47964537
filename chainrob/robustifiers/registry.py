"""Robustifiers by name, for command lines and configuration files."""

from __future__ import annotations

import re
from dataclasses import fields
from typing import Any

from chainrob.robustifiers.base import Robustifier

_REGISTRY: dict[str, type[Robustifier]] = {}


def register(*classes: type[Robustifier]) -> None:
    """Make classes available by their name in snake case (``TrimmedMean`` as ``trimmed_mean``)."""
    for cls in classes:
        _REGISTRY[re.sub(r"(?<=[a-z])(?=[A-Z])", "_", cls.__name__).lower()] = cls


def names() -> list[str]:
    """The names that ``get`` knows, sorted."""
    return sorted(_REGISTRY)


def get(name: str, **parameters: Any) -> Robustifier:
    """A robustifier by name.

    Args:
        name: class name in snake case, see ``names()``.
        parameters: its arguments.

    Raises:
        ValueError: an unknown name or parameter, with the known ones, or a parameter that cannot
            work.

    Example:
        >>> import chainrob
        >>> chainrob.robustifiers.get('trimmed_mean', fraction=0.05)
        TrimmedMean(fraction=0.05, count=None)
    """
    if name not in _REGISTRY:
        raise ValueError(f"name must be one of {', '.join(names())}; found {name!r}")
    cls = _REGISTRY[name]
    known = [item.name for item in fields(cls) if item.init]
    unknown = sorted(set(parameters) - set(known))
    if unknown:
        raise ValueError(f"{name}: parameters are {', '.join(known)}; found {', '.join(unknown)}")
    try:
        return cls(**parameters)
    except TypeError as error:
        raise ValueError(f"{name}: {error}") from error
