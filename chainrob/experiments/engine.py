"""The engine of all experiments: one run with its folder, resuming, progress, jobs and record."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from numpy.typing import NDArray
from tqdm import tqdm

from chainrob.experiments.devices import get_device
from chainrob.experiments.files import prepare_folder
from chainrob.experiments.jobs import Job, check_workers, run_jobs
from chainrob.experiments.partial import PartialResults
from chainrob.experiments.report.document import Section, Table, Text
from chainrob.experiments.versions import blas, machine, versions

__all__ = ["Run", "flat_record", "progress_bar"]


class Run:
    """One run: it keeps what is finished, shows how far it is, and says how it was made.

    Args:
        settings: What the results depend on, as JSON can hold it.
        out: Folder for the files; None writes none.
        device: ``'@numpy'`` or ``'@cupy:N'``.
        workers: Processes; None is one a processor. A GPU is used by one.
        resume: Take over what an earlier run in ``out`` finished.
        progress: Show a progress bar; None shows it on a terminal.

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
            function: What a job's arguments are for.
            jobs: The work.
            unit: What the progress bar counts, a job being ``job.size`` of it.
            stepwise: Compute here and not in other processes, and let the function itself advance
                the bar: it gets the keyword ``advance``.
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
            ("parts taken over from an earlier run", record["parts from an earlier run"]),
        ]
        said = (
            "Every random number follows from the seed. A second run gives the same CSV files, bit "
            "by bit, on the same BLAS kernel: other processors make BLAS round otherwise, and "
            "trials part from there. All intervals are bootstrap intervals, by percentiles "
            "expanded for few trials."
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


def progress_bar(total: int, unit: str, show: bool | None = None) -> tqdm:
    """A bar with the remaining time, on standard error.

    Args:
        total: How many units there are.
        unit: What is counted.
        show: Whether to show it; None shows it if standard error is a terminal.

    Returns:
        tqdm.tqdm: A context manager with ``update(n)``.

    Example:
        >>> from chainrob.experiments.engine import progress_bar
        >>> with progress_bar(3, "trial", show=False) as bar:
        ...     _ = bar.update(3)
    """
    visible = sys.stderr.isatty() if show is None else show
    return tqdm(
        total=total,
        unit=f" {unit}",
        unit_scale=total >= 10_000,
        disable=not visible,
        file=sys.stderr,
        dynamic_ncols=True,
    )
