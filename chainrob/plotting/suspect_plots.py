"""Samples, sorted by their weights."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike

from chainrob.plotting.style import PALETTE, axes_of, marker_style

__all__ = ["most_suspect", "suspects"]


def suspects(
    weights: ArrayLike,
    *,
    ranking: ArrayLike | None = None,
    truth: ArrayLike | None = None,
    layers: Mapping[str, ArrayLike] | None = None,
    measure: str = "mean effective weight",
    ax: Axes | None = None,
) -> Axes:
    """Draw the mean effective weights of all samples, the smallest first.

    Args:
        weights: One per sample, (n,), such as ``WeightAverages.weights()`` or its
            ``relative()``. 1 is the weight in a plain mean.
        ranking: Numbers of the samples, the most suspect first; None ranks
            by weight and leaves out NaN, the weight of a sample that was never seen.
        truth: Numbers of samples that are known to be bad. They are marked.
        layers: The weights in single layers, drawn as points.
        measure: What ``weights`` holds, for the axis: with ``rank_by='suspicion'`` it is one
            minus the mean suspicion.
        ax: Where to draw.

    Returns:
        matplotlib.axes.Axes: The axes: weight against rank, with a logarithmic rank axis.

    Raises:
        ValueError: If ``weights`` does not have one axis, or a number in ``truth`` is not a
            sample's.

    Example:
        >>> from chainrob.plotting import new_figure, suspects
        >>> with new_figure(4, 3) as figure:
        ...     ax = suspects([1.0, 0.1, 0.9], truth=[1], ax=figure.subplots())
        >>> ax.get_legend_handles_labels()[1]
        ['mean over layers', 'known to be bad (1)']
    """
    values, order = _ranked(weights, ranking)
    ranks = np.arange(1, len(order) + 1)
    bad = np.asarray([] if truth is None else truth, int)
    if bad.size and (bad.min() < 0 or bad.max() >= len(values)):
        raise ValueError(f"truth must hold numbers of samples below {len(values)}, found {bad}")
    axes = axes_of(ax)
    for index, (name, column) in enumerate((layers or {}).items()):
        style = {"linestyle": "", "markersize": 2.5, "alpha": 0.5, **marker_style(index)}
        axes.plot(ranks, np.asarray(column)[order], label=name, **style)
    axes.plot(ranks, values[order], color="black", linewidth=1.6, label="mean over layers")
    if truth is not None:
        at = np.flatnonzero(np.isin(order, bad))
        label = f"known to be bad ({len(bad)})"
        style = {"linestyle": "", "marker": "x", "color": PALETTE[1], "markersize": 6}
        axes.plot(ranks[at], values[order][at], label=label, **style)
    axes.axhline(1.0, color="gray", linewidth=0.8, linestyle=":")
    axes.set(xlabel="rank", ylabel=measure, xscale="log")
    axes.set_ylim(bottom=min(0.0, float(np.nanmin(values))))
    return axes


def most_suspect(
    weights: ArrayLike,
    *,
    ranking: ArrayLike | None = None,
    top: int = 15,
    measure: str = "mean effective weight",
    ax: Axes | None = None,
) -> Axes:
    """Draw the smallest weights as bars, with the numbers of the samples.

    Args:
        weights: One per sample, (n,).
        ranking: Numbers of the samples, the most suspect first; None ranks
            by weight and leaves out NaN, the weight of a sample that was never seen.
        top: Number of samples to show.
        measure: What ``weights`` holds, for the axis.
        ax: Where to draw.

    Returns:
        matplotlib.axes.Axes: The axes, with one bar per sample.

    Raises:
        ValueError: If ``weights`` does not have one axis.

    Example:
        >>> from chainrob.plotting import most_suspect, new_figure
        >>> with new_figure(4, 3) as figure:
        ...     ax = most_suspect([1.0, 0.1, 0.9], top=2, ax=figure.subplots())
        >>> [label.get_text() for label in ax.get_yticklabels()]
        ['1', '2']
    """
    values, order = _ranked(weights, ranking)
    worst = order[:top]
    axes = axes_of(ax)
    axes.barh(np.arange(len(worst)), values[worst], color=PALETTE[1])
    axes.set_yticks(np.arange(len(worst)), [str(index) for index in worst])
    axes.invert_yaxis()
    axes.set(xlabel=measure, ylabel="number of the sample")
    return axes


def _ranked(weights: ArrayLike, ranking: ArrayLike | None) -> tuple[np.ndarray, np.ndarray]:
    values = np.asarray(weights, np.float64)
    if values.ndim != 1 or not len(values):
        raise ValueError(f"weights must have shape (n,), found {values.shape}")
    if ranking is not None:
        return values, np.asarray(ranking, int)
    order = np.argsort(values, kind="stable")  # NaN last
    return values, order[: int(np.isfinite(values).sum())]
