"""A recorded computation in the language of Graphviz."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["render_dot", "to_dot"]


def to_dot(trace: Any, reverse: bool, numbers: Mapping[str, Sequence[str]]) -> str:
    """The graph as text: boxes for inputs, ellipses for steps, a double line for the output.

    Constants have no outline.
    """

    def label(name: str) -> str:
        return _quote("\\n".join([f"{name} = {trace.expression(name)}", *numbers[name]]))

    lines = ["digraph computation {", "  rankdir=LR;"]
    for name in trace.inputs:
        lines.append(f"  {_quote(name)} [shape=box, label={label(name)}];")
    for step in trace.steps:
        rings = 2 if step.name == trace.output else 1
        lines.append(f"  {_quote(step.name)} [peripheries={rings}, label={label(step.name)}];")
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


def _quote(text: str) -> str:
    return '"' + text.replace('"', '\\"') + '"'


def render_dot(text: str, path: str | Path) -> Path:
    """Draw a graph with Graphviz. The ending of the path sets the format.

    Raises:
        RuntimeError: If Graphviz is not installed, or fails.
    """
    path = Path(path)
    program = shutil.which("dot")
    if program is None:
        raise RuntimeError("Graphviz is not installed (no program 'dot'); use to_dot() instead")
    part = path.with_name(path.name + ".part")
    command = [program, f"-T{path.suffix[1:]}", "-o", str(part)]
    done = subprocess.run(command, input=text, text=True, capture_output=True, check=False)
    if done.returncode:
        part.unlink(missing_ok=True)
        raise RuntimeError(f"dot failed: {done.stderr.strip()}")
    return part.replace(path)
