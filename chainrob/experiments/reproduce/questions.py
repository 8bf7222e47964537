"""A referee's questions: what the published gain is made of."""

from __future__ import annotations

from typing import Any

import numpy as np

from chainrob.experiments.report.document import Image, Outcome, Section, Table, Text, Verdict
from chainrob.experiments.reproduce.measures import (
    METHOD_ORDER,
    Measured,
    below,
    interval_text,
    span,
    with_interval,
)
from chainrob.experiments.reproduce.plan import DIFFERENCES, RATES
from chainrob.plotting import intervals, learning_curves, line_style, marker_style, new_figure

__all__ = ["ablation", "differences", "learning_rates"]


def differences(measured: Measured) -> Section:
    """Each difference between text and program, switched alone, from either end."""
    section = Section(
        "Text and released program: each difference alone",
        [
            Text(
                "Six fields differ; each is given the other's value alone, from the released "
                "program's settings and from the text's. The text does not give the initial "
                "weights, so Chainer's default is tried as a seventh. Changes are paired by trial; "
                "their intervals are at 95% for all seven together (Bonferroni)."
            )
        ],
    )
    names = ["nothing", *DIFFERENCES, "initial_weights"]
    level = 1 - 0.05 / 7
    moved: dict[tuple[str, str], Any] = {}
    for start in ("released", "text"):
        rows = []
        base = measured.final("differences", (start, "nothing", "deep-rob"))
        for name in names:
            plain = measured.final("differences", (start, name, "deep"))
            robust = measured.final("differences", (start, name, "deep-rob"))
            change = moved[start, name] = robust - base
            same = not change.any()
            shown = "-" if name == "nothing" else "none" if same else with_interval(change, level)
            value = getattr(
                measured.plan["differences"][start, name, "deep-rob"].settings, name, ""
            )
            label = f"{name} = {value}" if name != "nothing" else f"{start} as it is"
            rows.append([label, with_interval(plain), with_interval(robust), shown])
        columns = ["changed", "deep", "deep-rob", "change of deep-rob"]
        section.blocks.append(Table(columns, rows))
    with new_figure(8, 3.4) as figure:
        axes = figure.subplots(1, 2, sharex=True)
        for ax, start in zip(axes, ("released", "text"), strict=True):
            for index, method in enumerate(("deep", "deep-rob")):
                values = [measured.final("differences", (start, n, method)) for n in names]
                intervals(
                    *span(values), names, offset=0.2 * index, label=method, ax=ax,
                    **marker_style(1 - index),
                )  # fmt: skip
            ax.set(title=f"from {start}", xlabel="test error at the end")
        axes[1].set_yticklabels([])
        axes[0].legend(loc="best")
    section.blocks.append(
        Image("differences", figure, "Each difference switched alone (95% intervals)")
    )
    scale = moved["released", "estimate_scale"]
    back = moved["text", "estimate_scale"]
    section.blocks.append(
        Verdict.of(
            "Of the differences, the scale of the estimate decides how well `deep-rob` does",
            measured.decided(_both(below(-scale, 0, level), below(back, 0, level)), sweep=True),
            "giving the released program the text's scale raises its error, and giving the text "
            "the program's scale lowers it, both intervals clear of 0",
            f"released: {with_interval(scale, level)}; text: {with_interval(back, level)}",
        )
    )
    others = [n for n in DIFFERENCES if n != "estimate_scale"]
    matter = [
        f"{n} (from {s})"
        for s in ("released", "text")
        for n in others
        if below(moved[s, n], 0, level) != "not shown"
    ]
    section.blocks.append(
        Verdict.of(
            "No other of the six differences changes the final error of `deep-rob` measurably",
            measured.decided(not matter, sweep=True),
            "all their intervals of the change contain 0",
            "those that do not: " + (", ".join(matter) or "none"),
        )
    )
    weights = [moved[start, "initial_weights"] for start in ("released", "text")]
    section.blocks.append(
        Verdict.of(
            "`deep-rob` does as well from Chainer's default initial weights",
            measured.decided(
                "does not hold"
                if any(below(-change, 0, level) == "holds" for change in weights)
                else "not shown",
                sweep=True,
            ),
            "it does not if an interval of the change lies above 0",
            f"from released: {with_interval(weights[0], level)}; from text: "
            f"{with_interval(weights[1], level)}",
        )
    )
    return section


