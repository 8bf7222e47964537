"""Progress of a long run, on standard error: a bar on a terminal, lines in a pipe or a file."""

from __future__ import annotations

import sys
import time
from typing import Any

from tqdm import tqdm

__all__ = ["LineProgress", "progress_bar", "skip"]

SECONDS = 60.0
"""Time between two lines if the user did not ask for progress."""

SECONDS_IF_ASKED = 10.0
"""Time between two lines with ``--progress``."""


class LineProgress:
    """A substitute for tqdm, with the methods that runs use. It prints a line now and then.

    Args:
        total: How many units there are.
        unit: What is counted, in the singular.
        seconds: Time between two lines, and before the first one.
        last: Whether to print a line at the end too.
    """

    disable = False

    def __init__(self, total: int, unit: str, seconds: float, *, last: bool) -> None:
        self.total = total
        self.unit = unit
        self.seconds = seconds
        self.last = last
        self.n: float = 0
        self.initial: float = 0
        self._begun = time.monotonic()
        self._next = self._begun + seconds

    def __enter__(self) -> LineProgress:
        return self

    def __exit__(self, *error: Any) -> None:
        if self.last:
            self._print(time.monotonic())

    def update(self, n: float = 1) -> None:
        """Count ``n`` more units, and print a line if it is time for one."""
        self.n += n
        now = time.monotonic()
        if now >= self._next and self.n < self.total:
            self._next = now + self.seconds
            self._print(now)

    def refresh(self) -> None:
        """Do nothing: there is no bar to draw again."""

    def _print(self, now: float) -> None:
        elapsed, done = now - self._begun, self.n - self.initial
        share = f"{self.n:,.0f}/{self.total:,} {self.unit}s ({self.n / max(self.total, 1):.0%})"
        text = f"{share} in {tqdm.format_interval(elapsed)}"
        if done > 0 and self.n < self.total:
            left = elapsed / done * (self.total - self.n)
            text += f", about {tqdm.format_interval(left)} left"
        print(text, file=sys.stderr, flush=True)


def progress_bar(total: int, unit: str, show: bool | None = None) -> Any:
    """A bar with the remaining time, on standard error; without a terminal, lines instead.

    Args:
        total: How many units there are.
        unit: What is counted, in the singular.
        show: True shows the progress, False does not. None shows a bar on a terminal, and in a
            pipe or a file one line per minute.

    Returns:
        tqdm.tqdm or LineProgress: A context manager with ``update(n)``.

    Example:
        >>> from chainrob.experiments.progress import progress_bar
        >>> with progress_bar(3, "trial", show=False) as bar:
        ...     _ = bar.update(3)
    """
    if show is not False and not sys.stderr.isatty():
        seconds = SECONDS_IF_ASKED if show else SECONDS
        return LineProgress(total, unit, seconds, last=bool(show))
    return tqdm(
        total=total,
        unit=f" {unit}",
        unit_scale=total >= 10_000,
        disable=show is False,
        file=sys.stderr,
        dynamic_ncols=True,
    )


def skip(bar: Any, n: float) -> None:
    """Count ``n`` units that an earlier run finished. They do not enter the remaining time."""
    if not bar.disable:
        bar.n += n
        bar.initial += n
        bar.refresh()
