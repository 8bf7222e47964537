"""Learning curves: means over trials, with bands."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike

from chainrob.plotting.style import axes_of, line_style
from chainrob.statistics import bootstrap_interval

__all__ = ["learning_curves"]


def learning_curves(
    x: ArrayLike,
    trials: Mapping[str, ArrayLike],
    *,
    size: int | None = None,
    styles: Mapping[str, Mapping[str, Any]] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw means over trials, each with the 95% bootstrap band of the mean.

    Args:
        x: Shape (times,).
        trials: Mapping from labels to arrays (trials, times).
        size: Draw also a fainter band that holds 95% of the means of ``size`` trials.
        styles: Color, dashes, ... by label; None chooses them.
        ax: Where to draw.

    Returns:
        matplotlib.axes.Axes: The axes, with one line per label.

    Raises:
        ValueError: If an array does not have the shape (trials, times).

    Example:
        >>> import numpy as np
        >>> from chainrob.plotting import learning_curves, new_figure
        >>> with new_figure(4, 3) as figure:
        ...     ax = learning_curves(np.arange(9), {"a": np.ones((5, 9))}, ax=figure.subplots())
        >>> [line.get_label() for line in ax.lines]
        ['a']
    """
    times = np.asarray(x)
    arrays = {label: np.asarray(values, np.float64) for label, values in trials.items()}
    for label, values in arrays.items():
        if values.ndim != 2 or values.shape[1] != len(times):
            raise ValueError(
                f"trials[{label!r}] must have shape (trials, {len(times)}), found {values.shape}"
            )
    axes = axes_of(ax)
    for index, (label, values) in enumerate(arrays.items()):
        style = dict((styles or {}).get(label, line_style(index)))
        axes.plot(times, values.mean(axis=0), label=label, linewidth=1.6, **style)
        sizes = [(None, 0.25)] if size is None else [(size, 0.10), (None, 0.30)]
        for trials_of_a_mean, alpha in sizes if len(values) > 1 else []:
            low, high = bootstrap_interval(values, size=trials_of_a_mean)
            axes.fill_between(times, low, high, color=style.get("color"), alpha=alpha, linewidth=0)
    return axes
