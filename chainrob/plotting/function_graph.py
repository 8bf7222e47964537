"""Chainer's own computational graph, without Graphviz."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from chainrob.plotting.style import axes_of

__all__ = ["chainer_dot", "chainer_graph"]

_COLORS = {"variable": "#E0E0E0", "function": "#9DB8F2"}


def chainer_graph(
    outputs: Any, *, names: Mapping[str, Any] | None = None, ax: Axes | None = None
) -> Axes:
    """Draw the graph behind some Variables, as built by ``chainer.computational_graph``.

    Variables are ovals with their shape and dtype. Functions are boxes with their label. The layers
    run from the inputs at the top to the outputs at the bottom.

    Args:
        outputs: A Variable, or several.
        names: Names of Variables, written before shape and dtype.
        ax: Where to draw. Default: new axes.

    Returns:
        The axes.

    Raises:
        ValueError: If an output has no graph.

    Example:
        >>> import numpy as np, chainer
        >>> from chainrob.plotting import chainer_graph, new_figure
        >>> x = chainer.Variable(np.array(1.5, np.float32))
        >>> with new_figure(3, 3) as figure:
        ...     ax = chainer_graph(chainer.functions.sin(x), names={"x": x}, ax=figure.subplots())
        >>> [text.get_text() for text in ax.texts if text.get_text()]
        ['x: float32', 'sin', 'float32']
    """
    graph = _graph(outputs)
    labels = {id(getattr(v, "node", v)): f"{name}: " for name, v in (names or {}).items()}
    nodes = {id(node): node for node in _in_order(outputs)}
    edges = sorted(
        {(id(tail), id(head)) for tail, head in graph.edges},
        key=lambda edge: (list(nodes).index(edge[0]), list(nodes).index(edge[1])),
    )
    paths: list[list[Any]] = [list(edge) for edge in edges]
    layers: list[list[Any]] = _layers(list(nodes), edges)
    depths = {node: depth for depth, layer in enumerate(layers) for node in layer}
    for path in paths:  # an edge that passes through a layer gets its own place there
        tail, head = path[0], path[-1]
        between: list[Any] = [
            (tail, head, depth) for depth in range(depths[tail] + 1, depths[head])
        ]
        path[1:1] = between
        for place in between:
            layers[place[2]].append(place)
    places = _places(layers, [pair for path in paths for pair in pairwise(path)])
    axes = axes_of(ax, 5.0, 0.55 * len(layers) + 0.5)
    axes.set_axis_off()
    boxes = {}
    for key, (x, y) in sorted(places.items(), key=lambda one: (-one[1][1], one[1][0])):
        if key not in nodes:
            continue
        node = nodes[key]
        is_function = hasattr(node, "inputs")
        box = {
            "boxstyle": "square" if is_function else "round4",
            "facecolor": _COLORS["function" if is_function else "variable"],
            "edgecolor": "black",
            "linewidth": 0.8,
        }
        text = labels.get(key, "") + str(node.label)
        boxes[key] = axes.text(x, y, text, ha="center", va="center", fontsize=8, bbox=box)
    for path in paths:
        axes.plot(*zip(*(places[one] for one in path[:-1]), strict=True), "-k", lw=0.8, zorder=0)
        arrow = {
            "arrowstyle": "-|>",
            "color": "black",
            "linewidth": 0.8,
            "patchA": boxes[path[-2]].get_bbox_patch() if path[-2] in boxes else None,
            "patchB": boxes[path[-1]].get_bbox_patch(),
            "shrinkA": 0,
            "shrinkB": 1,
        }
        axes.annotate("", places[path[-1]], places[path[-2]], arrowprops=arrow)
    across = [x for x, _ in places.values()]
    axes.set_xlim(min(across) - 0.9, max(across) + 0.9)
    axes.set_ylim(0.5 - len(layers), 0.5)
    return axes


def chainer_dot(outputs: Any) -> str:
    """The same graph as text for Graphviz, written by Chainer.

    Example:
        >>> import numpy as np, chainer
        >>> x = chainer.Variable(np.array(1.5, np.float32))
        >>> text = chainer_dot(chainer.functions.sin(x))
        >>> text.startswith("digraph"), text.count("->")
        (True, 2)
    """
    text: str = _graph(outputs).dump()
    return text


def _graph(outputs: Any) -> Any:
    # Imported here: the other plots work without Chainer.
    from chainer.computational_graph import build_computational_graph

    found = _as_list(outputs)
    if not found or any(one.creator_node is None for one in found):
        raise ValueError("outputs must be computed Variables, found one without a graph")
    return build_computational_graph(found)


def _in_order(outputs: Any) -> list[Any]:
    """All nodes, inputs first, in an order that depends only on the computation."""
    found: dict[int, Any] = {}
    pending = [one.node for one in _as_list(outputs)]
    while pending:
        node = pending.pop()
        if id(node) in found:
            del found[id(node)]  # it comes after all its inputs
        found[id(node)] = node
        creators = [node.creator_node] if hasattr(node, "creator_node") else list(node.inputs)
        pending.extend(one for one in reversed(creators) if one is not None)
    return list(found.values())[::-1]


def _as_list(outputs: Any) -> list[Any]:
    return [outputs] if hasattr(outputs, "creator_node") else list(outputs)


def _layers(nodes: list[Any], edges: Iterable[tuple[Any, Any]]) -> list[list[Any]]:
    """Nodes by their distance from the end. So an input is just above its first use."""
    below: dict[Any, list[Any]] = {node: [] for node in nodes}
    for tail, head in edges:
        below[tail].append(head)
    heights: dict[Any, int] = {}

    def height(node: Any) -> int:
        pending = [node]
        while pending:
            one = pending[-1]
            missing = [other for other in below[one] if other not in heights]
            if missing:
                pending.extend(missing)
            else:
                heights[one] = 1 + max((heights[other] for other in below[one]), default=-1)
                pending.pop()
        return heights[node]

    top = max(height(node) for node in nodes)
    return [[node for node in nodes if heights[node] == top - depth] for depth in range(top + 1)]


def _places(
    layers: list[list[Any]], edges: Iterable[tuple[Any, Any]]
) -> dict[Any, tuple[float, float]]:
    """Put each node near the mean of its neighbors in other layers, one unit from the next node."""
    near: dict[Any, list[Any]] = {node: [] for layer in layers for node in layer}
    for tail, head in edges:
        near[tail].append(head)
        near[head].append(tail)
    across = {n: i - (len(layer) - 1) / 2 for layer in layers for i, n in enumerate(layer)}
    for _ in range(20):
        for layer in layers:
            wanted = {n: float(np.mean([across[m] for m in near[n]] or [0])) for n in layer}
            order = sorted(layer, key=lambda n: (wanted[n], across[n]))
            middle = float(np.mean([wanted[n] for n in layer]))
            for i, n in enumerate(order):
                across[n] = middle + i - (len(order) - 1) / 2
    depths = {n: -depth for depth, layer in enumerate(layers) for n in layer}
    return {n: (across[n], float(depths[n])) for n in near}
