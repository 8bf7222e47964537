"""Alt texts of figures. They are read from the drawn data, so they say what the picture shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Annotation
from matplotlib.ticker import FixedLocator
from numpy.typing import ArrayLike, NDArray

__all__ = ["lines_alt", "map_alt", "points_alt", "rows_alt"]

Array = NDArray[np.float64]

_MOST_LINES, _MOST_PANELS = 6, 2
"""A figure with more lines in a panel, or more panels, is described by its extreme lines alone."""

_NOTABLE = 0.1
"""A lowest or highest point is named if it is this share of the line's range beyond both ends."""


def lines_alt(figure: Figure) -> str:
    """The axes of a figure with labeled lines, and where the lines lie.

    Args:
        figure: A figure with one or more panels of labeled lines.

    Returns:
        str: For each panel the axes, and where the lines end. In figures with many lines only the
        highest and the lowest line are named.

    Example:
        >>> from chainrob.experiments.report.alt_texts import lines_alt
        >>> from chainrob.plotting import new_figure
        >>> with new_figure(4, 3) as figure:
        ...     ax = figure.subplots()
        ...     _ = ax.plot([0, 9], [1.0, 0.5], label="a"), ax.plot([0, 9], [1.0, 0.2], label="b")
        ...     _ = ax.set(xlabel="updates", ylabel="error")
        >>> lines_alt(figure)
        'Lines. Horizontal axis: updates, from 0 to 9. Vertical axis: error. At the right end, \
from top to bottom: a 0.5 (left end 1); b 0.2 (left end 1).'
    """
    panels = [(ax, _curves(ax)) for ax in figure.axes]
    panels = [(ax, curves) for ax, curves in panels if curves]
    texts: list[str] = []
    first = ""
    for ax, curves in panels:
        scale = " (logarithmic)" if ax.get_yscale() == "log" else ""
        ends = [_place(ax, min(x[0] for _, x, _ in curves))]
        ends.append(_place(ax, max(x[-1] for _, x, _ in curves)))
        ylabel = ax.get_ylabel() or panels[0][0].get_ylabel()
        axes = (
            f"Horizontal axis: {ax.get_xlabel()}, from {ends[0]} to {ends[1]}. Vertical axis: "
            f"{ylabel}{scale}."
        )
        texts.append(f"{_title(ax)}Lines. {'The same axes.' if axes == first else axes}")
        first = first or axes
        curves = sorted(curves, key=lambda curve: -curve[2][-1])
        if len(curves) <= _MOST_LINES and len(panels) <= _MOST_PANELS:
            listed = "; ".join(_course(ax, *curve) for curve in curves)
            texts.append(f"At the right end, from top to bottom: {listed}.")
        else:
            (top, _, high), (bottom, _, low) = curves[0], curves[-1]
            texts.append(
                f"At the right end {top} is highest, {_number(high[-1])}, and {bottom} is lowest, "
                f"{_number(low[-1])}."
            )
    return " ".join(texts)


def rows_alt(figure: Figure) -> str:
    """The panels of ``chainrob.plotting.intervals``: in each series the lowest and highest row.

    Example:
        >>> from chainrob.experiments.report.alt_texts import rows_alt
        >>> from chainrob.plotting import intervals, new_figure
        >>> with new_figure(4, 3) as figure:
        ...     ax = intervals([1.0, 3.0], [[0.5, 2.0], [2.0, 4.0]], ["a", "b"], label="error",
        ...                    ax=figure.subplots())
        ...     _ = ax.set_xlabel("percent")
        >>> rows_alt(figure)
        '2 rows with points and intervals. Horizontal axis: percent. error: lowest a, 1; highest \
b, 3.'
    """
    names: list[str] = []
    texts = []
    for ax in figure.axes:
        names = [label.get_text() for label in ax.get_yticklabels()] or names
        texts.append(
            f"{_title(ax)}{len(names)} rows with points and intervals. Horizontal axis: "
            f"{ax.get_xlabel()}."
        )
        for bars in ax.containers:
            if isinstance(bars, ErrorbarContainer):
                values = np.asarray(bars.lines[0].get_xdata(), np.float64)
                label = str(bars.get_label())
                series = "" if label.startswith("_") else f"{label}: "
                low, high = int(values.argmin()), int(values.argmax())
                said = (
                    f"{series}lowest {names[low]}, {_number(values[low])}; highest {names[high]}, "
                    f"{_number(values[high])}."
                )
                texts.append(said if series else said.capitalize())
    return " ".join(texts)


