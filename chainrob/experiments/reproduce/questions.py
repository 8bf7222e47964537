"""A referee's questions: where does the published gain come from?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from chainrob.experiments.report import (
    Block,
    Image,
    Section,
    Table,
    Text,
    Verdict,
    lines_alt,
    rows_alt,
)
from chainrob.experiments.reproduce.drawing import sweep_figure
from chainrob.experiments.reproduce.measures import (
    STYLE_OF,
    Array,
    Measured,
    all_of,
    below,
    detectable,
    interval_text,
    span,
    with_interval,
    within,
)
from chainrob.experiments.reproduce.plan import DIFFERENCES, RATES
from chainrob.plotting import (
    intervals,
    label_ends,
    learning_curves,
    line_style,
    marker_style,
    new_figure,
)

__all__ = ["ablation", "differences", "learning_rates"]

_MATTERS = 0.1
_MARGIN = 0.02
_FROM = {"released": "the program", "text": "the text"}

_IN_WORDS: dict[str, tuple[str, dict[Any, str]]] = {
    "estimate_scale": (
        "scale of the estimate",
        {"sample": "one sample's gradient", "batch": "1/n of a sample's gradient"},
    ),
    "variance_ddof": ("divisor of the variance", {0: "n", 1: "n - 1"}),
    "variance_floor": ("least variance", {0.0: "none", 0.001: "0.001"}),
    "small_batches": ("fewer than 3 samples", {"estimate": "estimate", "sum": "plain sum"}),
    "components_from": (
        "principal components", {"train": "of the training points", "all": "of all points"}
    ),
    "scaling_from": (
        "min-max scaling", {"train": "by the training points", "all": "by all points"}
    ),
    "initial_weights": ("initial weights", {"lecun_normal": "Chainer's default"}),
}  # fmt: skip
"""The report's names for fields of IrisSettings and their values."""


def differences(measured: Measured) -> Section:
    """Each difference between text and program, changed alone, starting from either."""
    names = [*DIFFERENCES, "initial_weights"]
    level = 1 - 0.05 / len(names)
    changes = {
        (start, name): measured.final("differences", (start, name, "deep-rob"))
        - measured.final("differences", (start, "nothing", "deep-rob"))
        for start in _FROM
        for name in names
    }
    scale, weights = (
        [changes[start, name] for start in _FROM] for name in ("estimate_scale", "initial_weights")
    )
    others = {
        key: c for key, c in changes.items() if key[1] in DIFFERENCES and key[1] != "estimate_scale"
    }
    largest = max(others, key=lambda key: abs(float(others[key].mean())))
    picture = _differences_figure(measured, ["nothing", *names])
    blocks: list[Block] = [
        Text(
            "Text and program differ in six ways. Each difference is changed alone, once starting "
            "from the program's settings and once from the text's. The text gives no initial "
            "weights, so Chainer's default is tried as a seventh difference. Changes are paired "
            "by trial. Their intervals hold at 95% for all seven together (Bonferroni)."
        ),
        *(_changes_table(measured, start, names, changes, level) for start in _FROM),
        Image(
            "differences",
            picture,
            "Each difference changed alone: final test error with 95% intervals",
            rows_alt(picture),
        ),
        Verdict.of(
            "Of the differences, the scale of the estimate decides how well `deep-rob` does",
            measured.decided(all_of([below(-scale[0], 0, level), below(scale[1], 0, level)])),
            "giving the program the text's scale raises its error, and giving the text the "
            "program's lowers it, both intervals clear of 0",
            _from_both(scale, level),
        ),
        Verdict.of(
            f"None of the other five changes the error of `deep-rob` by more than {_MATTERS}",
            measured.decided(all_of(within(c, _MATTERS, level) for c in others.values())),
            f"all ten intervals of the change lie between -{_MATTERS} and {_MATTERS}; it does not "
            "hold if one lies outside",
            f"the largest: {_IN_WORDS[largest[1]][0]}, from {_FROM[largest[0]]}, "
            f"{with_interval(others[largest], level)}",
        ),
        Verdict.of(
            "`deep-rob` does as well from Chainer's default initial weights",
            measured.decided(all_of(below(c, _MARGIN, level) for c in weights)),
            f"both intervals of the change lie below {_MARGIN}; it does not hold if one lies above",
            _from_both(weights, level),
        ),
        _gain_at_scale_of_text(measured),
    ]
    return Section("Text and released program: each difference alone", blocks)


