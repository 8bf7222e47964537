"""The report of a comparison."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from chainrob.experiments.compare.results import CompareResults
from chainrob.experiments.compare.settings import make_robustifier
from chainrob.experiments.compare.training import ERROR_LIMIT
from chainrob.experiments.report import Image, Section, Table, Text, p_text
from chainrob.plotting import heat_map, intervals, new_figure
from chainrob.statistics import bootstrap_interval

__all__ = ["compare_sections"]


def compare_sections(results: CompareResults, record: dict[str, Any]) -> list[Section]:
    """Best settings, ranks, heat maps, and how it was run."""
    sections = [_best(results), _worst_case(results)]
    if results.ranking() is not None:
        sections.append(_ranks(results))
    each = Text(
        "Test errors at each robustifier's learning rate (in brackets), means over seeds, below "
        "them 95% intervals."
    )
    sections.append(Section("Every contamination of every data set", [each]))
    sections += [_data_set(results, i) for i in range(len(results.settings.data))]
    rows = [[key, _listed(value)] for key, value in record.items()]
    text = Text(
        "Every random number follows from the seed; a second run gives the same errors.csv, bit by "
        "bit. All intervals are bootstrap intervals over seeds, by percentiles expanded for few "
        "seeds."
    )
    return [*sections, Section("How this was run", [text, Table(["what", "value"], rows)])]


def _listed(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _best(results: CompareResults) -> Section:
    rows = []
    ends = {min(results.settings.learning_rates), max(results.settings.learning_rates)}
    for data, one in results.best().items():
        rate = "each data set's own"
        if not np.isnan(one.learning_rate):
            at_an_end = one.learning_rate in ends and len(ends) > 1
            rate = f"{one.learning_rate:g}" + (", at the end of the range" if at_an_end else "")
        shown = f"{one.test_error:.3f}"
        if one.interval is not None:
            shown += f" [{one.interval[0]:.3f}, {one.interval[1]:.3f}]"
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
                "error over the contaminations is least. The error is that on test data under the "
                f"contamination that is worst for it there: mean and 95% interval over {s.seeds} "
                "seeds. 'all': the least average rank of these worst cases over the data sets, and "
                "the average of its errors. Errors are shares of misclassified points, or 1 - R^2 "
                f"for a regression (cut off at {ERROR_LIMIT:g}); 1 or the cut-off is a network "
                "that diverged."
            ),
            Table(["data", "robustifier", "learning rate", "worst contamination", "error"], rows),
            Text(f"What the names stand for in batches of {s.batch}:"),
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
    best = order[0]
    rows = [
        [f"`{s.robustifiers[j]}`", f"{ranking.ranks[j]:.2f}",
         "" if j == best else p_text(ranking.pairwise[best, j])]
        for j in order
    ]  # fmt: skip
    text = (
        f"Average ranks over the {len(s.data) * len(s.contaminations)} pairs of data set and "
        "contamination (seeds averaged; 1 is the best). "
    )
    if len(s.data) == 1:
        text += "Of one data set nothing follows for others, so there is no test."
        columns, rows = ["robustifier", "average rank"], [row[:2] for row in rows]
        return Section("Ranks", [Text(text), Table(columns, rows)])
    text += (
        "The contaminations of one data set share its points, so the tests permute whole data "
        "sets: all are alike with "
        f"{p_text(ranking.p_value)} (Friedman's statistic), and two average ranks differ at 5% if "
        f"they are more than {ranking.critical_difference:.2f} apart (the largest difference by "
        f"chance, for all pairs together). {len(s.data)} data sets are few: what is not shown to "
        "differ may differ still."
    )
    with new_figure(7.0, 1.2 + 0.28 * len(order)) as figure:
        ax = figure.subplots()
        ranks = ranking.ranks[order]
        half = ranking.critical_difference / 2
        ends = np.stack([ranks - half, ranks + half])
        intervals(ranks, ends, [s.robustifiers[j] for j in order], ax=ax)
        ax.set(xlabel="average rank ± half the critical difference")
    return Section(
        "Ranks",
        [
            Text(text),
            Table(["robustifier", "average rank", "against the first"], rows),
            Image("ranks", figure, "Average ranks; those whose bars overlap are not shown to "
                  "differ"),
        ],
    )  # fmt: skip


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
