"""A progress bar with the remaining time, on a terminal or when asked for."""

from __future__ import annotations

import sys

from tqdm import tqdm

__all__ = ["progress_bar"]


def progress_bar(total: int, unit: str, show: bool | None = None) -> tqdm:
    """A tqdm bar on standard error.

    Args:
        total (int): How many units there are.
        unit (str): What is counted.
        show (bool or None): Whether to show it; None shows it if standard error is a terminal.

    Returns:
        tqdm.tqdm: A context manager with ``update(n)`` and ``set_description``.

    Example:
        >>> from chainrob.experiments.progress import progress_bar
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
