"""The CUDA sources compiled as C++, so that their arithmetic runs without a device."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from chainrob.kernels import gpu

COMPILER = shutil.which("g++") or shutil.which("c++")


@cache
def library(source: str) -> ctypes.CDLL:
    """A source as a library of the host; products are not contracted, as on the device."""
    assert COMPILER is not None
    folder = Path(tempfile.mkdtemp(prefix="kernels-"))
    text, target = folder / "kernels.cpp", folder / "kernels.so"
    text.write_text(source)
    command = [COMPILER, "-std=c++17", "-O1", "-ffp-contract=off", "-shared", "-fPIC"]
    try:
        subprocess.run(
            [*command, str(text), "-o", str(target)], check=True, capture_output=True, timeout=120
        )
        return ctypes.CDLL(str(target))
    finally:
        shutil.rmtree(folder)


def libraries() -> dict[str, ctypes.CDLL]:
    return {name: library(gpu.source(name)) for name in gpu.SOURCES}
