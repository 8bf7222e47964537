"""Where the data files are, in a checkout and in an installed package alike."""

from __future__ import annotations

from pathlib import Path

__all__ = ["data_path"]

_PACKAGE = Path(__file__).resolve().parent
# `_data` is the folder of an installed package and a link to `data/` in a checkout; where links are
# not to be had, the checkout's own folder serves.
_FOLDERS = (_PACKAGE / "_data", _PACKAGE.parent / "data")


def data_path(*parts: str) -> Path:
    """Path of a file or folder that comes with the library.

    Args:
        *parts: path below ``data/``, one part an argument.

    Returns:
        The path, which exists.

    Raises:
        FileNotFoundError: there is no such file in this installation.

    Example:
        >>> data_path("README.md").name
        'README.md'
    """
    for folder in _FOLDERS:
        path = folder.joinpath(*parts)
        if path.exists():
            return path
    raise FileNotFoundError(
        f"data_path: {'/'.join(parts)!r} is not among the data files of this installation of "
        f"chainrob (looked in {', '.join(map(str, _FOLDERS))}); install it again"
    )
