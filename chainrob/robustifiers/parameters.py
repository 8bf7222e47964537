"""Parameters of robustifiers: how they are checked and how they print."""

from __future__ import annotations

from dataclasses import MISSING, fields, replace
from math import inf
from numbers import Integral, Real
from typing import Any

import numpy as np


def require_integer(owner: Any, name: str, least: int = 0) -> None:
    """Raise ValueError unless the field is an integer of at least ``least``."""
    value = getattr(owner, name)
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise ValueError(
            f"{type(owner).__name__}: {name} must be an integer of at least {least}, "
            f"found {value!r}"
        )


def require_positive(owner: Any, name: str) -> None:
    """Raise ValueError unless the field is a positive, finite number."""
    value = getattr(owner, name)
    if isinstance(value, bool) or not isinstance(value, Real) or not 0.0 < float(value) < inf:
        raise ValueError(
            f"{type(owner).__name__}: {name} must be a positive number, found {value!r}"
        )


def require_open_unit(owner: Any, name: str) -> None:
    """Raise ValueError unless the field lies strictly between 0 and 1."""
    value = getattr(owner, name)
    if not isinstance(value, Real) or not 0.0 < float(value) < 1.0:
        raise ValueError(
            f"{type(owner).__name__}: {name} must lie strictly between 0 and 1, found {value!r}"
        )


def require_floor(owner: Any, name: str) -> None:
    """Raise ValueError unless the field is a finite number of at least 0."""
    value = getattr(owner, name)
    if not isinstance(value, Real) or not 0.0 <= float(value) < inf:
        raise ValueError(
            f"{type(owner).__name__}: {name} must be at least 0 and finite, found {value!r}"
        )


def require_below_half(owner: Any, name: str) -> None:
    """Raise ValueError unless the field is a share in [0, 0.5)."""
    value = getattr(owner, name)
    if not isinstance(value, Real) or not 0.0 <= float(value) < 0.5:
        raise ValueError(f"{type(owner).__name__}: {name} must lie in [0, 0.5), found {value!r}")


def require_flag(owner: Any, name: str) -> None:
    """Raise ValueError unless the field is True or False; the string 'false' is neither."""
    value = getattr(owner, name)
    if not isinstance(value, bool | np.bool_):
        raise ValueError(f"{type(owner).__name__}: {name} must be True or False, found {value!r}")


def require_choice(owner: Any, name: str, choices: tuple[str, ...]) -> None:
    """Raise ValueError unless the field is one of the choices."""
    value = getattr(owner, name)
    if value not in choices:
        raise ValueError(
            f"{type(owner).__name__}: {name} must be one of {', '.join(map(repr, choices))}; "
            f"found {value!r}"
        )


def require_minority(owner: Any, n_samples: int, name: str = "f") -> None:
    """Raise ValueError unless twice the field is below the number of rows."""
    value = getattr(owner, name)
    if 2 * value >= n_samples:
        raise ValueError(
            f"{type(owner).__name__}: 2 * {name} must be below the number of samples, found "
            f"{name}={value} with {n_samples} samples"
        )


def with_dropped(owner: Any, n_dropped: int) -> Any:
    """The dataclass whose ``counts_bad_rows`` are less by bad rows that have been dropped."""
    left = {name: getattr(owner, name) for name in owner.counts_bad_rows}
    left = {name: max(n - n_dropped, 0) for name, n in left.items() if n is not None}
    return replace(owner, **left) if left else owner


def describe(value: Any) -> str:
    """The call that makes a dataclass.

    Positional fields are always shown, keyword-only ones where they differ from the default, and an
    optional one that is left out (None) never.
    """
    shown = []
    for item in fields(value):
        if not item.init:
            continue
        content = getattr(value, item.name)
        if isinstance(content, np.generic):
            content = content.item()
        may_be_left_out = item.kw_only or item.default is None
        if may_be_left_out and item.default is not MISSING and content == item.default:
            continue
        shown.append(f"{item.name}={content!r}")
    return f"{type(value).__name__}({', '.join(shown)})"
