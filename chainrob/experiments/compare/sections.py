"""The report of a comparison."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from chainrob.experiments.compare.results import CompareResults
from chainrob.experiments.compare.settings import make_robustifier
from chainrob.experiments.compare.training import ERROR_LIMIT
from chainrob.experiments.report import Image, Section, Table, Text
from chainrob.plotting import heat_map, intervals, new_figure
from chainrob.statistics import bootstrap_interval

__all__ = ["compare_sections"]


def compare_sections(results: CompareResults, record: dict[str, Any]) -> list[Section]:
    """Best settings, ranks, heat maps, and how it was run."""
    sections = [_best(results), _worst_case(results)]
    if results.ranking() is not None:
        sections.append(_ranks(results))
    sections += [_data_set(results, i) for i in range(len(results.settings.data))]
    rows = [[key, str(value)] for key, value in record.items()]
    return [*sections, Section("How this was run", [Table(["what", "value"], rows)])]


def _best(results: CompareResults) -> Section:
    rows = []
    for data, one in results.best().items():
        low, high = one.interval or (float("nan"), float("nan"))
        rate = "each data set's own" if np.isnan(one.learning_rate) else f"{one.learning_rate:g}"
        shown = f"{one.test_error:.3f} [{low:.3f}, {high:.3f}]"
        rows.append([data, f"`{one.robustifier}`", rate, one.worst_contamination, shown])
    s = results.settings
    made = [
        [f"`{text}`", f"`{make_robustifier(text, s.batch, s.assumed)!r}`"]
        for text in s.robustifiers
    ]
    return Section(
        "The best setting for the worst contamination",
        [
            Text(
                "For each data set, the robustifier and learning rate whose worst mean validation "
                "error over the contaminations is least; the error given is on test data, under "
                "the contamination that is worst for it there, with a 95% bootstrap interval over "
                f"{s.seeds} seeds. Errors are shares of misclassified points, or 1 - R^2 for a "
                f"regression (cut off at {ERROR_LIMIT:g})."
            ),
            Table(["data", "robustifier", "learning rate", "worst contamination", "error"], rows),
            Text("What the names stand for in full batches:"),
            Table(["name", "robustifier"], made),
        ],
    )


def _worst_case(results: CompareResults) -> Section:
    s, test = results.settings, results.chosen()
    at = test.mean(axis=2).argmax(axis=-1)  # (data, robustifiers)
    seeds = np.take_along_axis(test, at[:, :, None, None], axis=-1)[..., 0]
    values, ends = _table(seeds.transpose(2, 1, 0))
    with new_figure(2.6 + 1.0 * len(s.data), 1.2 + 0.42 * len(s.robustifiers)) as figure:
        ax = heat_map(
            values, s.robustifiers, s.data, intervals=ends, darkest=1.0, ax=figure.subplots()
        )
        ax.set_title("error under the worst contamination", fontsize="medium")
    return Section(
        "Worst case by data set",
        [Image("worst_case", figure, "Test error under each one's worst contamination")],
    )


def _ranks(results: CompareResults) -> Section:
    ranking, s = results.ranking(), results.settings
    assert ranking is not None
    order = np.argsort(ranking.ranks, kind="stable")
    half = ranking.critical_difference / 2
    with new_figure(7.0, 1.2 + 0.28 * len(order)) as figure:
        ax = figure.subplots()
        ranks = ranking.ranks[order]
        ends = np.stack([ranks - half, ranks + half])
        intervals(ranks, ends, [s.robustifiers[j] for j in order], ax=ax)
        ax.set(xlabel="average rank ± half the critical difference")
    best = order[0]
    rows = [
        [f"`{s.robustifiers[j]}`", f"{ranking.ranks[j]:.2f}", f"{ranking.pairwise[best, j]:.3f}"]
        for j in order
    ]
    text = (
        f"Over {len(s.data) * len(s.contaminations)} pairs of data set and contamination (seeds "
        f"averaged). Friedman's test that all are alike: p = {ranking.p_value:.2g}. Nemenyi's "
        f"critical difference at 5%: {ranking.critical_difference:.2f}. The last column: "
        "Wilcoxon's signed-rank test against the first, by Holm's correction for all pairs. The "
        "pairs of one data set are not quite independent, so the tests are somewhat optimistic."
    )
    return Section(
        "Ranks",
        [
            Text(text),
            Table(["robustifier", "average rank", "p against the first"], rows),
            Image("ranks", figure, "Average ranks; those whose bars overlap do not differ"),
        ],
    )


def _data_set(results: CompareResults, i: int) -> Section:
    s = results.settings
    values, ends = _table(results.chosen()[i].transpose(1, 0, 2))
    rates = results.chosen_rates()[i]
    names = [
        f"{text} ({s.learning_rates[m]:g})" for text, m in zip(s.robustifiers, rates, strict=True)
    ]
    picture = _heat_map(values, ends, names, list(s.contaminations))
    caption = f"{s.data[i]}: test error, with 95% intervals (learning rate in brackets)"
    return Section(f"{s.data[i]}", [Image(f"heat_map_{s.data[i]}", picture, caption)], level=3)


def _heat_map(values: Any, ends: Any, rows: list[str], columns: list[str]) -> Figure:
    with new_figure(2.6 + 1.0 * len(columns), 1.2 + 0.42 * len(rows)) as figure:
        heat_map(values, rows, columns, intervals=ends, darkest=1.0, ax=figure.subplots())
    return figure


def _table(seeds: Any) -> tuple[Any, Any]:
    """Means and intervals over the first axis; no intervals for a single seed."""
    ends = bootstrap_interval(seeds) if len(seeds) > 1 else None
    return seeds.mean(axis=0), ends
