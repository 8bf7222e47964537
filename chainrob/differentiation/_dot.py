"""A recorded computation in Graphviz's language."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["to_dot"]


def to_dot(trace: Any, values: Mapping[str, Any], *, reverse: bool = False) -> str:
    """Inputs as boxes, steps as ellipses, constants plain, the output with a double line."""
    lines = ["digraph computation {", "  rankdir=LR;"]
    for name in trace.inputs:
        lines.append(f"  {_quote(name)} [shape=box, label={_label(trace, name, values)}];")
    for step in trace.steps:
        rings = 2 if step.name == trace.output else 1
        lines.append(
            f"  {_quote(step.name)} [peripheries={rings}, "
            f"label={_label(trace, step.name, values)}];"
        )
    known = {*trace.inputs, *(step.name for step in trace.steps)}
    for step in trace.steps:
        for k, source in enumerate(step.inputs):
            if source not in known:
                constant = _quote(f"{step.name}.{k}")
                lines.append(f"  {constant} [shape=plaintext, label={_quote(source)}];")
                if not reverse:
                    lines.append(f"  {constant} -> {_quote(step.name)};")
            elif reverse:
                lines.append(f"  {_quote(step.name)} -> {_quote(source)} [style=dashed];")
            else:
                lines.append(f"  {_quote(source)} -> {_quote(step.name)};")
    return "\n".join([*lines, "}"])


def _label(trace: Any, name: str, values: Mapping[str, Any]) -> str:
    value = values[name]
    number = f"{value:.4f}" if isinstance(value, float) else f"array {value.shape}"
    return _quote(f"{name} = {trace.expression(name)}\\n{number}")


def _quote(text: str) -> str:
    return '"' + text.replace('"', '\\"') + '"'
