"""What a result was computed with."""

from __future__ import annotations

import importlib.metadata
import platform

import chainrob

__all__ = ["versions"]


def versions() -> dict[str, str]:
    """Versions of the library, of Python and of the packages that can change a number.

    Example:
        >>> from chainrob.experiments.versions import versions
        >>> versions()["chainer"]
        '7.8.1'
    """
    found = {"chainrob": chainrob.__version__, "python": platform.python_version()}
    packages = ("chainer", "numpy", "numba", "scikit-learn", "matplotlib")
    for package in (*packages, "cupy-cuda12x", "cupy-cuda13x"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    found["machine"] = f"{platform.system()} {platform.machine()}"
    return found