def _from_both(changes: Sequence[Array], level: float) -> str:
    return "; ".join(
        f"from {start} {with_interval(change, level)}"
        for start, change in zip(_FROM.values(), changes, strict=True)
    )


def _changes_table(
    measured: Measured,
    start: str,
    names: Sequence[str],
    changes: Mapping[tuple[str, str], Array],
    level: float,
) -> Table:
    rows = []
    for name in ["nothing", *names]:
        errors = [measured.final("differences", (start, name, m)) for m in ("deep", "deep-rob")]
        label, change = "nothing", ""
        if name != "nothing":
            settings = measured.plan["differences"][start, name, "deep-rob"].settings
            what, values = _IN_WORDS[name]
            label = f"{what}: {values[getattr(settings, name)]}"
            moved = changes[start, name]
            change = with_interval(moved, level) if moved.any() else "none"
        rows.append([label, *map(with_interval, errors), change])
    return Table([f"changed from {_FROM[start]}", "deep", "deep-rob", "change of deep-rob"], rows)


def _differences_figure(measured: Measured, names: Sequence[str]) -> Figure:
    labels = [_IN_WORDS[name][0] if name in _IN_WORDS else name for name in names]
    with new_figure(8.4, 3.8) as figure:
        axes = figure.subplots(1, 2, sharex=True, sharey=True)
        for ax, start in zip(axes, _FROM, strict=True):
            for index, method in enumerate(("deep", "deep-rob")):
                values = [measured.final("differences", (start, n, method)) for n in names]
                intervals(
                    *span(values), labels, offset=0.2 * index - 0.1, label=method, ax=ax,
                    **marker_style(STYLE_OF[method]),
                )  # fmt: skip
            ax.set(title=f"from {_FROM[start]}", xlabel="test error after the last update")
        axes[0].set_ylabel("changed")
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def _gain_at_scale_of_text(measured: Measured) -> Verdict:
    """The gain with the estimate at the scale of the text."""
    deep, robust = (
        measured.final("differences", ("released", "estimate_scale", method))
        for method in ("deep", "deep-rob")
    )
    published = measured.final("differences", ("released", "nothing", "deep"))
    published = published - measured.final("differences", ("released", "nothing", "deep-rob"))
    gain = deep - robust
    share = f", {gain.mean() / published.mean():.0%} of the gain" if published.any() else ""
    return Verdict.of(
        "With the estimate at the scale of the text, a part of the gain remains",
        measured.decided(below(-gain)),
        "with the program's settings and the text's scale, the 95% interval of (error of `deep`) - "
        "(error of `deep-rob`), paired by trial, lies above 0",
        with_interval(gain) + share,
    )