def map_alt(values: ArrayLike, rows: Sequence[str], columns: Sequence[str], what: str) -> str:
    """A shaded table: its size, and its lowest and highest numbers.

    Args:
        values: Shape (rows, columns).
        rows, columns: Their names.
        what: What the numbers are.

    Example:
        >>> from chainrob.experiments.report.alt_texts import map_alt
        >>> map_alt([[1.0, 7.0]], ["mean"], ["clean", "push"], "errors")
        'Shaded table of errors, with 1 rows and 2 columns. Lowest: 1 (mean, clean). Highest: 7 \
(mean, push).'
    """
    table = np.asarray(values, np.float64)
    ends = []
    for word, at in (("Lowest", np.nanargmin(table)), ("Highest", np.nanargmax(table))):
        i, j = map(int, np.unravel_index(at, table.shape))
        ends.append(f"{word}: {_number(table[i, j])} ({rows[i]}, {columns[j]}).")
    size = f"{len(rows)} rows and {len(columns)} columns"
    return f"Shaded table of {what}, with {size}. {' '.join(ends)}"


def points_alt(figure: Figure) -> str:
    """Points that are annotated with their names: the axes, and the extreme points.

    Example:
        >>> from chainrob.experiments.report.alt_texts import points_alt
        >>> from chainrob.plotting import new_figure
        >>> with new_figure(4, 3) as figure:
        ...     ax = figure.subplots()
        ...     _ = ax.annotate("a", (1.0, 5.0)), ax.annotate("b", (2.0, 3.0))
        ...     _ = ax.set(xlabel="time", ylabel="error")
        >>> points_alt(figure)
        '2 named points. Horizontal axis: time. Vertical axis: error. Lowest: b at (2, 3). Highest:\
 a at (1, 5). Leftmost: a. Rightmost: b.'
    """
    (ax,) = figure.axes
    named = [(text.get_text(), text.xy) for text in ax.texts if isinstance(text, Annotation)]

    def said(index: Any) -> str:
        name, (x, y) = named[index]
        return f"{name} at ({_number(x)}, {_number(y)})"

    across, up = (np.array([xy[k] for _, xy in named]) for k in (0, 1))
    return (
        f"{len(named)} named points. Horizontal axis: {ax.get_xlabel()}. Vertical axis: "
        f"{ax.get_ylabel()}. Lowest: {said(up.argmin())}. Highest: {said(up.argmax())}. Leftmost: "
        f"{named[across.argmin()][0]}. Rightmost: {named[across.argmax()][0]}."
    )


def _title(ax: Axes) -> str:
    return f"{ax.get_title()}: " if ax.get_title() else ""


def _curves(ax: Axes) -> list[tuple[str, Array, Array]]:
    """Label, x and y of all labeled lines, without points that are not finite."""
    found = []
    for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
        line: Any = handle.lines[0] if isinstance(handle, ErrorbarContainer) else handle
        if isinstance(line, Line2D):
            x, y = np.asarray(line.get_xydata(), np.float64).T
            finite = np.isfinite(x) & np.isfinite(y)
            if finite.any():
                found.append((label, x[finite], y[finite]))
    return found


def _course(ax: Axes, label: str, x: Array, y: Array) -> str:
    """The ends of a line, and its lowest or highest point if this is far beyond both ends."""
    notes = [f"left end {_number(y[0])}"]
    for word, at in (("lowest", int(y.argmin())), ("highest", int(y.argmax()))):
        if min(abs(y[at] - y[0]), abs(y[at] - y[-1])) > _NOTABLE * np.ptp(y):
            notes.append(f"{word} {_number(y[at])} at {_place(ax, x[at])}")
    return f"{label} {_number(y[-1])} ({', '.join(notes)})"


def _place(ax: Axes, x: float) -> str:
    """A place on the horizontal axis, by the text of its tick if the ticks have texts."""
    if not isinstance(ax.xaxis.get_major_locator(), FixedLocator):
        return _number(x)
    nearest = int(np.abs(np.asarray(ax.get_xticks()) - x).argmin())
    text = ax.get_xticklabels()[nearest].get_text()
    return text.translate(str.maketrans("", "", "${}"))


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
