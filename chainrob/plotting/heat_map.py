"""A shaded table of numbers with intervals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike, NDArray

from chainrob.plotting.style import axes_of

__all__ = ["heat_map"]


def heat_map(
    values: ArrayLike,
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    intervals: ArrayLike | None = None,
    darkest: float | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw a matrix as a shaded table. Darker is larger, and every cell shows its number.

    Args:
        values: Shape (rows, columns); NaN cells are left white.
        rows, columns: Their names.
        intervals: Shape (2, rows, columns), written below the numbers.
        darkest: The value from which on the shade is darkest; None takes the largest value.
        ax: Where to draw.

    Returns:
        matplotlib.axes.Axes: The table.

    Raises:
        ValueError: If the numbers of names and values differ.

    Example:
        >>> from chainrob.plotting import heat_map, new_figure
        >>> with new_figure(4, 3) as figure:
        ...     ax = heat_map([[0.1, 0.5]], ["mean"], ["clean", "push"], ax=figure.subplots())
        >>> [text.get_text() for text in ax.texts]
        ['0.10', '0.50']
    """
    table = np.asarray(values, np.float64)
    if table.shape != (len(rows), len(columns)):
        raise ValueError(
            f"values must have shape ({len(rows)}, {len(columns)}), found {table.shape}"
        )
    axes = axes_of(ax, 2.5 + 0.9 * len(columns), 1.2 + 0.42 * len(rows))
    # One hue with evenly falling lightness: readable in gray and by color-blind readers.
    least = min(0.0, float(np.nanmin(table)))
    most = float(np.nanmax(table)) if darkest is None else darkest
    image = axes.imshow(table, cmap="Blues", aspect="auto", vmin=least, vmax=most)
    shades = np.asarray(image.cmap(image.norm(table)))
    axes.grid(False)
    axes.set_xticks(range(len(columns)), columns, rotation=30, ha="right")
    axes.set_yticks(range(len(rows)), rows)
    for (i, j), value in np.ndenumerate(table):
        if np.isnan(value):
            continue
        text = f"{value:.2f}"
        if intervals is not None:
            low, high = np.asarray(intervals)[:, i, j]
            text += f"\n{low:.2f}–{high:.2f}"
        size = "x-small" if intervals is not None else "small"
        ink = _ink(shades[i, j])
        axes.text(j, i, text, ha="center", va="center", fontsize=size, color=ink)
    return axes


def _ink(background: NDArray[np.float64]) -> str:
    """Black or white, whichever has more contrast (WCAG's relative luminance)."""
    rgb = background[:3]
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    luminance = linear @ [0.2126, 0.7152, 0.0722]
    return "white" if 1.05 / (luminance + 0.05) > (luminance + 0.05) / 0.05 else "black"
