"""Means with intervals, one row below another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike

from chainrob.plotting.style import axes_of

__all__ = ["intervals"]


def intervals(
    means: ArrayLike,
    bounds: ArrayLike,
    names: Sequence[str],
    *,
    offset: float = 0.0,
    label: str | None = None,
    ax: Axes | None = None,
    **style: Any,
) -> Axes:
    """Draw means as points with their intervals as bars, one row per name, the first on top.

    Args:
        means: Shape (n,).
        bounds: Lower and upper ends, (2, n).
        names: Names of the rows.
        offset: Shift of the rows downwards, to draw a second series in the same axes.
        label: Label in the legend.
        ax: Where to draw.
        style: Style of the points, such as ``**marker_style(1)``.

    Returns:
        matplotlib.axes.Axes: The picture.

    Raises:
        ValueError: If the shapes differ from these.

    Example:
        >>> from chainrob.plotting import intervals, new_figure
        >>> with new_figure(4, 3) as figure:
        ...     ax = intervals([1.0], [[0.5], [2.0]], ["a"], ax=figure.subplots())
        >>> ax.get_yticklabels()[0].get_text()
        'a'
    """
    center, ends = np.asarray(means, np.float64), np.asarray(bounds, np.float64)
    n = len(names)
    if center.shape != (n,) or ends.shape != (2, n):
        raise ValueError(
            f"means must be ({n},) and bounds (2, {n}), found {center.shape} and {ends.shape}"
        )
    axes = axes_of(ax, 5.6, 1.0 + 0.25 * n)
    at = np.arange(n) + offset
    chosen = {"color": "black", "marker": "o", **style}
    reach = np.abs(ends - center)
    axes.errorbar(
        center, at, xerr=reach, linestyle="", markersize=4, linewidth=1, label=label, **chosen
    )
    axes.set_yticks(np.arange(n), names)
    axes.set_ylim(n - 0.4, -0.6)
    return axes
