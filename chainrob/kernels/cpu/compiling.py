"""Numba, compiled at the first call: kept on disk where that is possible, announced where it takes
long.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import numpy as np

logger = logging.getLogger("chainrob.kernels")

PATIENCE = 1.0
"""Seconds of compilation after which the user is told."""

# No reassociation: sums run in the order written, so results are the same on every processor.
FLAGS = {"nsz", "contract"}


def jit(function: Callable[..., Any]) -> Any:
    """Compile a function that other kernels call; it is compiled with each of them."""
    return numba.njit(nogil=True, fastmath=FLAGS, inline="never", _nrt=True)(function)


def lean(function: Callable[..., Any]) -> Any:
    """As ``jit``, without counting references to the arrays that it is given.

    They are the kernel's, and to count them costs as much as what is done to a column of a few
    rows. So it may not make arrays, nor assign to slices.
    """
    return numba.njit(nogil=True, fastmath=FLAGS, inline="never", _nrt=False)(function)


def rounding_products(function: Callable[..., Any]) -> Any:
    """As ``lean``, where a product is rounded before anything is added to it (but for ``fma``)."""
    return numba.njit(nogil=True, fastmath={"nsz"}, inline="never", _nrt=False)(function)


def inlined(function: Callable[..., Any]) -> Any:
    """Compile a few operations that a kernel does for every value, or what it does for a column and
    calls from one place: the call would cost more, for all numbers of all arrays are handed over.
    """
    return numba.njit(nogil=True, fastmath=FLAGS, forceinline=True, _nrt=False)(function)


class Kernel:
    """A compiled function called from Python.

    The machine code is stored beside the package, or in the user's cache folder
    (``NUMBA_CACHE_DIR``); where neither can be written it is compiled once a process. If the first
    call takes over a second, one line is logged at level WARNING, which Python shows on stderr;
    ``logging.getLogger('chainrob.kernels').setLevel('ERROR')`` silences it.

    Args:
        function: plain Python on arrays and scalars; its first argument's dtype decides what is
            compiled.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        functools.update_wrapper(self, function)
        options: dict[str, Any] = {"nogil": True, "fastmath": FLAGS, "error_model": "numpy"}
        try:
            self.compiled = numba.njit(cache=True, **options)(function)
            _depend_on_all_sources(self.compiled)
        except RuntimeError:  # no folder to write to
            self.compiled = numba.njit(**options)(function)
        self.ready: set[np.dtype] = set()
        self.lock = threading.Lock()

    def __call__(self, first: Any, *others: Any) -> Any:
        if first.dtype in self.ready:
            return self.compiled(first, *others)
        with self.lock:  # one thread compiles, and says so; the others wait
            if first.dtype not in self.ready:
                timer = threading.Timer(PATIENCE, self._announce, [first.dtype])
                timer.daemon = True
                timer.start()
                try:
                    self._compile(tuple(map(numba.typeof, (first, *others))))
                finally:
                    timer.cancel()
                self.ready.add(first.dtype)
        return self.compiled(first, *others)

    def _compile(self, types: tuple[Any, ...]) -> None:
        try:
            self.compiled.compile(types)
        except (ImportError, AttributeError):
            # What another version of the package stored may refer to files that are gone.
            _forget_stored(self.compiled)
            self.compiled.compile(types)

    def _announce(self, dtype: np.dtype) -> None:
        logger.warning(
            "chainrob: compiling %s for %s, once; later runs find it on disk",
            self.compiled.__name__,
            dtype,
        )


@functools.cache
def _stamp() -> str:
    """What changes with any file that kernels are made of."""
    files = sorted(Path(__file__).parents[1].rglob("*.py"))
    found = [(file.name, file.stat().st_mtime_ns, file.stat().st_size) for file in files]
    return hashlib.sha256(repr(found).encode()).hexdigest()


def _depend_on_all_sources(compiled: Any) -> None:
    """Let stored machine code be out of date as soon as any file of ``kernels`` has changed.

    Numba looks at the file of the function alone, but a kernel is compiled together with what it
    calls in other files: without this, a change there would go unseen.
    """
    stored: Any = getattr(getattr(compiled, "_cache", None), "_cache_file", None)
    if hasattr(stored, "_source_stamp"):
        stored._source_stamp = (stored._source_stamp, _stamp())


def _forget_stored(compiled: Any) -> None:
    """Remove the list of what is stored on disk, so that it is written anew."""
    stored: Any = getattr(getattr(compiled, "_cache", None), "_cache_file", None)
    if hasattr(stored, "_index_path"):
        Path(stored._index_path).unlink(missing_ok=True)
