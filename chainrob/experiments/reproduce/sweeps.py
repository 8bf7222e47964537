"""A referee's questions: how much contamination, which robustifier, and what clean data allow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from chainrob.experiments.report.document import Image, Section, Table, Text, Verdict
from chainrob.experiments.reproduce.measures import (
    METHOD_ORDER,
    Measured,
    below,
    span,
    with_interval,
)
from chainrob.experiments.reproduce.plan import PUSHES, SHARES, robustifiers_tried
from chainrob.plotting import intervals, line_style, marker_style, new_figure
from chainrob.statistics import bootstrap_interval

__all__ = ["clean_bound", "contamination_sweeps", "robustifier_table"]

_MARGIN = 0.02


def contamination_sweeps(measured: Measured) -> Section:
    """Contamination from 0 to 20%, push from 1 to 10^6."""
    shares = _sweep_figure(measured, "shares", SHARES, "share of the training points pushed")
    pushes = _sweep_figure(measured, "pushes", PUSHES, "push k, in standard deviations", log=True)
    methods = list(dict.fromkeys(method for method, _ in measured.plan["shares"]))
    section = Section(
        "Contamination from 0 to 20%, push from 1 to 10^6",
        [
            Text("The released setting; the push is 10^4 where the share varies, the share 2% "
                 "where the push varies."),
            Table(["share", *methods], _rows(measured, "shares", SHARES, methods)),
            Image("shares", shares, "Final test error by share of pushed points (95% bands)"),
            Table(["push", *methods], _rows(measured, "pushes", PUSHES, methods)),
            Image("pushes", pushes, "Final test error by push (95% bands)"),
        ],
    )  # fmt: skip
    for question, values, what in (
        ("shares", SHARES[1:], "contaminated shares (k = 10^4)"),
        ("pushes", PUSHES, "pushes (2%)"),
    ):
        for method in ("deep-rob (released)", "trimmed mean 5%, all layers"):
            level = 1 - 0.05 / len(values)
            found = {
                value: below(
                    measured.final(question, (method, value))
                    - measured.final(question, ("deep", value)),
                    0,
                    level,
                )
                for value in values
            }
            better, worse = (
                [f"{value:g}" for value in values if found[value] == outcome]
                for outcome in ("holds", "does not hold")
            )
            section.blocks.append(
                Verdict.of(
                    f"`{method}` is better than `deep` at all {what}",
                    measured.decided(
                        "does not hold" if worse else len(better) == len(values) or "not shown",
                        sweep=True,
                    ),
                    "the interval of the paired difference lies below 0 at every value (95% for "
                    "all values together); it does not hold if one lies above 0",
                    f"better at {', '.join(better) or 'none'}; worse at "
                    f"{', '.join(worse) or 'none'}; of {', '.join(f'{v:g}' for v in values)}",
                )
            )
    cost = measured.final("shares", ("deep-rob (released)", 0.0)) - measured.final(
        "shares", ("deep", 0.0)
    )
    section.blocks.append(
        Verdict.of(
            f"On clean data `deep-rob` (released) costs at most {_MARGIN}",
            measured.decided(below(cost, _MARGIN), sweep=True),
            f"the 95% interval of the paired difference to `deep` lies below {_MARGIN}",
            with_interval(cost),
        )
    )
    return section


def clean_bound(measured: Measured) -> Section:
    """What training on clean data reaches, and who reaches it with contamination."""
    names = list(measured.plan["clean"])
    bound = measured.final("clean", names[0])
    rows, verdicts = [], []
    for name in names:
        errors = measured.final("clean", name)
        difference = errors - bound
        rows.append(
            [name, with_interval(errors), with_interval(difference) if difference.any() else ""]
        )
        if name != names[0]:
            verdicts.append(
                Verdict.of(
                    f"`{name}` with 2% contamination is as good as plain training on clean data",
                    measured.decided(below(difference, _MARGIN)),
                    f"the 95% interval of the paired difference lies below {_MARGIN}",
                    with_interval(difference),
                )
            )
    return Section(
        "The clean-data bound",
        [
            Text("Plain training on the same trials without contamination, beside the methods "
                 "with it (released setting)."),
            Table(["method", "test error", "above the bound by"], rows),
            *verdicts,
        ],
    )  # fmt: skip


def robustifier_table(measured: Measured) -> Section:
    """Every robustifier at the right scale, in the first layer and in all."""
    tried = {n: r for n, r in robustifiers_tried().items() if not isinstance(r, str)}
    refused = {n: r for n, r in robustifiers_tried().items() if isinstance(r, str)}
    places = ("first layer", "all layers")
    table = {
        place: {name: measured.final("robustifiers", (name, place)) for name in tried}
        for place in places
    }
    order = sorted(tried, key=lambda name: float(table["all layers"][name].mean()))
    rows = [
        [
            f"`{tried[name]!r}`".replace("nonfinite='propagate', ", "").replace(
                "nonfinite='propagate'", ""
            ),
            str(len(table["all layers"][name])),
            *(with_interval(table[place][name]) for place in places),
        ]
        for name in order
    ]
    with new_figure(6.4, 1.2 + 0.27 * len(order)) as figure:
        ax = figure.subplots()
        for index, place in enumerate(places):
            values = [table[place][name] for name in order]
            intervals(
                *span(values), order, offset=0.25 * index, label=place, ax=ax, **marker_style(index)
            )
        ax.set(xlabel="test error at the end")
        figure.legend(loc="outside lower center", ncols=2)
    plain = table["first layer"]["mean"]
    printed = table["first layer"]["soft_truncation, pilot mean"] - plain
    good = [
        name
        for name in order
        if bootstrap_interval(table["all layers"][name])[1] < plain.mean() / 2
    ]
    others = [f"`{name}`: {reason}" for name, reason in refused.items()]
    return Section(
        "Every robustifier at the scale of the text",
        [
            Text(
                "The setting of the text (2% pushed by 10^4), each robustifier with its default "
                "parameters for 5% bad samples of 100, estimates at the scale of one sample's "
                "gradient. Slow ones have fewer trials; the intervals show it."
            ),
            Table(["robustifier", "trials", "first layer", "all layers"], rows),
            Image("robustifiers", figure, "Final test error of every robustifier (95% intervals)"),
            Text("Not run: " + ("; ".join(others) or "none") + "."),
            Verdict.of(
                "Algorithm 2 as printed (mean pilot, right scale, first layer) is better than the "
                "plain mean",
                measured.decided(below(printed)),
                "the 95% interval of the paired difference lies below 0",
                with_interval(printed),
            ),
            Verdict.of(
                "On all layers, some robustifiers halve the plain mean's error",
                measured.decided(bool(good)),
                "the upper end of the 95% interval lies below half of the plain mean's error",
                f"{len(good)} do: {', '.join(good) or 'none'}",
            ),
        ],
    )


def _rows(
    measured: Measured, question: str, values: Sequence[float], methods: Sequence[str]
) -> list[list[str]]:
    return [
        [f"{v:g}", *(with_interval(measured.final(question, (m, v))) for m in methods)]
        for v in values
    ]


def _sweep_figure(
    measured: Measured, question: str, values: Sequence[float], label: str, log: bool = False
) -> Figure:
    methods: list[Any] = list(dict.fromkeys(m for m, _ in measured.plan[question]))
    with new_figure(6.4, 3.6) as figure:
        ax = figure.subplots()
        for index, method in zip(METHOD_ORDER, methods, strict=False):
            means, ends = span([measured.final(question, (method, v)) for v in values])
            style = line_style(index)
            at = np.asarray(values)
            ax.plot(at, means, label=method, marker=marker_style(index)["marker"], **style)
            ax.fill_between(at, *ends, color=style["color"], alpha=0.12, linewidth=0)
        ax.set(xlabel=label, ylabel="test error at the end")
        if log:
            ax.set_xscale("log")
        figure.legend(loc="outside lower center", ncols=2)
    return figure
