"""Final errors against a varied setting: one form of figure for all sweeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from chainrob.experiments.reproduce.measures import STYLE_OF, Array, span
from chainrob.plotting import line_style, marker_style, new_figure

__all__ = ["sweep_figure"]


def sweep_figure(
    errors: Mapping[str, Sequence[Array]], values: Sequence[str], label: str
) -> Figure:
    """Draw mean final test errors with 95% intervals.

    The values are drawn at equal distances, because their own spacing is neither even nor
    geometric. The methods are shifted a little, so that no interval hides another.

    Args:
        errors: From the method (a key of ``STYLE_OF``) to its errors (trials,), one array per
            value.
        values: Texts for the varied values.
        label: Label of the varied setting.

    Returns:
        matplotlib.figure.Figure: The figure, with one line per method.
    """
    at = np.arange(len(values))
    beside = 0.09 * (np.arange(len(errors)) - (len(errors) - 1) / 2)
    with new_figure(6.8, 3.8) as figure:
        ax = figure.subplots()
        for place, (method, samples) in zip(beside, errors.items(), strict=True):
            style = STYLE_OF[method]
            means, ends = span(samples)
            marks: dict[str, Any] = {**line_style(style), **marker_style(style)}
            ax.errorbar(
                at + place, means, yerr=np.abs(ends - means), label=method, linewidth=1.0,
                elinewidth=1.2, capsize=2, markersize=4.5, **marks,
            )  # fmt: skip
        ax.set(xlabel=label, ylabel="test error after the last update", ylim=(0, None))
        ax.set_xticks(at, values)
        figure.legend(loc="outside lower center", ncols=2)
    return figure
