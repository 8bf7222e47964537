"""The engine of all experiments: one run with its folder, resuming, progress, jobs and record."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from chainrob.experiments.devices import get_device
from chainrob.experiments.files import prepare_folder
from chainrob.experiments.jobs import Job, check_workers, run_jobs
from chainrob.experiments.partial import PartialResults
from chainrob.experiments.progress import progress_bar
from chainrob.experiments.report.document import Section, Table, Text
from chainrob.experiments.versions import blas, machine, versions

__all__ = ["Run", "flat_record"]


class Run:
    """One run. It saves finished parts, shows the progress, and records how it was made.

    Args:
        settings: What the results depend on, in values that JSON can hold.
        out: Folder for the files; None writes none.
        device: ``'@numpy'`` or ``'@cupy:N'``.
        workers: Number of processes; None is one per processor. A GPU has one process.
        resume: Use the parts that an earlier run in ``out`` finished.
        progress: Show the progress. None shows a bar on a terminal, else a line per minute.

    Raises:
        UsageError: If the device or the folder cannot be used, the number of workers is not
            positive, or ``resume`` finds other settings.

    Example:
        >>> import numpy as np
        >>> from chainrob.experiments.engine import Run
        >>> from chainrob.experiments.jobs import Job
        >>> run = Run({"seed": 0})
        >>> run.compute(np.arange, [Job("two", (2,))], "part")["two"].tolist()
        [0, 1]
        >>> run.record()["workers"]
        1
    """

    def __init__(
        self,
        settings: Mapping[str, Any],
        out: str | os.PathLike[str] | None = None,
        *,
        device: str = "@numpy",
        workers: int | None = 1,
        resume: bool = False,
        progress: bool | None = None,
    ) -> None:
        self._begun = time.monotonic()
        self.device = get_device(device)
        workers = check_workers(workers)
        self._made = {"settings": dict(settings), "device": device, "versions": versions()}
        self._workers = workers if device == "@numpy" else 1
        self._progress = progress
        self.folder = None if out is None else prepare_folder(out)
        self.kept = None
        self._found_before = 0
        if self.folder is not None:
            self.kept = PartialResults(self.folder, flat_record(self._made), resume=resume)
            self._found_before = self.kept.count()

    def compute(
        self,
        function: Callable[..., NDArray[Any]],
        jobs: Sequence[Job],
        unit: str,
        *,
        stepwise: bool = False,
    ) -> dict[str, NDArray[Any]]:
        """The results of all jobs by name; see ``run_jobs``.

        Args:
            function: The function that computes a job.
            jobs: The jobs.
            unit: Name of the unit of the progress. A job counts as ``job.size`` units.
            stepwise: Compute in this process. The function advances the bar itself, with its
                keyword ``advance``.
        """
        total = round(sum(job.size for job in jobs))
        workers = 1 if stepwise else self._workers
        with progress_bar(total, unit, self._progress) as bar:
            return run_jobs(
                function, jobs, kept=self.kept, workers=workers, bar=bar, stepwise=stepwise
            )

    def record(self) -> dict[str, Any]:
        """Settings, device, workers, versions, processor, BLAS kernels and duration, for JSON."""
        return {
            **self._made,
            "workers": self._workers,
            "machine": machine(),
            "blas": blas(),
            "seconds": round(time.monotonic() - self._begun, 1),
            "parts from an earlier run": self._found_before,
        }

    def section(self, record: Mapping[str, Any], text: str = "") -> Section:
        """``How this was run``, from what ``record`` returned."""
        rows: list[tuple[str, Any]] = [
            *((f"setting: {name}", value) for name, value in record["settings"].items()),
            *((f"version: {name}", value) for name, value in record["versions"].items()),
            ("device", record["device"]),
            ("workers", record["workers"]),
            ("processor", record["machine"]),
            ("BLAS", "; ".join(record["blas"])),
            ("duration of this run, in seconds", record["seconds"]),
            ("parts from an earlier run", record["parts from an earlier run"]),
        ]
        said = (
            "Every random number follows from the seed. On the same BLAS kernel a second run gives "
            "the same CSV files, bit by bit. On another processor BLAS rounds differently, and "
            "trials drift apart. All intervals are percentile bootstrap intervals. For few trials "
            "they are widened."
        )
        cells = [
            [name, ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)]
            for name, value in rows
        ]
        whole = Text(f"{said} {text}".strip())
        return Section("How this was run", [whole, Table(["what", "value"], cells)])


def flat_record(record: Mapping[str, Any]) -> dict[str, Any]:
    """Settings, device and versions as one level of names, for messages about what changed."""
    named = {f"version of {name}": version for name, version in record["versions"].items()}
    return {**record["settings"], "device": record["device"], **named}
