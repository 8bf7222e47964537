"""The ranked samples as a table and as a figure."""

from __future__ import annotations

import csv
import io

import numpy as np
from matplotlib.figure import Figure

from chainrob.training.tally import WeightTally

__all__ = ["draw_suspects", "suspect_table"]


def suspect_table(tally: WeightTally) -> str:
    """All samples as CSV, the most suspect first: rank, index, weight, updates, weight a layer."""
    stream = io.StringIO()
    table = csv.writer(stream, lineterminator="\n")
    table.writerow(["rank", "index", "weight", "updates", *tally.layers])
    weights, counts = tally.weights(), tally.counts()
    by_layer = [tally.layer_weights(name) for name in tally.layers]
    for rank, index in enumerate(tally.ranking(), start=1):
        numbers = [weights[index], *(column[index] for column in by_layer)]
        shown = [f"{number:.6g}" for number in numbers]
        table.writerow([rank, int(index), shown[0], int(counts[index]), *shown[1:]])
    return stream.getvalue()


def draw_suspects(tally: WeightTally, top: int = 15) -> Figure:
    """The weights of all samples in rank order, and those of the ``top`` most suspect ones."""
    ranking, weights = tally.ranking(), tally.weights()
    figure = Figure(figsize=(8.0, 3.4), layout="constrained")
    overview, bars = figure.subplots(1, 2, width_ratios=(3, 2))
    ranks = np.arange(1, len(ranking) + 1)
    if len(tally.layers) > 1:
        for name in tally.layers:
            overview.plot(
                ranks, tally.layer_weights(name)[ranking], ".", ms=2.5, alpha=0.5, label=name
            )
    overview.plot(ranks, weights[ranking], color="black", lw=1.6, label="mean over layers")
    overview.axhline(1.0, color="grey", lw=0.8, ls=":")
    overview.set(xlabel="rank", ylabel="mean effective weight", xscale="log")
    overview.set_ylim(bottom=0)
    overview.set_title("all samples (dotted: weight in a plain mean)", fontsize="medium")
    overview.legend(frameon=False, fontsize="small")
    worst = ranking[:top]
    bars.barh(np.arange(len(worst)), weights[worst], color="#D55E00")
    bars.set_yticks(np.arange(len(worst)), [str(index) for index in worst], fontsize="small")
    bars.invert_yaxis()
    bars.set(xlabel="mean effective weight", ylabel="index in the dataset")
    bars.set_title(f"the {len(worst)} most suspect", fontsize="medium")
    return figure
