"""Labels at the ends of lines, in place of a legend."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes

__all__ = ["label_ends"]


def label_ends(ax: Axes, fontsize: float = 8.0) -> Axes:
    """Write each line's label at its right end, and move labels apart that would overlap.

    Call it last, when all lines are drawn and the limits are set. A short leader in the line's
    color goes from the line to its label, and the text is black, which every reader can see.

    Args:
        ax: Axes with labeled lines.
        fontsize: Size of the labels, in points.

    Returns:
        matplotlib.axes.Axes: The same axes.

    Example:
        >>> from chainrob.plotting import label_ends, new_figure
        >>> with new_figure(4, 3) as figure:
        ...     ax = figure.subplots()
        ...     _ = ax.plot([0, 1], [0, 1], label="a"), ax.plot([0, 1], [0, 1.01], label="b")
        ...     _ = label_ends(ax)
        >>> [text.get_text() for text in ax.texts]
        ['a', 'b']
    """
    limits = ax.get_xlim(), ax.get_ylim()  # reading them makes matplotlib choose them
    ax.set(xlim=limits[0], ylim=limits[1])
    lines = [
        line
        for line in ax.lines
        if not str(line.get_label()).startswith("_")
        and np.isfinite(line.get_ydata(orig=False)).any()
    ]
    to_axes = ax.transData - ax.transAxes
    ends = []
    for line in lines:
        points = np.stack([line.get_xdata(orig=False), line.get_ydata(orig=False)], axis=1)
        last = points[np.isfinite(points).all(axis=1)][-1]
        ends.append((to_axes.transform(last), last))
    figure = ax.get_figure(root=True)
    assert figure is not None
    height = 72 * figure.get_size_inches()[1] * ax.get_position().height
    heights = _apart(np.array([end[1] for end, _ in ends]), 1.5 * fontsize / height)
    for line, (_, last), y in zip(lines, ends, heights, strict=True):
        ax.annotate(
            str(line.get_label()), xy=last, xytext=(1.06, y), textcoords="axes fraction",
            fontsize=fontsize, va="center", annotation_clip=False,
            arrowprops={
                "arrowstyle": "-", "color": line.get_color(), "linewidth": 1.0,
                "shrinkA": 1.0, "shrinkB": 1.0,
            },
        )  # fmt: skip
    return ax


def _apart(places: np.ndarray, gap: float) -> np.ndarray:
    """Move places as little as needed to be at least ``gap`` apart, in the same order.

    The solution is least squares under this constraint: an isotonic regression, by pooling
    neighbors, of the places minus multiples of the gap.
    """
    order = np.argsort(places, kind="stable")
    groups: list[list[float]] = []  # sum and number of the shifted places in a group
    for rank, place in enumerate(places[order]):
        groups.append([place - rank * gap, 1.0])
        while len(groups) > 1 and groups[-2][0] / groups[-2][1] >= groups[-1][0] / groups[-1][1]:
            total, count = groups.pop()
            groups[-1][0] += total
            groups[-1][1] += count
    shifted = np.concatenate([np.full(int(n), total / n) for total, n in groups] or [places])
    moved = np.empty_like(shifted)
    moved[order] = shifted + gap * np.arange(len(shifted))
    return moved
