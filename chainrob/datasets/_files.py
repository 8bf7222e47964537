"""Find the data files, and check their checksums."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

__all__ = ["DataFileError", "data_folder", "read_data_file"]


class DataFileError(RuntimeError):
    """A data file is missing, unreadable, or has the wrong checksum."""


def data_folder() -> Path:
    """The folder that holds the data files.

    It is the first of these that exists: the folder in the environment variable ``CHAINROB_DATA``,
    ``data/`` beside the package (a checkout), and ``_data/`` inside the package (an installation).

    Returns:
        pathlib.Path: An existing folder.

    Raises:
        DataFileError: If there is none.

    Example:
        >>> from chainrob.datasets import data_folder
        >>> (data_folder() / "iris" / "iris.data").name
        'iris.data'
    """
    chosen = os.environ.get("CHAINROB_DATA")
    package = Path(__file__).resolve().parents[1]
    candidates = [Path(chosen)] if chosen else [package.parent / "data", package / "_data"]
    for folder in candidates:
        # A folder "data" beside an installed package may belong to someone else.
        if (folder / "iris").is_dir():
            return folder
    looked = ", ".join(str(folder) for folder in candidates)
    raise DataFileError(
        f"the data folder was not found (looked at {looked}); reinstall chainrob, or set "
        "CHAINROB_DATA to the data/ folder of its source"
    )


def read_data_file(name: str, sha256: str, path: str | os.PathLike[str] | None = None) -> bytes:
    """Read a data file and check its checksum.

    Args:
        name: Path inside the data folder, with forward slashes.
        sha256: The checksum that the file must have, in hexadecimal digits.
        path: Read this file instead; its checksum must be the same.

    Returns:
        bytes: The content of the file.

    Raises:
        DataFileError: If the file cannot be read or its checksum differs.
    """
    file = Path(path) if path is not None else data_folder() / name
    try:
        content = file.read_bytes()
    except OSError as error:
        raise DataFileError(f"cannot read the data file {file}: {error.strerror}") from error
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise DataFileError(
            f"the data file {file} is damaged: its SHA-256 should be {sha256}, found {found} "
            f"({len(content)} bytes); restore it from chainrob's source"
        )
    return content