def ablation(measured: Measured) -> Section:
    """Is it the estimator, or the learning rate of the first layer?"""
    names = list(measured.plan["ablation"])
    deep, robust, slow = (measured.final("ablation", name) for name in names)
    settings = measured.plan["ablation"]["deep"].settings
    times = np.array(settings.recorded) * settings.n_train
    with new_figure(7.4, 3.4) as figure:
        curves = {name: measured.curves("ablation", name)[:, :, 1] for name in names}
        styles = {name: line_style(STYLE_OF[name]) for name in names}
        ax = learning_curves(times, curves, styles=styles, ax=figure.subplots())
        ax.set(xlabel="cost in gradients", ylabel="test error", ylim=(0, None))
        ax.xaxis.set_major_formatter(EngFormatter(sep=""))
        ax.set_xlim(0, times[-1])
        label_ends(ax)
    gain, gain_of_slow = deep - robust, deep - slow
    rest = slow - robust
    return Section(
        "Ablation: a plain mean whose first layer learns at 1/100 of the rate",
        [
            Text(
                "The released program estimates from rows scaled by 1/N and does not scale the "
                "estimate back. So its robust layer also learns at 1/100 of the rate. Here the "
                "first layer is a plain mean with this rate."
            ),
            Table(
                ["method", "test error", "less than `deep` by"],
                [
                    [names[0], with_interval(deep), ""],
                    [names[1], with_interval(robust), with_interval(gain)],
                    [names[2], with_interval(slow), with_interval(gain_of_slow)],
                ],
            ),
            Image(
                "ablation",
                figure,
                "Test error: mean of all trials with its 95% band",
                lines_alt(figure),
            ),
            Verdict.of(
                "Most of the published gain is the learning rate of the first layer",
                measured.decided(below(gain / 2 - gain_of_slow)),
                "the plain mean at 1/100 keeps more than half of the gain of `deep-rob`: the 95% "
                "interval of (half the gain) - (gain kept) lies below 0",
                f"{gain_of_slow.mean() / gain.mean():.0%} of the gain kept; "
                f"interval {interval_text(gain / 2 - gain_of_slow)}"
                if gain.any()
                else "no gain",
            ),
            Verdict.of(
                "Beyond the learning rate, the released estimator adds something",
                measured.decided(below(-rest)),
                "the 95% interval of (error of the plain mean at 1/100) - (error of `deep-rob`), "
                "paired by trial, lies above 0 ('not shown' does not mean that there is nothing)",
                f"{with_interval(rest)}, {rest.mean() / gain.mean():.0%} of the gain; with "
                f"{len(rest)} trials a difference of {detectable(rest):.3f} shows in 80% of cases"
                if gain.any()
                else "no gain",
            ),
        ],
    )


def learning_rates(measured: Measured) -> Section:
    """Each method at its best learning rate."""
    methods = list(dict.fromkeys(method for method, _ in measured.plan["rates"]))
    first = measured.settings.sweep_trials
    half = measured.settings.trials // 2
    level = 1 - 0.05 / (len(methods) - 1)
    rows, best = [], {}
    for method in methods:
        chosen = measured.plan["best rates"][method].settings.learning_rate
        best[method] = measured.final("best rates", method)[half:]
        at_the_end = ", at the end of the range" if chosen in (RATES[0], RATES[-1]) else ""
        rows.append([method, f"{chosen:g}{at_the_end}", with_interval(best[method])])
    errors = {m: [measured.final("rates", (m, rate)) for rate in RATES] for m in methods}
    figure = sweep_figure(errors, [f"{rate:g}" for rate in RATES], "learning rate")
    verdicts = []
    for method in methods[1:]:
        difference = best[method] - best["deep"]
        verdicts.append(
            Verdict.of(
                f"At each one's best learning rate, `{method}` is better than `deep`",
                measured.decided(below(difference, 0, level), sweep=True),
                f"rates chosen on {half} trials, compared on the other {len(difference)}: the "
                "interval of the difference, paired by trial, lies below 0 (95% for all together)",
                with_interval(difference, level),
            )
        )
    return Section(
        "Each method at its best learning rate",
        [
            Text(
                "The settings are the program's, at other learning rates. (The published rate is "
                f"0.5.) {first} trials choose three rates for each method. {half} trials choose "
                "the best of the three. The other trials measure its error. Many trials are "
                "needed: trials are bimodal, so a choice by few of them is often bad."
            ),
            Table(["method", "best rate", "test error on the other trials"], rows),
            Image(
                "learning_rates",
                figure,
                "Final test error by learning rate (95% intervals)",
                lines_alt(figure),
            ),
            *verdicts,
        ],
    )
