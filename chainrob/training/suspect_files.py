"""The ranked samples as a table and as a figure."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING

from chainrob.aggregation.weight_averages import WeightAverages

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw_suspects", "suspect_table"]

_UNIT = "weight / lower quartile of its batch"


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


def draw_suspects(averages: WeightAverages, top: int = 15) -> Figure:
    """The relative weights of all samples in rank order, and the ``top`` most suspect ones."""
    # Imported here, so that training without figures need not wait for it.
    from matplotlib.figure import Figure

    from chainrob.plotting import most_suspect, suspects  # slow: it imports SciPy's statistics

    ranking, relative = averages.ranking(), averages.relative()
    figure = Figure(figsize=(8.0, 3.4), layout="constrained")
    overview, bars = figure.subplots(1, 2, width_ratios=(3, 2))
    layers = {name: averages.relative(name) for name in averages.layers}
    several = layers if len(layers) > 1 else None
    suspects(relative, ranking=ranking, layers=several, ax=overview)
    overview.set(title="all samples", ylabel=_UNIT)
    overview.legend(frameon=False, fontsize="small")
    most_suspect(relative, ranking=ranking, top=top, ax=bars)
    bars.set(title="the most suspect", xlabel=_UNIT, ylabel="index in the dataset")
    return figure
