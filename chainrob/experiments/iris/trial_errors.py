"""The errors of a run of the Iris experiment, and their CSV file."""

from __future__ import annotations

import csv
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chainrob.experiments.iris.protocol import IrisSettings
from chainrob.experiments.iris.published import published_figure4
from chainrob.experiments.tables import write_csv
from chainrob.experiments.usage import UsageError
from chainrob.statistics import bootstrap_interval

__all__ = ["COLUMNS", "IrisResults"]

COLUMNS = ("method", "trial", "iteration", "cost_in_gradients", "train_error", "test_error")


@dataclass(frozen=True, eq=False)
class IrisResults:
    """Errors of all methods and trials.

    Args:
        settings: The settings of the run.
        errors: For each method an array (trials, recorded times, 2): training and test error
            after ``settings.recorded`` updates.
    """

    settings: IrisSettings
    errors: dict[str, NDArray[np.float64]]

    @property
    def costs(self) -> NDArray[np.int64]:
        """Cost at the recorded times: an update takes one gradient of every training point."""
        return np.array(self.settings.recorded) * self.settings.n_train

    def write_csv(self, path: str | os.PathLike[str]) -> None:
        """Write one row per method, trial and recorded time. Equal results give equal bytes."""
        write_csv(
            path,
            COLUMNS,
            (
                (method, trial, time, time * self.settings.n_train, train, test)
                for method, errors in self.errors.items()
                for trial, curve in enumerate(errors.tolist())
                for time, (train, test) in zip(self.settings.recorded, curve, strict=True)
            ),
        )

    @classmethod
    def read_csv(cls, path: str | os.PathLike[str], settings: IrisSettings) -> IrisResults:
        """Read what ``write_csv`` wrote with the same settings.

        Raises:
            UsageError: If the file cannot be read, or does not hold exactly these rows.
        """
        recorded = settings.recorded
        shape = (settings.trials, len(recorded), 2)
        errors = {method: np.full(shape, np.nan) for method in settings.methods()}
        column = {time: index for index, time in enumerate(recorded)}
        count = 0
        try:
            with Path(path).open(newline="") as file:
                for row in csv.DictReader(file):
                    place = int(row["trial"]), column[int(row["iteration"])]
                    errors[row["method"]][place] = row["train_error"], row["test_error"]
                    count += 1
        except (OSError, KeyError, ValueError, IndexError, TypeError) as error:
            raise UsageError(f"cannot resume: {os.fspath(path)} is damaged ({error!r})") from error
        whole = all(np.isfinite(found).all() for found in errors.values())
        if not whole or count != len(errors) * settings.trials * len(recorded):
            raise UsageError(f"cannot resume: {os.fspath(path)} does not hold every row once")
        return cls(settings, errors)

    def final(self) -> dict[str, Any]:
        """Test errors after the last update: mean, interval and the published value, by method.

        ``published`` is None unless the settings are the published ones.

        ``interval`` is the 95% percentile bootstrap interval of the mean over trials. It is None
        for a single trial, because one trial does not show the scatter.
        """
        published, shown = published_figure4(), self.settings.is_published()
        final: dict[str, Any] = {}
        for method, errors in self.errors.items():
            last = errors[:, -1, 1]
            interval = bootstrap_interval(last).tolist() if len(last) > 1 else None
            final[method] = {
                "mean": float(last.mean()),
                "interval": interval,
                "published": float(published[method, "test"].error[-1]) if shown else None,
                "trials_that_diverged": int((last == 1).sum()),
            }
        return final

    def last_line(self) -> str:
        """The result in one line."""
        parts = []
        for method, final in self.final().items():
            low, high = final["interval"] or (np.nan, np.nan)
            interval = "" if final["interval"] is None else f" [{low:.3f}, {high:.3f}]"
            known = final["published"]
            beside = "" if known is None else f" (published {known:.3f})"
            parts.append(f"{method} {final['mean']:.3f}{interval}{beside}")
        trials = self.settings.trials
        over = "1 trial" if trials == 1 else f"{trials} trials, 95% bootstrap intervals of the mean"
        return (
            f"test error after {self.settings.iterations} iterations ({over}): {', '.join(parts)}"
        )
