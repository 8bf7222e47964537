"""The errors of a comparison: chosen learning rates, ranks, and the best for the worst attack."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from chainrob.experiments.compare.settings import CompareSettings
from chainrob.experiments.tables import write_csv
from chainrob.statistics import Ranking, bootstrap_interval, rank_methods

__all__ = ["Best", "CompareResults"]

Array = NDArray[np.float64]

COLUMNS = (
    "data", "robustifier", "contamination", "seed", "learning_rate",
    "validation_error", "test_error",
)  # fmt: skip


class Best(NamedTuple):
    """The setting that is best under the contamination that is worst for it."""

    robustifier: str
    learning_rate: float
    worst_contamination: str
    test_error: float
    interval: tuple[float, float] | None


@dataclass(frozen=True, eq=False)
class CompareResults:
    """All errors.

    Args:
        settings: What they were made with.
        errors: Shape (data sets, robustifiers, seeds, contaminations, learning rates, 2):
            validation and test error.
    """

    settings: CompareSettings
    errors: Array

    def write_csv(self, path: str | os.PathLike[str]) -> None:
        """One row a data set, robustifier, contamination, seed and learning rate."""
        s = self.settings
        rows = (
            (
                s.data[i], s.robustifiers[j], s.contaminations[c], k, s.learning_rates[m],
                *self.errors[i, j, k, c, m].tolist(),
            )
            for i, j, c, k, m in np.ndindex(
                len(s.data), len(s.robustifiers), len(s.contaminations), s.seeds,
                len(s.learning_rates),
            )
        )  # fmt: skip
        write_csv(path, COLUMNS, rows)

    def chosen_rates(self) -> NDArray[np.int64]:
        """Index of the rate with the least worst-case validation error, (data, robustifiers)."""
        worst = self.errors[..., 0].mean(axis=2).max(axis=2)
        chosen: NDArray[np.int64] = worst.argmin(axis=-1)
        return chosen

    def chosen(self, part: int = 1) -> Array:
        """Errors at the chosen rates, (data, robustifiers, seeds, contaminations); 1 is test."""
        index = self.chosen_rates()[:, :, None, None, None]
        picked: Array = np.take_along_axis(self.errors[..., part], index, axis=-1)[..., 0]
        return picked

    def ranking(self) -> Ranking | None:
        """Ranks over all pairs of data set and contamination, seeds averaged; None if too few.

        The contaminations of one data set are not independent problems, so the tests permute whole
        data sets.
        """
        means = self.chosen().mean(axis=2)
        problems = means.transpose(0, 2, 1).reshape(-1, means.shape[1])
        if min(problems.shape) < 2:
            return None
        groups = np.repeat(np.arange(len(means)), means.shape[2])
        return rank_methods(problems, groups=groups)

    def best(self) -> dict[str, Best]:
        """For each data set, and for ``all``, the best setting under its worst contamination.

        It is chosen by validation errors and judged by test errors. For ``all`` it is the setting
        whose worst-case validation error has the least average rank over the data sets; its
        learning rate is each data set's own, so none is named, and its error is the average.
        """
        s = self.settings
        test, rates = self.chosen(), self.chosen_rates()
        worst = self.chosen(0).mean(axis=2).max(axis=-1)
        found = {}
        for i, data in enumerate(s.data):
            found[data] = self._judged([i], int(worst[i].argmin()), test, rates)
        if len(s.data) > 1:
            ranks = stats.rankdata(worst, axis=1).mean(axis=0)
            found["all"] = self._judged(list(range(len(s.data))), int(ranks.argmin()), test, rates)
        return found

    def _judged(self, data: list[int], j: int, test: Array, rates: Any) -> Best:
        s = self.settings
        at = [int(test[i, j].mean(axis=0).argmax()) for i in data]
        seeds = np.mean([test[i, j, :, c] for i, c in zip(data, at, strict=True)], axis=0)
        names = ", ".join(dict.fromkeys(s.contaminations[c] for c in at))
        ends = bootstrap_interval(seeds).tolist() if len(seeds) > 1 else None
        rate = s.learning_rates[rates[data[0], j]] if len(data) == 1 else float("nan")
        interval = None if ends is None else (ends[0], ends[1])
        return Best(s.robustifiers[j], rate, names, float(seeds.mean()), interval)
