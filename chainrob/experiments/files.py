"""Files that are there whole or not at all."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chainrob.experiments.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["atomic_path", "prepare_folder", "read_json", "save_figure", "write_bytes", "write_json"]


def prepare_folder(folder: str | os.PathLike[str]) -> Path:
    """Create a folder for results and make sure that files can be written there.

    Raises:
        UsageError: If the folder cannot be created or nothing can be written in it.
    """
    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise UsageError(f"cannot write to the folder {path}: {error.strerror}") from error
    return path


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary path that takes the place of ``path`` when the block ends well.

    Whoever reads ``path`` finds the old file or the whole new one; a kill in between leaves at most
    a hidden temporary file behind.

    Example:
        >>> import pathlib, tempfile
        >>> from chainrob.experiments.files import atomic_path
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> with atomic_path(folder / "a.txt") as temporary:
        ...     _ = temporary.write_text("whole")
        >>> [file.name for file in folder.iterdir()]
        ['a.txt']
    """
    target = Path(path)
    # The suffix stays, because matplotlib and NumPy choose the format by it.
    descriptor, name = tempfile.mkstemp(
        dir=target.parent, prefix=f".{target.stem}-", suffix=target.suffix
    )
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o666 & ~_umask())  # mkstemp makes files that only the owner can read
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


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
        UsageError: If the file cannot be read or is no JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{os.fspath(path)} cannot be read: {error}") from error


def save_figure(figure: Figure, path_without_suffix: str | os.PathLike[str]) -> None:
    """Save a figure as PNG and as PDF, atomically and without the date of the day."""
    for suffix, metadata in (("png", {}), ("pdf", {"CreationDate": None})):
        with atomic_path(f"{os.fspath(path_without_suffix)}.{suffix}") as temporary:
            figure.savefig(temporary, dpi=160, metadata=metadata)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
