"""The report of a comparison."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from chainrob.experiments.compare.choices import Case, CompareResults, mean_and_interval
from chainrob.experiments.compare.corruption import CORRUPTIONS
from chainrob.experiments.compare.data_sources import parse_data
from chainrob.experiments.compare.methods import candidates, make_robustifier, method_of
from chainrob.experiments.compare.overview_figures import (
    case_map,
    cost_figure,
    data_heat_map,
    errors_of,
    excess_map,
    share_curves,
)
from chainrob.experiments.compare.scores import ERROR_LIMIT
from chainrob.experiments.report import (
    Block,
    Image,
    Section,
    Table,
    Text,
    lines_alt,
    map_alt,
    p_text,
    points_alt,
    rows_alt,
)
from chainrob.plotting import intervals, new_figure

__all__ = ["compare_sections"]


def compare_sections(results: CompareResults) -> list[Section]:
    """The sections: when robust gradients pay, methods by task, ranks, data sets, and settings."""
    sections = [_cases(results)] if results.cases else []
    sections += [_task(results, task, data) for task, data in results.tasks().items()]
    if results.ranking() is not None:
        sections.append(_ranks(results))
    said = Text("The numbers are test errors in percent, averaged over the seeds.")
    sections.append(Section("Every data set", [said]))
    for data in results.settings.data:
        values, names, texts = errors_of(results, data)
        caption = f"{data}: test error of each method under each contamination, in percent"
        name = "".join(c if c.isalnum() else "_" for c in data)
        alt = map_alt(values, names, texts, "test errors in percent, methods by contaminations")
        image = Image(f"errors_{name}", data_heat_map(results, data), caption, alt)
        sections.append(Section(data, [image], level=3))
    return [*sections, _compared(results)]


def _cases(results: CompareResults) -> Section:
    cases = results.cases
    counts = {
        outcome: sum(case.outcome == outcome for case in cases)
        for outcome in ("pay", "as well", "harm")
    }
    blocks: list[Block] = [
        Text(
            "Two sides are compared. One side has the methods with robust gradients, alone or "
            "together with a baseline. The other side has the baselines: the plain mean, one-line "
            "changes, and robust linear fits. On each side the best method is chosen on validation "
            "points, which are contaminated like the training points. Each cell below has the "
            "difference of the two test errors, in percentage points, on clean test points. It is "
            "negative if robust gradients are better. They pay, or harm, if the 95% interval over "
            "seeds of the paired difference lies on one side of 0. Of "
            f"{len(cases)} cases they pay in {counts['pay']}, a baseline does as well in "
            f"{counts['as well']}, and they harm in {counts['harm']}. If both sides were alike, "
            f"about {0.05 * len(cases):.0f} of the cases would differ by chance."
        )
    ]
    for task, data in results.tasks().items():
        texts = list(dict.fromkeys(case.contamination for case in cases if case.data in data))
        if texts:
            picture = case_map(cases, data, texts)
            caption = f"{task.capitalize()}: when robust gradients pay"
            alt = _cases_alt([case for case in cases if case.data in data])
            blocks.append(Image(f"when_{task}", picture, caption, alt))
    rows = [
        [
            case.data, case.contamination, mean_and_interval(100 * case.plain, 1, 1),
            mean_and_interval(100 * case.baseline, 1, 1),
            mean_and_interval(100 * case.robust, 1, 1),
            mean_and_interval(100 * (case.robust - case.baseline), 1, 1), case.outcome,
            case.favorite,
        ]
        for case in cases
    ]  # fmt: skip
    columns = [
        "data", "contamination", "plain mean", "best baseline", "best with robust gradients",
        "difference", "robust gradients", "chosen most often",
    ]  # fmt: skip
    return Section("When robust gradients pay", [*blocks, Table(columns, rows)])


def _cases_alt(cases: Sequence[Case]) -> str:
    """What the map of cases shows, in words."""
    number = Counter(case.outcome for case in cases)
    gains = [100 * float((case.robust - case.baseline).mean()) for case in cases]
    best, worst = cases[int(np.argmin(gains))], cases[int(np.argmax(gains))]
    return (
        "Table of data sets by contaminations. Cells in blue, where robust gradients pay: "
        f"{number['pay']}; in gray, where a baseline does as well: {number['as well']}; in orange, "
        f"where they harm: {number['harm']}. The lowest difference is {min(gains):+.1f} points "
        f"({best.data}, {best.contamination}), the highest {max(gains):+.1f} ({worst.data}, "
        f"{worst.contamination})."
    )


def _task(results: CompareResults, task: str, data: list[str]) -> Section:
    names = results.settings.methods_of(data[0])
    texts = results.settings.contaminations_of(data[0])
    excess = np.array([results.excess(one) for one in data])  # data, methods, seeds, cases
    clean = texts.index("none") if "none" in texts else None
    bad = [c for c in range(len(texts)) if c != clean]
    times = np.array([results.seconds(one) for one in data])
    factor = times / times[:, [names.index("plain mean") if "plain mean" in names else 0]]
    order = np.argsort(excess.mean(axis=(0, 2, 3)), kind="stable")
    rows = []
    for i in order:
        by_seed = 100 * excess[:, i].mean(axis=0)  # seeds, cases
        worst = 100 * excess[:, i].mean(axis=1).max(axis=1)  # one per data set
        rows.append(
            [
                names[i],
                method_of(names[i]).family,
                "" if clean is None else mean_and_interval(by_seed[:, clean], 1, 1),
                mean_and_interval(by_seed[:, bad].mean(axis=1), 1, 1) if bad else "",
                f"{worst.mean():.1f}",
                f"{np.exp(np.log(factor[:, i]).mean()):.1f}",
            ]
        )
    blocks: list[Block] = [
        Text(
            f"The numbers are means over {', '.join(data)}. The excess error is the test error "
            "minus that of the plain mean on clean data with the same seed, in percentage points. "
            "Each method's rate and parameter are chosen for each seed and contamination, on "
            "contaminated validation points. The worst case is the worst contamination for the "
            "method, averaged over data sets. Time is the time to train one model, as a multiple "
            "of the plain mean's. All methods try the same number of models."
        ),
        Table(["method", "family", "clean", "contaminated", "worst case", "time"], rows),
        Image(
            f"methods_{task}",
            excess_map(results, data),
            f"{task.capitalize()}: excess errors",
            map_alt(
                100 * excess.mean(axis=(0, 2)), names, texts,
                "excess errors in percentage points, methods by contaminations",
            ),
        ),
    ]  # fmt: skip
    shown = _shown(results, data, order)
    if len(bad) > 1:
        picture = share_curves(results, data, shown)
        caption = "Excess error against the share of bad points"
        blocks.append(Image(f"shares_{task}", picture, caption, lines_alt(picture)))
    picture = cost_figure(results, data)
    image = Image(f"time_{task}", picture, "Excess error against time", points_alt(picture))
    blocks.append(image)
    return Section(f"Methods: {task}", blocks)


def _shown(results: CompareResults, data: list[str], order: Any) -> list[str]:
    """The two best methods of each family, for figures with few lines."""
    names = results.settings.methods_of(data[0])
    shown: dict[str, list[str]] = {}
    for i in order:
        shown.setdefault(method_of(names[i]).family, []).append(names[i])
    return [name for family in shown.values() for name in family[:2]]


def _ranks(results: CompareResults) -> Section:
    ranking, names = results.ranking(), results.common_methods()
    assert ranking is not None
    order = np.argsort(ranking.ranks, kind="stable")
    best, sets = order[0], len(results.settings.data)
    text = (
        "Average ranks over all pairs of data set and contamination, for the methods that all data "
        "sets have. Seeds are averaged. Rank 1 is the best. "
    )
    columns = ["method", "average rank"]
    rows = [[names[j], f"{ranking.ranks[j]:.2f}"] for j in order]
    if sets == 1:
        text += "One data set says nothing about others, so there is no test."
        return Section("Ranks", [Text(text), Table(columns, rows)])
    rows = [
        [*row, "" if j == best else p_text(ranking.pairwise[best, j])]
        for row, j in zip(rows, order, strict=True)
    ]
    text += (
        "The contaminations of one data set share its points, so the tests permute whole data "
        f"sets. The hypothesis that all methods are alike has {p_text(ranking.p_value)} "
        "(Friedman's statistic). Two average ranks differ at the 5% level if they are more than "
        f"{ranking.critical_difference:.2f} apart; this holds for all pairs together. With only "
        f"{sets} data sets, methods may differ although no difference is shown."
    )
    with new_figure(7.0, 1.2 + 0.28 * len(order)) as figure:
        ax = figure.subplots()
        ranks = ranking.ranks[order]
        half = ranking.critical_difference / 2
        intervals(ranks, np.stack([ranks - half, ranks + half]), [names[j] for j in order], ax=ax)
        ax.set(xlabel="average rank ± half the critical difference")
    caption = "Average ranks; overlapping bars mean that no difference is shown"
    image = Image("ranks", figure, caption, rows_alt(figure))
    return Section("Ranks", [Text(text), Table([*columns, "against the first"], rows), image])


def _compared(results: CompareResults) -> Section:
    s = results.settings
    used = {text.partition(":")[0] for text in s.contaminations} - {"none"}
    methods = dict.fromkeys(name for data in s.data for name in s.methods_of(data))
    rows = []
    for name in methods:
        tried = candidates(method_of(name), s.learning_rates)
        method = tried[0].method
        made = method.robustifier and repr(make_robustifier(method.robustifier, 64))
        what = ", ".join(
            f"{key} {value}"
            for key, value in (
                ("gradients", made), ("scope", method.scope if made else ""),
                ("loss", method.loss), ("inputs", method.inputs), ("clipped to", method.clip),
                ("stops early", "yes" if method.early else ""),
            )
            if value
        )  # fmt: skip
        values = ", ".join(f"{value:g}" for value in method_of(name).values)
        rows.append([name, method.family, f"`{what}`", values, str(len(tried))])
    sources = []
    for data in s.data:
        source = parse_data(data)
        n, d = source.load().x.shape
        sources.append([data, f"{n} x {d}", source.network, str(source.batch)])
    return Section(
        "What was compared",
        [
            Text(
                f"There are {s.seeds} seeds. Each seed has its own split (60% training, 20% "
                "validation, 20% test), contamination, initial weights and batches. Training and "
                "validation points are contaminated. Test points are clean, and nothing is chosen "
                "on them. Inputs are scaled by statistics of the contaminated training points. "
                "Errors are shares of misclassified points, or 1 - R^2 for a regression, limited "
                f"to {ERROR_LIMIT:g}. A network that diverged has the error 1, or this limit. All "
                f"train by SGD with momentum 0.9, {s.updates} updates, at the rates "
                f"{', '.join(f'{r:g}' for r in s.learning_rates)}. A method with a parameter "
                "tries fewer rates for each value, so that all methods have the same budget."
            ),
            Table(["data", "points", "network", "batch"], sources),
            Table(
                ["contamination", "meaning"], [[k, CORRUPTIONS[k].meaning] for k in CORRUPTIONS
                                               if k in used],
            ),
            Text("The methods, with the first value of their parameter and batches of 64:"),
            Table(["method", "family", "what it is", "values tried", "models per case"], rows),
        ],
    )  # fmt: skip
