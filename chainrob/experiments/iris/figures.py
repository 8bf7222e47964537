"""Figures 3 and 4 of the tutorial, drawn from our runs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle
from matplotlib.ticker import EngFormatter

from chainrob.datasets import load_iris
from chainrob.experiments.iris.protocol import IrisSettings
from chainrob.experiments.iris.published import published_figure4
from chainrob.experiments.iris.trial_errors import IrisResults
from chainrob.experiments.iris.trials import trial_data
from chainrob.plotting import PALETTE, contamination, learning_curves, new_figure, points

__all__ = ["METHOD_STYLES", "figure3", "figure4"]

METHOD_STYLES: dict[str, dict[str, Any]] = {
    "deep": {"color": PALETTE[1], "linestyle": "--"},
    "deep-rob": {"color": PALETTE[0], "linestyle": "-"},
}

# Thin and dark, with markers: they differ from each other and from our curves in gray too.
_PUBLISHED_STYLES: dict[str, dict[str, Any]] = {
    "deep": {"color": "#7A3600", "marker": "s"},
    "deep-rob": {"color": "#003A5C", "marker": "o"},
}

_PUBLISHED_TRIALS = 20


def figure3(settings: IrisSettings, trial: int = 0, push: float = 10.0) -> Figure:
    """Draw one trial's data as in the tutorial: projected, scaled, and with some points pushed.

    The ball is that of ``push_inputs``. Its center is the mean of the training points. Its radius
    is k standard deviations of their distances from the center. Every pushed point ends on its
    border.

    Args:
        settings: Settings of the run.
        trial: Number of the trial.
        push: k, how far the points are pushed here, in standard deviations. With the experiment's
            10^4 nothing else would be visible.

    Returns:
        matplotlib.figure.Figure: Three panels.

    Example:
        >>> from chainrob.experiments.iris import figure3, iris_settings
        >>> [ax.get_title() for ax in figure3(iris_settings()).axes]
        ['After projection', 'Training points, scaled', '2 pushed (k = 10)']
    """
    data = trial_data(replace(settings, push=push), trial)
    iris = load_iris()
    center = data.x_clean.mean(axis=0)
    radius = push * np.linalg.norm(data.x_clean - center, axis=1).std()
    titles = ("After projection", "Training points, scaled", f"{len(data.pushed)} pushed")
    with new_figure(9.6, 3.4) as figure:
        axes = figure.subplots(1, 3)
        points(data.projected, iris.t, names=iris.class_names, ax=axes[0])
        points(data.x_clean, data.t_train, ring=data.pushed, ax=axes[1])
        contamination(data.x_clean, data.x_train, data.t_train, ax=axes[2])
        axes[1].plot(*center, "k+", markersize=9)
        for ax in axes[1:]:
            border = {"fill": False, "linestyle": "--", "linewidth": 1.0, "color": "grey"}
            ax.add_patch(Circle((center[0], center[1]), radius, **border))
        for ax, title in zip(axes, titles, strict=True):
            ax.set_title(title + (f" (k = {push:g})" if ax is axes[2] else ""))
            ax.set_xlabel("first component")
            ax.set_aspect("equal", adjustable="datalim" if ax is axes[0] else "box")
        reach = 1.15 * max(radius, np.abs(data.x_clean - center).max())
        for ax in axes[1:]:  # the same scale, because the ball is the same
            ax.set_xlim(center[0] - reach, center[0] + reach)
            ax.set_ylim(center[1] - reach, center[1] + reach)
        axes[0].set_ylabel("second component")
        handles: list[Any] = axes[0].get_legend_handles_labels()[0]
        for marker, label in (("o", "to be pushed"), ("+", "mean")):
            style: dict[str, Any] = {"linestyle": "", "marker": marker, "color": "black"}
            handles.append(
                Line2D([], [], markersize=8, label=label, markerfacecolor="none", **style)
            )
        ball = f"ball of radius {push:g} sigma"
        handles.append(Line2D([], [], linestyle="--", color="grey", label=ball))
        figure.legend(handles=handles, loc="outside lower center", ncols=6)
    return figure


def figure4(results: IrisResults) -> Figure:
    """Draw training and test error against the cost in gradients, with the published curves.

    The line is the mean over trials, and the band is its 95% bootstrap interval. With more than 20
    trials a second, fainter band shows where 95% of the means of 20 trials lie. The published curve
    is one such mean and should mostly lie inside this band. Published curves are drawn only if the
    settings are the published ones.

    Args:
        results: Results of the run.

    Returns:
        matplotlib.figure.Figure: Two panels.
    """
    published = published_figure4()
    settings = results.settings
    size = _PUBLISHED_TRIALS if settings.trials > _PUBLISHED_TRIALS else None
    limit = max(1, int(results.costs[-1]))
    with new_figure(9.6, 3.8) as figure:
        axes = figure.subplots(1, 2, sharey=True)
        for part, (ax, name) in enumerate(zip(axes, ("train", "test"), strict=True)):
            for method in results.errors if settings.is_published(whole=False) else ():
                curve = published[method, name]
                shown = curve.cost_in_gradients <= limit
                ax.plot(
                    np.maximum(curve.cost_in_gradients[shown], 0),
                    curve.error[shown],
                    linewidth=0.7,
                    markersize=3,
                    markerfacecolor="white",
                    markevery=max(1, int(shown.sum()) // 14),
                    label=f"{method}, published",
                    **_PUBLISHED_STYLES[method],
                )
            trials = {method: errors[:, :, part] for method, errors in results.errors.items()}
            learning_curves(results.costs, trials, size=size, styles=METHOD_STYLES, ax=ax)
            ax.set_title({"train": "Training error", "test": "Test error"}[name])
            ax.set_xlabel("cost in gradients")
            ax.set_xlim(0, limit)
            ax.xaxis.set_major_formatter(EngFormatter(sep=""))  # 20k
        axes[0].set_ylim(0, None)  # set last, because it fixes the limits of both panels
        axes[0].set_ylabel("misclassification rate")
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4)
        over = "1 trial" if settings.trials == 1 else f"mean of {settings.trials} trials"
        bands = "" if settings.trials == 1 else ", band: 95% interval of the mean"
        wider = "" if size is None else f", faint band: 95% of {size}-trial means"
        figure.suptitle(
            f"Iris, setting {settings.setting}, {settings.contamination:.0%} pushed by "
            f"k = {settings.push:g}: {over}{bands}{wider}",
            fontsize=9,
        )
    return figure
