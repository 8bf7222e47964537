"""The tables of an evaluation trace as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from chainrob.differentiation._formulas import term, total

__all__ = ["everything", "formula", "node_numbers", "table"]

MARKS = {"evaluation": "", "forward": "'", "reverse": "~"}
"""The sign after the name of a value: none, a tangent's dot, or an adjoint's bar."""


def _check_mode(mode: str) -> None:
    """Raise ValueError for an unknown mode."""
    if mode not in MARKS:
        raise ValueError(f"mode must be 'evaluation', 'forward' or 'reverse', found {mode!r}")


def numbers(trace: Any, mode: str, arguments: Sequence[Any], **options: Any) -> Mapping[str, Any]:
    """The number of each name in one of the modes."""
    _check_mode(mode)
    if mode == "evaluation":
        values: Mapping[str, Any] = trace.values
        return values
    found: Mapping[str, Any] = getattr(trace, mode)(*arguments, **options)
    return found


def formula(trace: Any, name: str, mode: str) -> str:
    """The right-hand side of the line of ``name``."""
    _check_mode(mode)
    if mode == "evaluation":
        return str(trace.expression(name))
    if mode == "forward":
        if name in trace.inputs or name == "y":
            return f"{trace.expression(name)}'"
        step = next(one for one in trace.steps if one.name == name)
        return total(
            [
                term(partial, f"{source}'", behind=True)
                for source, partial in zip(step.inputs, step.partials, strict=True)
                if source in trace.values
            ]
        )
    if name == "y":
        return "dy/dy"
    terms = [
        term(partial, f"{step.name}~", behind=False)
        for step in trace.steps
        for source, partial in zip(step.inputs, step.partials, strict=True)
        if source == name
    ]
    if name == trace.output:
        terms.insert(0, "y~")
    return total(terms)


def table(trace: Any, mode: str, arguments: Sequence[Any], digits: int, rounded: bool) -> str:
    """The name, the formula and the number of every value."""
    options = {"digits": digits} if rounded and mode != "evaluation" else {}
    values = numbers(trace, mode, arguments, **options)
    mark = MARKS[mode]
    rows = [
        (name + mark, formula(trace, name, mode), _show(values[name], digits)) for name in values
    ]
    widths = [max(len(row[k]) for row in rows) for k in range(2)]
    return "\n".join(f"{n:<{widths[0]}} | {e:<{widths[1]}} | {v}" for n, e, v in rows)


def everything(trace: Any) -> str:
    """All tables, and their numbers of operations."""
    parts = ["Evaluation", trace.table()]
    try:
        for k, name in enumerate(trace.inputs):
            tangents = [float(k == j) for j in range(len(trace.inputs))]
            parts += ["", f"Forward mode, derivatives in {trace.expression(name)} ({name})"]
            parts.append(trace.table("forward", *tangents))
        parts += ["", "Reverse mode, derivatives of y", trace.table("reverse")]
    except ValueError as error:  # there are values, but no derivatives
        parts.append(f"There are no derivatives: {error}")
    counts = trace.operations()
    return "\n".join(
        [
            *parts,
            "",
            f"Operations: evaluation {counts.evaluation}, forward mode {counts.forward} per "
            f"direction, reverse mode {counts.reverse} in total",
        ]
    )


def node_numbers(trace: Any, mode: str, arguments: Sequence[Any]) -> dict[str, list[str]]:
    """Lines for the node of each input and step: its value, and its derivative if there is one."""
    derivatives = numbers(trace, mode, arguments)
    lines = {}
    for name in (*trace.inputs, *(step.name for step in trace.steps)):
        lines[name] = [_short(trace.values[name])]
        if mode != "evaluation":
            lines[name].append(f"{name}{MARKS[mode]} = {_short(derivatives[name])}")
    return lines


def _short(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else f"array {value.shape}"


def _show(value: Any, digits: int) -> str:
    """A number, or an array on one line."""
    if isinstance(value, float):
        return f"{value:.{digits}f}"
    return np.array2string(np.asarray(value), precision=digits, separator=", ").replace("\n", "")
