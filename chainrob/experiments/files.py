"""The files of a run: folders, JSON and figures. A file is written completely or not at all."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chainrob.atomic_files import atomic_path
from chainrob.experiments.usage import UsageError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["atomic_path", "prepare_folder", "read_json", "save_figure", "write_bytes", "write_json"]


def prepare_folder(folder: str | os.PathLike[str]) -> Path:
    """Create a folder for results, and check that files can be written there.

    Raises:
        UsageError: If the folder cannot be created or files cannot be written in it.
    """
    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise UsageError(f"cannot write to the folder {path}: {error.strerror}") from error
    return path


def write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def write_json(path: str | os.PathLike[str], content: Any) -> None:
    """Write JSON atomically, indented, with a newline at the end."""
    write_bytes(path, (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode())


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read JSON.

    Raises:
        UsageError: If the file cannot be read or is not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{os.fspath(path)} cannot be read: {error}") from error


def save_figure(figure: Figure, path_without_suffix: str | os.PathLike[str]) -> None:
    """Save a figure as PNG and as PDF, atomically and without a date."""
    for suffix, metadata in (("png", {}), ("pdf", {"CreationDate": None})):
        with atomic_path(f"{os.fspath(path_without_suffix)}.{suffix}") as temporary:
            figure.savefig(temporary, dpi=160, metadata=metadata)
