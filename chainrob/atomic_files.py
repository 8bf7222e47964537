"""Files that are there whole or not at all, even when the process is killed in between."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

__all__ = ["atomic_path", "remove_leftovers"]

_writes = count()


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary path that takes the place of ``path`` when the block ends well.

    Whoever reads ``path`` finds the old file or the whole new one. The temporary file, hidden
    beside it, is forced to the disk before it is renamed; a kill in between leaves at most this
    file behind, which ``remove_leftovers`` removes.

    Args:
        path: the file to write. The block has to create the temporary file, closed at its end.

    Raises:
        FileNotFoundError: the folder does not exist, or the block wrote nothing.

    Example:
        >>> import pathlib, tempfile
        >>> from chainrob.atomic_files import atomic_path
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> with atomic_path(folder / "a.txt") as temporary:
        ...     _ = temporary.write_text("whole")
        >>> [file.name for file in folder.iterdir()]
        ['a.txt']
    """
    target = Path(path)
    # The suffix stays, because matplotlib and NumPy choose the format by it.
    name = f".{target.name}.{next(_writes)}.{os.getpid()}.tmp{target.suffix}"
    temporary = target.with_name(name)
    try:
        yield temporary
        _to_disk(temporary)
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _to_disk(target.parent)  # the new name, too, survives a loss of power


def remove_leftovers(folder: Path, prefix: str) -> None:
    """Remove what processes that are no more were writing when they were killed.

    Args:
        folder: where to look.
        prefix: how the names of the files that they were writing begin.
    """
    pattern = re.compile(rf"\.{re.escape(prefix)}.*\.(\d+)\.tmp(\.\w+)?")
    for path in folder.glob(".*.tmp*"):
        match = pattern.fullmatch(path.name)
        if match and not _alive(int(match[1])):
            path.unlink(missing_ok=True)


def _to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True