def _both(one: Outcome, other: Outcome) -> Outcome:
    """The outcome of two claims together."""
    worst: tuple[Outcome, ...] = ("does not hold", "not shown")
    return next((outcome for outcome in worst if outcome in (one, other)), "holds")


def ablation(measured: Measured) -> Section:
    """Is it the estimator, or the learning rate of the first layer?"""
    names = list(measured.plan["ablation"])
    deep, robust, slow = (measured.final("ablation", name) for name in names)
    settings = measured.plan["ablation"]["deep"].settings
    times = np.array(settings.recorded) * settings.n_train
    with new_figure(5.6, 3.4) as figure:
        curves = {name: measured.curves("ablation", name)[:, :, 1] for name in names}
        styles = {name: line_style(index) for name, index in zip(names, (1, 0, 2), strict=True)}
        ax = learning_curves(times, curves, styles=styles, ax=figure.subplots())
        ax.set(xlabel="cost in gradients", ylabel="test error")
        ax.legend()
    gain, without = deep - robust, deep - slow
    rest = slow - robust
    return Section(
        "Ablation: a plain mean whose first layer learns at 1/100 of the rate",
        [
            Text(
                "The released program returns the estimate of 1/N-scaled rows without scaling it "
                "back, so its robust layer also learns at 1/100 of the rate. Here the first layer "
                "has that rate and nothing robust."
            ),
            Table(
                ["method", "test error", "less than `deep` by"],
                [
                    [names[0], with_interval(deep), ""],
                    [names[1], with_interval(robust), with_interval(gain)],
                    [names[2], with_interval(slow), with_interval(without)],
                ],
            ),
            Image("ablation", figure, "Test error with 95% bands of the mean"),
            Verdict.of(
                "Most of the published gain is the learning rate of the first layer",
                measured.decided(below(gain / 2 - without)),
                "the plain mean at 1/100 keeps more than half of the gain: the 95% interval of "
                "(half the gain) - (gain kept) lies below 0",
                f"{without.mean() / gain.mean():.0%} of the gain kept; "
                f"interval {interval_text(gain / 2 - without)}"
                if gain.any()
                else "no gain",
            ),
            Verdict.of(
                "Beyond the learning rate, the released estimator adds something",
                measured.decided(below(-rest)),
                "the 95% interval of (ablation - `deep-rob`), paired by trial, lies above 0",
                f"{with_interval(rest)}",
            ),
        ],
    )


def learning_rates(measured: Measured) -> Section:
    """Every method at the rate that suits it."""
    methods = list(dict.fromkeys(method for method, _ in measured.plan["rates"]))
    first = measured.settings.sweep_trials
    level = 1 - 0.05 / (len(methods) - 1)
    rows, best = [], {}
    with new_figure(6.4, 3.6) as figure:
        ax = figure.subplots()
        for index, method in zip(METHOD_ORDER, methods, strict=True):
            means, ends = span([measured.final("rates", (method, rate)) for rate in RATES])
            style = line_style(index)
            ax.plot(RATES, means, label=method, marker=marker_style(index)["marker"], **style)
            ax.fill_between(RATES, *ends, color=style["color"], alpha=0.12, linewidth=0)
            chosen = measured.plan["best rates"][method].settings.learning_rate
            best[method] = measured.final("best rates", method)[first:]
            rows.append([method, f"{chosen:g}", with_interval(best[method])])
        ax.set(xscale="log", xlabel="learning rate", ylabel="test error at the end")
        figure.legend(loc="outside lower center", ncols=2)
    verdicts = []
    for method in methods[1:]:
        difference = best[method] - best["deep"]
        verdicts.append(
            Verdict.of(
                f"At each one's best learning rate, `{method}` is better than `deep`",
                measured.decided(below(difference, 0, level), sweep=True),
                f"rates chosen on {first} trials, compared on {len(difference)} others: the "
                f"interval of the paired difference ({level:.2%}: 95% for all) lies below 0",
                with_interval(difference, level),
            )
        )
    return Section(
        "Each method at its best learning rate",
        [
            Text(
                "The released setting with other learning rates (0.5 is the published one). The "
                "best rate of each method is chosen on some trials and judged on others, so that "
                "the choice does not flatter."
            ),
            Table(["method", "best rate", "test error on the other trials"], rows),
            Image("learning_rates", figure, "Final test error by learning rate (95% bands)"),
            *verdicts,
        ],
    )
