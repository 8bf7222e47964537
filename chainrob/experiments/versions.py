"""The software and hardware that computed a result."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
from pathlib import Path

from threadpoolctl import threadpool_info

import chainrob

__all__ = ["blas", "machine", "versions"]


def versions() -> dict[str, str]:
    """Versions of the library, of Python and of the packages that can change a number.

    Example:
        >>> from chainrob.experiments.versions import versions
        >>> versions()["chainer"]
        '7.8.1'
    """
    found = {"chainrob": chainrob.__version__, "python": platform.python_version()}
    packages = ("chainer", "numpy", "scipy", "numba", "scikit-learn", "matplotlib")
    for package in (*packages, "cupy-cuda12x", "cupy-cuda13x"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    found["machine"] = f"{platform.system()} {platform.machine()}"
    return found


def machine() -> str:
    """Name and number of the processors, to be recorded beside a duration.

    Example:
        >>> from chainrob.experiments.versions import machine
        >>> "processor" in machine()
        True
    """
    name = platform.processor() or platform.machine()
    try:  # Linux names the model here and nowhere else
        listed = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.M)
    except OSError:
        listed = None
    number = os.cpu_count()
    return f"{listed[1] if listed else name}, {number} processor{'' if number == 1 else 's'}"


def blas() -> list[str]:
    """The BLAS libraries that are loaded, with the kernel that each has chosen for the processor.

    Kernels sum in different orders, so their results differ in the last digits. During a trial
    such differences may grow until they are visible.

    Example:
        >>> import numpy
        >>> from chainrob.experiments.versions import blas
        >>> any(line.split()[0] for line in blas())
        True
    """
    found = [one for one in threadpool_info() if one["user_api"] == "blas"]
    lines = (
        " ".join(str(one.get(key) or "?") for key in ("internal_api", "version", "architecture"))
        for one in found
    )
    return sorted(set(lines))
