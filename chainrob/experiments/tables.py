"""Rows of results as CSV."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Sequence
from typing import Any

from chainrob.experiments.files import write_bytes

__all__ = ["write_csv"]


def write_csv(
    path: str | os.PathLike[str], columns: Sequence[str], rows: Iterable[Sequence[Any]]
) -> None:
    r"""Write a table atomically; equal rows give equal bytes.

    Example:
        >>> import pathlib, tempfile
        >>> from chainrob.experiments.tables import write_csv
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "a.csv"
        >>> write_csv(path, ["x", "y"], [(1, 0.5)])
        >>> path.read_text()
        'x,y\n1,0.5\n'
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    write_bytes(path, text.getvalue().encode())
