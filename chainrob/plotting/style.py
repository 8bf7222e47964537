"""Distinct colors, dashes and markers; and figures without pyplot."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

__all__ = ["PALETTE", "axes_of", "line_style", "marker_style", "new_figure"]

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Okabe and Ito's colors, without yellow, which is too faint for lines."""

_DASHES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)))
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")


def line_style(index: int) -> dict[str, Any]:
    """Color and dashes of the index-th line; the first 42 pairs differ.

    Example:
        >>> from chainrob.plotting import line_style
        >>> line_style(1)
        {'color': '#D55E00', 'linestyle': '--'}
    """
    # 7 colors and 6 dash patterns have no common factor, so pairs repeat only after 42.
    return {"color": PALETTE[index % 7], "linestyle": _DASHES[index % 6]}


def marker_style(index: int) -> dict[str, Any]:
    """Color and marker of the index-th set of points; the first 56 pairs differ.

    Example:
        >>> from chainrob.plotting import marker_style
        >>> marker_style(2)
        {'color': '#009E73', 'marker': '^'}
    """
    return {"color": PALETTE[index % 7], "marker": _MARKERS[index % 8]}


@contextmanager
def new_figure(width: float, height: float) -> Iterator[Figure]:
    """A figure of the given inches in the library's style, without pyplot's global state.

    Example:
        >>> from chainrob.plotting import learning_curves, new_figure
        >>> with new_figure(4, 3) as figure:
        ...     _ = learning_curves([0, 1], {"a": [[1.0, 0.5]]}, ax=figure.subplots())
    """
    style: dict[Any, Any] = {
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.alpha": 0.25,
        "legend.frameon": False,
        "legend.handlelength": 3.0,  # long enough to tell the dashes apart
        "pdf.fonttype": 42,  # text stays text
    }
    with rc_context(style):
        yield Figure(figsize=(width, height), layout="constrained")


def axes_of(ax: Axes | None, width: float = 5.6, height: float = 3.6) -> Axes:
    """These axes, or those of a new pyplot figure, which a notebook shows."""
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt  # chooses a backend, so import it only if needed

    _, new = plt.subplots(figsize=(width, height), layout="constrained")
    new.spines[["top", "right"]].set_visible(False)
    new.grid(alpha=0.25)
    return new
