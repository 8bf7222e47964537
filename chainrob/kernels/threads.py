"""A small pool of threads for kernels that leave Python's lock.

What training does around a kernel must not disturb it: the pool is made when it is first needed,
emptied before a fork (MultiprocessIterator) and made anew in the child, shared by threads that call
at once (MultithreadIterator, joblib), and never larger than the user's limits. The caller always
works too, so a call ends even if no helper ever starts. Work is cut into the same pieces whatever
the number of threads, and each piece is computed whole by one: results do not depend on it.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

__all__ = ["count", "share"]

_lock = threading.Lock()
_pool: tuple[int, ThreadPoolExecutor] | None = None


def count() -> int:
    """How many threads a kernel may use, the caller included.

    The least of: the processors this process may run on, ``OMP_NUM_THREADS``,
    ``NUMBA_NUM_THREADS``, and what the matrix products of NumPy are limited to at the moment
    (``threadpoolctl.threadpool_limits`` limits both).
    """
    try:
        limit = len(os.sched_getaffinity(0))
    except AttributeError:  # not on Linux
        limit = os.cpu_count() or 1
    for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"):
        # OpenMP allows a list, one number a nesting level: the first is meant.
        value = os.environ.get(name, "").split(",")[0].strip()
        if value.isdigit() and int(value) > 0:
            limit = min(limit, int(value))
    if limit > 1:
        for library in _blas():
            limit = min(limit, library.num_threads or 1)
    return max(limit, 1)


def share(work: Callable[[int, int], Any], n_items: int, grain: int) -> None:
    """Call ``work(start, stop)`` for consecutive pieces of ``range(n_items)``, on all threads.

    Args:
        work: a function that releases Python's lock; its first exception is raised here.
        n_items: number of items.
        grain: items a piece, the same whatever the number of threads.
    """
    n_pieces = -(-n_items // grain)
    helpers = min(count(), n_pieces) - 1 if n_pieces > 1 else 0
    if helpers < 1:
        if n_items:
            work(0, n_items)
        return
    pieces = itertools.count()  # next() is atomic under Python's lock

    def run() -> None:
        while (piece := next(pieces)) < n_pieces:
            work(piece * grain, min((piece + 1) * grain, n_items))

    futures = []
    try:
        pool = _executor(helpers)
        futures = [pool.submit(run) for _ in range(helpers)]
    except RuntimeError:  # the pool was emptied by a fork elsewhere, or the interpreter is ending
        pass
    try:
        run()
    finally:
        # A helper that has not started has nothing left to do.
        waiting = [future for future in futures if not future.cancel()]
        errors = [future.exception() for future in waiting]
    for error in errors:
        if error is not None:
            raise error


def _executor(helpers: int) -> ThreadPoolExecutor:
    global _pool
    with _lock:
        if _pool is None or _pool[0] < helpers:
            if _pool is not None:
                _pool[1].shutdown(wait=False)
            _pool = helpers, ThreadPoolExecutor(helpers, thread_name_prefix="chainrob")
        return _pool[1]


@lru_cache(maxsize=1)
def _blas() -> list[Any]:
    """NumPy's and SciPy's matrix libraries; asking one for its threads is a plain C call."""
    try:
        from threadpoolctl import ThreadpoolController
    except ImportError:
        return []
    return list(ThreadpoolController().select(user_api="blas").lib_controllers)


def _before_fork() -> None:
    # A forked process has only the thread that forked; so none other may hold a lock then.
    global _pool
    _lock.acquire()
    if _pool is not None:
        _pool[1].shutdown(wait=True)
        _pool = None


def _after_fork() -> None:
    _lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork
    )
