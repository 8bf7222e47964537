"""Points in the plane before and after a contamination."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike

from chainrob.plotting.style import axes_of, marker_style

__all__ = ["contamination", "points"]

# The order of colors in the Iris figures: blue, orange and green differ most.
_ORDER = (0, 4, 2, 3, 1, 5, 6)


def points(
    x: ArrayLike,
    t: ArrayLike,
    *,
    names: Sequence[str] | None = None,
    ring: ArrayLike | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw points of several classes, each with its color and marker.

    Args:
        x: Shape (n, 2).
        t: Classes 0, 1, ..., shape (n,).
        names: Names of the classes, for the legend.
        ring: Numbers of the points to put a ring around.
        ax: Where to draw.

    Returns:
        matplotlib.axes.Axes: The axes, with one collection per class, then the rings.

    Raises:
        ValueError: If the shapes differ from these.

    Example:
        >>> from chainrob.plotting import new_figure, points
        >>> with new_figure(3, 3) as figure:
        ...     ax = points([[0, 0], [1, 1]], [0, 1], names=["a", "b"], ax=figure.subplots())
        >>> len(ax.collections)
        2
    """
    xs, ts = np.asarray(x, np.float64), np.asarray(t)
    if xs.ndim != 2 or xs.shape[1] != 2 or ts.shape != xs.shape[:1]:
        raise ValueError(f"x must be (n, 2) and t (n,), found {xs.shape} and {ts.shape}")
    axes = axes_of(ax, 4.2, 3.8)
    for index, label in enumerate(np.unique(ts)):
        style = marker_style(index)
        style["color"] = marker_style(_ORDER[index % len(_ORDER)])["color"]
        name = str(label) if names is None else names[int(label)]
        here = xs[ts == label]
        axes.scatter(here[:, 0], here[:, 1], s=16, alpha=0.75, linewidths=0, label=name, **style)
    if ring is not None:
        rings = xs[np.asarray(ring, int)]
        axes.scatter(
            rings[:, 0], rings[:, 1], s=70, facecolors="none", edgecolors="black", linewidths=1.0
        )
    return axes


def contamination(
    before: ArrayLike,
    after: ArrayLike,
    t: ArrayLike,
    *,
    names: Sequence[str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw contaminated points, an arrow from the old place of each moved point, and the center.

    Args:
        before: The points before the contamination, (n, 2).
        after: The points after it, (n, 2). Equal points were not moved.
        t: Classes, (n,).
        names: Names of the classes.
        ax: Where to draw.

    Returns:
        matplotlib.axes.Axes: The picture.

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> from chainrob.plotting import contamination, new_figure
        >>> with new_figure(3, 3) as figure:
        ...     ax = contamination([[0, 0], [1, 1]], [[0, 0], [9, 9]], [0, 1], ax=figure.subplots())
        >>> len(ax.texts)  # one arrow
        1
    """
    start, end = np.asarray(before, np.float64), np.asarray(after, np.float64)
    if start.shape != end.shape:
        raise ValueError(
            f"before and after must have one shape, found {start.shape} and {end.shape}"
        )
    axes = points(end, t, names=names, ax=ax)
    axes.plot(*start.mean(axis=0), "k+", markersize=9)
    arrow = {"arrowstyle": "->", "linestyle": ":", "shrinkB": 5}
    for i in np.flatnonzero((start != end).any(axis=1)):
        axes.annotate("", end[i], start[i], arrowprops=arrow)
    return axes
