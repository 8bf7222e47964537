"""The ranked samples as a table and as a figure."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING

from chainrob.aggregation.observers import RankBy
from chainrob.aggregation.weight_averages import WeightAverages

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw_suspects", "suspect_table"]

_MEASURES: dict[RankBy, str] = {"weight": "weight", "suspicion": "(1 \N{MINUS SIGN} suspicion)"}


def suspect_table(averages: WeightAverages) -> str:
    """All samples as CSV, the most suspect first.

    The columns are rank, index, relative weight, weight, number of updates, and the weight in each
    layer.
    """
    stream = io.StringIO()
    table = csv.writer(stream, lineterminator="\n")
    table.writerow(["rank", "index", "relative_weight", "weight", "updates", *averages.layers])
    counts, relative = averages.counts(), averages.relative()
    columns = [averages.weights(), *(averages.weights(name) for name in averages.layers)]
    for rank, index in enumerate(averages.ranking(), start=1):
        weight, *by_layer = (f"{column[index]:.6g}" for column in columns)
        shown = f"{relative[index]:.6g}"
        table.writerow([rank, int(index), shown, weight, int(counts[index]), *by_layer])
    return stream.getvalue()


def draw_suspects(averages: WeightAverages, rank_by: RankBy = "weight", top: int = 15) -> Figure:
    """The relative weights of all samples in rank order, and the ``top`` most suspect ones."""
    # Imported here, so that training without figures need not wait for it.
    from matplotlib.figure import Figure

    from chainrob.plotting import most_suspect, suspects  # slow: it imports SciPy's statistics

    measure = f"{_MEASURES[rank_by]} / lower quartile of its batch"
    ranking, relative = averages.ranking(), averages.relative()
    figure = Figure(figsize=(8.0, 3.4), layout="constrained")
    overview, bars = figure.subplots(1, 2, width_ratios=(3, 2))
    layers = {name: averages.relative(name) for name in averages.layers}
    several = layers if len(layers) > 1 else None
    suspects(relative, ranking=ranking, layers=several, measure=measure, ax=overview)
    overview.set(title="all samples")
    overview.legend(frameon=False, fontsize="small")
    most_suspect(relative, ranking=ranking, top=top, measure=measure, ax=bars)
    bars.set(title="the most suspect", ylabel="index in the dataset")
    return figure
