"""The figures of a comparison."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from numpy.typing import NDArray

from chainrob.experiments.compare.choices import Case, CompareResults
from chainrob.experiments.compare.corruption import parse_contamination
from chainrob.experiments.compare.methods import method_of
from chainrob.plotting import heat_map, label_ends, line_style, marker_style, new_figure

__all__ = ["case_map", "cost_figure", "data_heat_map", "errors_of", "excess_map", "share_curves"]

_SHADES = {"pay": "#9CC9E6", "as well": "#EDEDED", "harm": "#F4B08A"}
_SIGNS = {"pay": "▲", "as well": "=", "harm": "▼"}
_MEANING = {
    "pay": "▲ robust gradients pay",
    "as well": "= a baseline does as well",
    "harm": "▼ robust gradients harm",
}
_MARKS = {"plain": 6, "one line": 1, "robust gradients": 0, "both": 2, "linear fit": 3}


def case_map(cases: Sequence[Case], data: Sequence[str], contaminations: Sequence[str]) -> Figure:
    """A map of the cases in which robust gradients pay, do as well as a baseline, or harm.

    Each cell has the test error of the best method with robust gradients minus that of the best
    baseline, in percentage points. Both are chosen on contaminated validation points.
    """
    found = {(case.data, case.contamination): case for case in cases}
    width = max(6.4, 1.9 + 0.62 * len(contaminations))
    with new_figure(width, 1.5 + 0.42 * len(data)) as figure:
        ax = figure.subplots()
        ax.grid(False)
        for i, name in enumerate(data):
            for j, text in enumerate(contaminations):
                case = found.get((name, text))
                if case is None:
                    continue
                corner = (j - 0.5, i - 0.5)
                shade = _SHADES[case.outcome]
                ax.add_patch(Rectangle(corner, 1, 1, facecolor=shade, edgecolor="white"))
                difference = 100 * float((case.robust - case.baseline).mean())
                label = f"{_SIGNS[case.outcome]} {difference:+.1f}"
                ax.text(j, i, label, ha="center", va="center", fontsize="x-small")
        ax.set(xlim=(-0.5, len(contaminations) - 0.5), ylim=(len(data) - 0.5, -0.5))
        ax.set_xticks(range(len(contaminations)), contaminations, rotation=40, ha="right")
        ax.set_yticks(range(len(data)), data)
        handles = [Patch(color=_SHADES[key], label=_MEANING[key]) for key in _SHADES]
        figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize="small")
    return figure


def excess_map(results: CompareResults, data: Sequence[str]) -> Figure:
    """Map of methods by contaminations: the excess test error over the plain mean on clean data,
    averaged over data sets.
    """
    names = results.settings.methods_of(data[0])
    texts = results.settings.contaminations_of(data[0])
    values = np.mean([results.excess(one).mean(axis=1) for one in data], axis=0)
    with new_figure(3.4 + 0.62 * len(texts), 1.4 + 0.3 * len(names)) as figure:
        ax = heat_map(100 * values, names, texts, darkest=50, ax=figure.subplots())
        ax.set_title(
            "excess error over the plain mean on clean data, percentage points", fontsize="medium"
        )
    return figure


def share_curves(results: CompareResults, data: Sequence[str], methods: Sequence[str]) -> Figure:
    """Excess test error of some methods against the contaminated share, one panel per kind."""
    texts = results.settings.contaminations_of(data[0])
    names = results.settings.methods_of(data[0])
    excess = 100 * np.mean([results.excess(one).mean(axis=1) for one in data], axis=0)
    kinds = list(dict.fromkeys(parse_contamination(text)[0] for text in texts if text != "none"))
    with new_figure(1.8 + 2.0 * max(len(kinds), 2), 3.2) as figure:
        axes = np.atleast_1d(figure.subplots(1, max(len(kinds), 1), sharey=True))
        for ax, kind in zip(axes, kinds, strict=False):
            points = [
                (0.0 if text == "none" else parse_contamination(text)[1], c)
                for c, text in enumerate(texts)
                if text == "none" or text.startswith(f"{kind}:")
            ]
            points.sort()
            at = [100 * share for share, _ in points]
            for number, name in enumerate(methods):
                row = excess[names.index(name)]
                style = {**line_style(number), **marker_style(number)}
                ax.plot(at, [row[c] for _, c in points], label=name, markersize=4, **style)
            ax.set(title=kind, xlabel="bad points, %")
        axes[0].set_ylabel("excess error, percentage points")
        label_ends(axes[len(kinds) - 1])
    return figure


def cost_figure(results: CompareResults, data: Sequence[str]) -> Figure:
    """Mean excess error over all contaminations against the time to train one model."""
    names = results.settings.methods_of(data[0])
    error = 100 * np.mean([results.excess(one).mean(axis=(1, 2)) for one in data], axis=0)
    times = np.mean([np.log(results.seconds(one)) for one in data], axis=0)
    plain = times[names.index("plain mean")] if "plain mean" in names else times.min()
    with new_figure(7.2, 4.2) as figure:
        ax = figure.subplots()
        for i, name in enumerate(names):
            mark = marker_style(_MARKS[method_of(name).family])
            factor = float(np.exp(times[i] - plain))
            ax.plot([factor], [error[i]], linestyle="", markersize=5, **mark)
            ax.annotate(
                name, (factor, error[i]), xytext=(4, 3), textcoords="offset points",
                fontsize="xx-small",
            )  # fmt: skip
        ax.set(
            xscale="log",
            xlabel="processor time per model, as a multiple of the plain mean's",
            ylabel="mean excess error, percentage points",
        )
        ax.xaxis.set_major_formatter("{x:g}")
        ax.xaxis.set_minor_formatter("{x:g}")
        families = dict.fromkeys(method_of(name).family for name in names)
        handles = [
            Line2D([], [], linestyle="", label=one, **marker_style(_MARKS[one])) for one in families
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=5, fontsize="small")
    return figure


def errors_of(
    results: CompareResults, data: str
) -> tuple[NDArray[np.float64], tuple[str, ...], tuple[str, ...]]:
    """Test errors (methods, contaminations) of a data set in percent, and the names of both."""
    values = 100 * results.chosen(data).mean(axis=1)
    return values, results.settings.methods_of(data), results.settings.contaminations_of(data)


def data_heat_map(results: CompareResults, data: str) -> Figure:
    """Map of the test errors of all methods under all contaminations of one data set."""
    values, names, texts = errors_of(results, data)
    with new_figure(3.4 + 0.62 * len(texts), 1.4 + 0.3 * len(names)) as figure:
        heat_map(values, names, texts, darkest=100.0, ax=figure.subplots())
    return figure
