"""The ranked samples as a table and as a figure."""

from __future__ import annotations

import csv
import io

import numpy as np
from matplotlib.figure import Figure

from chainrob.training.tally import WeightTally

__all__ = ["draw_suspects", "suspect_table"]


def suspect_table(tally: WeightTally) -> str:
    """All samples as CSV, the most suspect first.

    The columns are rank, index, relative weight, weight, number of updates, and the weight in each
    layer.
    """
    stream = io.StringIO()
    table = csv.writer(stream, lineterminator="\n")
    table.writerow(["rank", "index", "relative_weight", "weight", "updates", *tally.layers])
    counts, relative = tally.counts(), tally.relative()
    columns = [tally.weights(), *(tally.weights(name) for name in tally.layers)]
    for rank, index in enumerate(tally.ranking(), start=1):
        weight, *by_layer = (f"{column[index]:.6g}" for column in columns)
        shown = f"{relative[index]:.6g}"
        table.writerow([rank, int(index), shown, weight, int(counts[index]), *by_layer])
    return stream.getvalue()


def draw_suspects(tally: WeightTally, top: int = 15) -> Figure:
    """The relative weights of all samples in rank order, and the ``top`` most suspect ones."""
    ranking, relative = tally.ranking(), tally.relative()
    figure = Figure(figsize=(8.0, 3.4), layout="constrained")
    overview, bars = figure.subplots(1, 2, width_ratios=(3, 2))
    ranks = np.arange(1, len(ranking) + 1)
    if len(tally.layers) > 1:
        for name in tally.layers:
            overview.plot(ranks, tally.relative(name)[ranking], ".", ms=2.5, alpha=0.5, label=name)
    overview.plot(ranks, relative[ranking], color="black", lw=1.6, label="mean over layers")
    overview.set(xlabel="rank", ylabel="weight / lower quartile of its batch", xscale="log")
    overview.set_ylim(0, 1.05)
    overview.set_title("all samples", fontsize="medium")
    overview.legend(frameon=False, fontsize="small")
    worst = ranking[:top]
    bars.barh(np.arange(len(worst)), relative[worst], color="#D55E00")
    bars.set_yticks(np.arange(len(worst)), [str(index) for index in worst], fontsize="small")
    bars.invert_yaxis()
    bars.set(xlabel="weight / lower quartile of its batch", ylabel="index in the dataset")
    bars.set_title(f"the {len(worst)} most suspect", fontsize="medium")
    return figure
