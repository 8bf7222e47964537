"""The graph of a recorded computation."""

from __future__ import annotations

import re
from typing import Any

from matplotlib.axes import Axes

from chainrob.plotting.style import PALETTE, axes_of

__all__ = ["computation_graph"]


def computation_graph(
    trace: Any, mode: str = "evaluation", *arguments: Any, ax: Axes | None = None
) -> Axes:
    r"""Draw the graph of an ``EvaluationTrace`` without Graphviz, left to right by rank.

    Args:
        trace: The ``chainrob.differentiation.EvaluationTrace`` to draw.
        mode: The content of a node. ``'evaluation'``: its value. ``'forward'``: its value and
            its tangent; the arguments are the tangents. ``'reverse'``: its value and its adjoint,
            with reversed arrows.
        arguments: Arguments of that mode.
        ax: Where to draw.

    Returns:
        matplotlib.axes.Axes: The graph.

    Raises:
        ValueError: If the mode is unknown.

    Example:
        >>> from chainrob.differentiation import evaluation_trace
        >>> from chainrob.plotting import computation_graph, new_figure
        >>> with new_figure(5, 3) as figure:
        ...     ax = computation_graph(evaluation_trace(lambda x: x * x, 3.0), ax=figure.subplots())
        >>> [text.get_text() for text in ax.texts if text.get_text()]
        ['u₀ = x₁\n3.0000', 'u₁ = u₀ * u₀\n9.0000']
    """
    numbers = trace.node_numbers(mode, *arguments)
    ranks = dict.fromkeys(trace.inputs, 0) | {step.name: step.rank for step in trace.steps}
    places = {}
    for rank in sorted(set(ranks.values())):
        here = [name for name in ranks if ranks[name] == rank]
        for index, name in enumerate(here):
            places[name] = (float(rank), (len(here) - 1) / 2 - index)
    axes = axes_of(ax, 8.0, 3.0)
    axes.set_axis_off()
    boxes = {}
    for name, place in places.items():
        box = {
            "boxstyle": "square" if name in trace.inputs else "round",
            "facecolor": "white",
            "edgecolor": PALETTE[0],
            "linewidth": 2.0 if name == trace.output else 1.0,
        }
        lines = [f"{name} = {trace.expression(name)}", *numbers[name]]
        text = "\n".join(_subscripted(line) for line in lines)
        boxes[name] = axes.text(*place, text, ha="center", va="center", fontsize=8, bbox=box)
    backwards = mode == "reverse"
    for step in trace.steps:
        for source in dict.fromkeys(step.inputs):
            if source not in places:
                continue  # constants are part of the expression
            tail, head = (step.name, source) if backwards else (source, step.name)
            arrow = {
                "arrowstyle": "-|>",
                "color": PALETTE[1] if backwards else "black",
                "linestyle": "--" if backwards else "-",
                "patchA": boxes[tail].get_bbox_patch(),  # from the edge of one box ...
                "patchB": boxes[head].get_bbox_patch(),  # ... to that of the other
                "shrinkA": 0,
                "shrinkB": 1,
            }
            axes.annotate("", places[head], places[tail], arrowprops=arrow)
    spread = [y for _, y in places.values()]
    axes.set_xlim(-0.5, max(ranks.values()) + 0.5)
    axes.set_ylim(min(spread) - 0.4, max(spread) + 0.4)
    return axes


def _subscripted(text: str) -> str:
    """Write indices as subscripts, because u-1 reads as a difference. Adjoints get a bar."""
    text = re.sub(r"\bu(-?\d+)~", r"ū\1", text)
    digits = str.maketrans("-0123456789", "₋₀₁₂₃₄₅₆₇₈₉")
    return re.sub(r"\b([uxū])(-?\d+)\b", lambda m: m[1] + m[2].translate(digits), text)
