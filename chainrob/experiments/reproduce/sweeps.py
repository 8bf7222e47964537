"""A referee's questions: contamination, choice of robustifier, and training on clean data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from chainrob.experiments.report import Image, Section, Table, Text, Verdict, lines_alt, rows_alt
from chainrob.experiments.reproduce.drawing import sweep_figure
from chainrob.experiments.reproduce.measures import (
    Array,
    Measured,
    all_of,
    below,
    span,
    with_interval,
)
from chainrob.experiments.reproduce.plan import PUSHES, SHARES, robustifiers_tried
from chainrob.plotting import intervals, marker_style, new_figure

__all__ = ["clean_bound", "contamination_sweeps", "robustifier_table"]

_MARGIN = 0.02


def contamination_sweeps(measured: Measured) -> Section:
    """Contamination from 0 to 20%, push from 1 to 10^6."""
    section = Section(
        "Contamination from 0 to 20%, push from 1 to 10^6",
        [
            Text(
                "The settings are the program's. The push is k = 10^4 while the share varies. The "
                "share is 2% while the push varies."
            )
        ],
    )
    for question, values, written, what, head in (
        ("shares", SHARES, [f"{s:.0%}" for s in SHARES], "contaminated shares (k = 10^4)",
         "share of the training points pushed"),
        ("pushes", PUSHES, [_power(k) for k in PUSHES], "pushes (2%)",
         "push k, in standard deviations"),
    ):  # fmt: skip
        names = dict(zip(values, written, strict=True))
        methods = list(dict.fromkeys(method for method, _ in measured.plan[question]))
        errors = {m: [measured.final(question, (m, v)) for v in values] for m in methods}
        rows = [
            [names[v], *(with_interval(errors[m][i]) for m in methods)]
            for i, v in enumerate(values)
        ]
        figure = sweep_figure(errors, [_drawn(one) for one in written], head)
        caption = f"Final test error by {head.split(',')[0]}, 95% intervals"
        section.blocks += [
            Table([head.split(",")[0], *methods], rows),
            Image(question, figure, caption, lines_alt(figure)),
        ]
        for method in ("deep-rob (released)", "trimmed mean 5%, all layers"):
            differences = {
                names[v]: one - plain
                for v, one, plain in zip(values, errors[method], errors["deep"], strict=True)
                if v
            }
            section.blocks.append(_everywhere(measured, method, what, differences))
    return section


def _everywhere(
    measured: Measured, method: str, what: str, differences: Mapping[str, Array]
) -> Verdict:
    level = 1 - 0.05 / len(differences)
    outcomes = {value: below(one, 0, level) for value, one in differences.items()}
    found = []
    for word, outcome in (
        ("better", "holds"), ("worse", "does not hold"), ("not shown", "not shown")
    ):  # fmt: skip
        at = [value for value, one in outcomes.items() if one == outcome]
        if at:
            found.append(f"{word} at {', '.join(at)}")
    return Verdict.of(
        f"`{method}` is better than `deep` at all {what}",
        measured.decided(all_of(outcomes.values()), sweep=True),
        "the interval of the difference, paired by trial, lies below 0 at every value (95% for all "
        "together); it does not hold if one lies above",
        "; ".join(found),
    )


def clean_bound(measured: Measured) -> Section:
    """The error of training on clean data, and the methods that reach it on contaminated data."""
    bound = measured.final("clean", ("deep", 0.0))
    level = 1 - 0.05 / (len(measured.plan["clean"]) - 1)
    rows = []
    costs: list[Verdict] = []
    reached: list[Verdict] = []
    for method, share in measured.plan["clean"]:
        errors = measured.final("clean", (method, share))
        above = errors - bound
        rows.append(
            [method, f"{share:.0%}", with_interval(errors), with_interval(above)]
            if above.any()
            else [method, f"{share:.0%}", with_interval(errors), "the bound"]
        )
        if not above.any():
            continue
        claim = (
            f"With 2% contamination `{method}` ends within {_MARGIN} of clean plain training"
            if share
            else f"Without contamination `{method}` costs at most {_MARGIN}"
        )
        (reached if share else costs).append(
            Verdict.of(
                claim,
                measured.decided(below(above, _MARGIN, level)),
                "the interval of the difference from plain training without contamination, paired "
                f"by trial, lies below {_MARGIN} (95% for all together); the claim does not hold "
                "if the interval lies above",
                with_interval(above, level),
            )
        )
    return Section(
        "The clean-data bound",
        [
            Text(
                "Plain training on clean data is compared with all methods, on clean and on "
                "contaminated data. The trials are the same, and the settings are the program's."
            ),
            Table(["method", "contamination", "test error", "above the bound by"], rows),
            *costs,
            *reached,
        ],
    )


def robustifier_table(measured: Measured) -> Section:
    """Every robustifier at the right scale, in the first layer and in all layers."""
    tried = {n: r for n, r in robustifiers_tried().items() if not isinstance(r, str)}
    refused = {n: r for n, r in robustifiers_tried().items() if isinstance(r, str)}
    places = ("first layer", "all layers")
    table = {
        place: {name: measured.final("robustifiers", (name, place)) for name in tried}
        for place in places
    }
    order = sorted(tried, key=lambda name: float(table["all layers"][name].mean()))
    written = {name: _without_policy(tried[name]) for name in tried}
    rows = [
        [
            f"`{written[name]}`",
            str(len(table["all layers"][name])),
            *(with_interval(table[place][name]) for place in places),
        ]
        for name in order
    ]
    with new_figure(7.2, 1.2 + 0.29 * len(order)) as figure:
        ax = figure.subplots()
        for index, place in enumerate(places):
            values = [table[place][name] for name in order]
            intervals(
                *span(values), [written[name] for name in order], offset=0.25 * index - 0.125,
                label=place, ax=ax, **marker_style(index),
            )  # fmt: skip
        ax.set(xlabel="test error after the last update", xlim=(0, None))
        figure.legend(loc="outside lower center", ncols=2)
    plain = table["first layer"]["mean"]
    printed = table["first layer"]["soft_truncation, pilot mean"] - plain
    least = measured.settings.robustifier_trials
    judged = [n for n in order if n != "mean" and len(table["all layers"][n]) >= least]
    level = 1 - 0.05 / len(judged)
    outcomes = {
        name: below(table["all layers"][name][:least] - plain[:least] / 2, 0, level)
        for name in judged
    }
    good = [f"`{written[name]}`" for name in judged if outcomes[name] == "holds"]
    none = all(outcome == "does not hold" for outcome in outcomes.values())
    others = [f"`{name}`: {reason}" for name, reason in refused.items()]
    return Section(
        "Every robustifier at the scale of the text",
        [
            Text(
                "The settings are the text's (2% pushed by 10^4). Each robustifier has its "
                "default parameters for 5% bad samples of 100. Estimates are at the scale of one "
                f"sample's gradient. Robustifiers with fewer than {least} trials take seconds per "
                "trial. Their intervals only show the scatter, and no verdict depends on them."
            ),
            Table(["robustifier", "trials", "first layer", "all layers"], rows),
            Image(
                "robustifiers",
                figure,
                "Final test error of every robustifier (95% intervals)",
                rows_alt(figure),
            ),
            Text("Not run: " + ("; ".join(others) or "none") + "."),
            Verdict.of(
                "Algorithm 2 as printed (mean pilot, right scale, first layer) is better than the "
                "plain mean",
                measured.decided(below(printed), robustifiers=True),
                "the 95% interval of the difference, paired by trial, lies below 0",
                with_interval(printed),
            ),
            Verdict.of(
                "On all layers, some robustifiers halve the plain mean's error",
                measured.decided(
                    "holds" if good else "does not hold" if none else "not shown",
                    robustifiers=True,
                ),
                f"of the {len(judged)} with {least} trials: the interval of (error) - (half the "
                "plain mean's), paired by trial, lies below 0 (95% for all together)",
                f"{len(good)} do: {', '.join(good) or 'none'}",
            ),
        ],
    )


def _without_policy(robustifier: Any) -> str:
    """The robustifier as text, without the policy that all of them have here."""
    text = repr(robustifier)
    return text.replace("nonfinite='propagate', ", "").replace("nonfinite='propagate'", "")


def _power(value: float) -> str:
    return f"10^{round(np.log10(value))}"


def _drawn(text: str) -> str:
    return f"${text.replace('^', '^{')}}}$" if "^" in text else text
