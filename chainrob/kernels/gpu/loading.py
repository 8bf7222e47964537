"""The CUDA sources, and CuPy's modules made from them."""

from __future__ import annotations

import logging
import re
from functools import cache
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
OPTIONS = ("-std=c++17",)
WIDE = ("-DWIDE",)
SOURCES = {path.stem: path for path in sorted(FOLDER.glob("*.cu"))}

log = logging.getLogger(__name__)
"""Told at level DEBUG which kernels are queued."""


@cache
def source(name: str) -> str:
    """The text of a source with what it includes: the run-time compiler finds no files."""
    text = SOURCES[name].read_text(encoding="utf-8")
    return re.sub(
        r'^#include "(.+)"$',
        lambda match: (FOLDER / match[1]).read_text(encoding="utf-8"),
        text,
        flags=re.MULTILINE,
    )


@cache
def kernel(name: str, entry: str, wide: bool = False) -> Any:
    """An entry point of a source; CuPy keeps the binary in its cache on disk.

    Args:
        wide: whether the form for a single output is wanted, see values.cuh.
    """
    return _module(name, wide).get_function(entry)


def launch(
    name: str,
    entry: str,
    grid: tuple[int, ...],
    block: tuple[int, ...],
    arguments: tuple[Any, ...],
    wide: bool = False,
) -> None:
    """Queue a kernel.

    Args:
        name, entry, wide: as for ``kernel``.
        grid, block: numbers of blocks, and of threads in one.
        arguments: arrays of the device, and NumPy scalars of the width that the kernel expects.
    """
    log.debug("%s", entry)
    kernel(name, entry, wide)(grid, block, arguments)


@cache
def _module(name: str, wide: bool) -> Any:
    import cupy

    options = (*OPTIONS, *WIDE) if wide else OPTIONS
    return cupy.RawModule(code=source(name), options=options, backend="nvrtc")
