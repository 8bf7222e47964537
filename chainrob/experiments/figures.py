"""What all figures share: colours that colour-blind readers and grey printers tell apart, bands."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from chainrob.experiments.intervals import bootstrap_interval

__all__ = ["CLASS_STYLES", "METHOD_STYLES", "draw_band", "new_figure"]

# Okabe and Ito's palette; every colour comes with a marker or a dash pattern of its own.
METHOD_STYLES: dict[str, dict[str, Any]] = {
    "deep": {"color": "#D55E00", "linestyle": "--"},
    "deep-rob": {"color": "#0072B2", "linestyle": "-"},
}
CLASS_STYLES: tuple[dict[str, Any], ...] = (
    {"color": "#0072B2", "marker": "o"},
    {"color": "#E69F00", "marker": "s"},
    {"color": "#009E73", "marker": "^"},
)


@contextmanager
def new_figure(width: float, height: float) -> Iterator[Figure]:
    """A figure of so many inches, in the library's style, free of pyplot's global state."""
    style: dict[Any, Any] = {
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.alpha": 0.25,
        "legend.frameon": False,
        "pdf.fonttype": 42,  # text stays text
    }
    with rc_context(style):
        yield Figure(figsize=(width, height), layout="constrained")


def draw_band(
    ax: Axes, x: ArrayLike, trials: ArrayLike, label: str, *, size: int | None = None, **style: Any
) -> None:
    """Draw a mean over trials and the 95% bootstrap band of it.

    Args:
        ax (matplotlib.axes.Axes): Where to draw.
        x (array): Shape (times,).
        trials (array): Shape (trials, times).
        label (str): For the legend.
        size (int or None): Draw besides, more faintly, the band of means of so many trials.
        style: Of the line; ``color`` is that of the bands too.
    """
    values = np.asarray(trials, dtype=np.float64)
    ax.plot(x, values.mean(axis=0), label=label, linewidth=1.6, **style)
    sizes = [(None, 0.25)] if size is None else [(size, 0.10), (None, 0.30)]
    for trials_of_a_mean, alpha in sizes if len(values) > 1 else []:
        low, high = bootstrap_interval(values, size=trials_of_a_mean)
        ax.fill_between(x, low, high, color=style.get("color"), alpha=alpha, linewidth=0)
