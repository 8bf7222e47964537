"""The results of a comparison: chosen candidates, ranks, and where robust gradients pay."""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from chainrob.experiments.compare.comparison_settings import CompareSettings
from chainrob.experiments.compare.data_sources import parse_data
from chainrob.experiments.compare.methods import candidates, method_of
from chainrob.experiments.tables import write_csv
from chainrob.statistics import Ranking, bootstrap_interval, rank_methods

__all__ = ["Case", "CompareResults", "Outcome", "mean_and_interval"]

Array = NDArray[np.float64]
Outcome = Literal["pay", "as well", "harm"]

ROBUST = ("robust gradients", "both")
WITHOUT = ("plain", "one line", "linear fit")

COLUMNS = (
    "data", "method", "contamination", "seed", "parameter", "learning_rate", "validation_score",
    "test_error",
)  # fmt: skip


class Case(NamedTuple):
    """One data set under one contamination: the best of each side, chosen on validation points."""

    data: str
    contamination: str
    robust: Array
    """Test errors by seed of the method chosen among those with robust gradients."""
    baseline: Array
    """Test errors by seed of the method chosen among those without robust gradients."""
    plain: Array
    """Test errors by seed of the plain mean at its best rate."""
    favorite: str
    """The method chosen most often among all methods."""
    outcome: Outcome


@dataclass(frozen=True, eq=False)
class CompareResults:
    """All scores.

    Args:
        settings: The settings of the comparison.
        cells: For each data set an array (methods, seeds, contaminations, candidates, 3):
            validation score, test error and processor seconds of a model.
    """

    settings: CompareSettings
    cells: dict[str, Array]

    def write_csv(self, path: str | os.PathLike[str]) -> None:
        """Write one row per model. Times are left out, so equal settings give equal bytes."""
        s = self.settings
        rows = []
        for data, scores in self.cells.items():
            texts, methods = s.contaminations_of(data), s.methods_of(data)
            for i, method in enumerate(methods):
                tried = candidates(method_of(method), s.learning_rates)
                for k, c, j in np.ndindex(scores.shape[1:4]):
                    one = tried[j]
                    head = (data, method, texts[c], s.seed + k, one.value, one.rate)
                    rows.append((*head, *scores[i, k, c, j, :2].tolist()))
        write_csv(path, COLUMNS, rows)

    def chosen(self, data: str) -> Array:
        """Test errors (methods, seeds, contaminations) of the candidate with the best validation
        score, chosen for each seed and contamination.
        """
        scores = self.cells[data]
        best = scores[..., 0].argmin(axis=-1)[..., None]
        picked: Array = np.take_along_axis(scores[..., 1], best, axis=-1)[..., 0]
        return picked

    def best_of(self, data: str, families: Collection[str]) -> tuple[Array, NDArray[np.int64]]:
        """Choose the method with the best validation score among some families.

        Returns:
            tuple: The test errors (seeds, contaminations) of the chosen methods, and the numbers of
            these methods.
        """
        names = self.settings.methods_of(data)
        rows = np.array([i for i, n in enumerate(names) if method_of(n).family in families])
        validation = self.cells[data][rows, ..., 0].min(axis=-1)
        at = validation.argmin(axis=0)
        errors: Array = np.take_along_axis(self.chosen(data)[rows], at[None], axis=0)[0]
        return errors, rows[at]

    def families(self, data: str) -> set[str]:
        """Families of the methods that a data set is trained with."""
        return {method_of(name).family for name in self.settings.methods_of(data)}

    @cached_property
    def cases(self) -> list[Case]:
        """All pairs of data set and contamination. Data sets need methods on both sides.

        Robust gradients pay, or harm, if the 95% interval over seeds of the paired difference from
        the best method without them lies on one side of 0.
        """
        found = []
        for data in self.settings.data:
            families, names = self.families(data), self.settings.methods_of(data)
            if not families & set(ROBUST) or "plain mean" not in names:
                continue
            robust, _ = self.best_of(data, ROBUST)
            baseline, _ = self.best_of(data, WITHOUT)
            _, which = self.best_of(data, (*ROBUST, *WITHOUT))
            plain = self.chosen(data)[names.index("plain mean")]
            for c, text in enumerate(self.settings.contaminations_of(data)):
                low, high = _interval(robust[:, c] - baseline[:, c])
                outcome: Outcome = "pay" if high < 0 else "harm" if low > 0 else "as well"
                favorite = names[int(np.bincount(which[:, c]).argmax())]
                found.append(
                    Case(data, text, robust[:, c], baseline[:, c], plain[:, c], favorite, outcome)
                )
        return found

    def excess(self, data: str) -> Array:
        """Test errors minus that of the plain mean on clean data with the same seed.

        The shape is that of ``chosen``. If the settings lack ``plain mean`` or ``none``, nothing is
        subtracted.
        """
        errors, names = self.chosen(data), self.settings.methods_of(data)
        texts = self.settings.contaminations_of(data)
        if "plain mean" not in names or "none" not in texts:
            return errors
        base: Array = errors[names.index("plain mean"), :, texts.index("none")]
        return errors - base[None, :, None]

    def common_methods(self) -> tuple[str, ...]:
        """Methods that all data sets are trained with."""
        first, *others = (self.settings.methods_of(data) for data in self.settings.data)
        return tuple(name for name in first if all(name in other for other in others))

    def ranking(self) -> Ranking | None:
        """Ranks of the common methods over all pairs of data set and contamination.

        Seeds are averaged. The contaminations of one data set are not independent problems, so the
        tests permute whole data sets. None if there are fewer than two methods or two pairs.
        """
        names = self.common_methods()
        tables, groups = [], []
        for number, data in enumerate(self.settings.data):
            at = [self.settings.methods_of(data).index(name) for name in names]
            means = self.chosen(data)[at].mean(axis=1).T
            tables.append(means)
            groups += [number] * len(means)
        table = np.concatenate(tables)
        return None if min(table.shape) < 2 else rank_methods(table, groups)

    def seconds(self, data: str) -> Array:
        """Processor seconds for one model, (methods,): the median over seeds and contaminations."""
        found: Array = np.median(self.cells[data][..., 2], axis=(1, 2, 3))
        return found

    def tasks(self) -> dict[str, list[str]]:
        """Data sets by task."""
        by_task: dict[str, list[str]] = {}
        for data in self.settings.data:
            task = "classification" if parse_data(data).classification else "regression"
            by_task.setdefault(task, []).append(data)
        return by_task


def _interval(values: Array) -> tuple[float, float]:
    """The 95% interval of a mean over seeds. For a single seed it is the whole real line."""
    if len(values) < 2:
        return -np.inf, np.inf
    low, high = bootstrap_interval(values)
    return float(low), float(high)


def mean_and_interval(values: Array, scale: float = 1.0, digits: int = 3) -> str:
    """Mean and 95% interval over the first axis, as text; the mean alone for a single seed."""
    mean = f"{scale * values.mean():.{digits}f}"
    if len(values) < 2:
        return mean
    low, high = _interval(values)
    return f"{mean} [{scale * low:.{digits}f}, {scale * high:.{digits}f}]"
