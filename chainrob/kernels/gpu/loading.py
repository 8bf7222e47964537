"""The CUDA sources, and CuPy's modules made from them."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
OPTIONS = ("-std=c++17",)
WIDE = ("-DWIDE",)
SOURCES = {path.stem: path for path in sorted(FOLDER.glob("*.cu"))}


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


@cache
def _module(name: str, wide: bool) -> Any:
    import cupy

    options = (*OPTIONS, *WIDE) if wide else OPTIONS
    return cupy.RawModule(code=source(name), options=options, backend="nvrtc")
