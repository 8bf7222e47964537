"""Independent pieces of work on several processes. Each result is saved when it is finished."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from typing import Any, NamedTuple

from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from chainrob.experiments.partial import PartialResults
from chainrob.experiments.progress import skip
from chainrob.experiments.usage import UsageError

__all__ = ["Job", "check_workers", "run_jobs"]


class Job(NamedTuple):
    """One piece of work: the arguments of the function, and a name for the result."""

    name: str
    """A file name; equal names mean equal results."""
    arguments: tuple[Any, ...]
    size: float = 1
    """Its size in units of the progress bar."""


def run_jobs(
    function: Callable[..., NDArray[Any]],
    jobs: Sequence[Job],
    *,
    kept: PartialResults | None = None,
    workers: int = 1,
    bar: Any = None,
    stepwise: bool = False,
) -> dict[str, NDArray[Any]]:
    """Compute all jobs, one thread each, several processes at once.

    Results do not depend on the number of workers: each job computes alone, and matrix products use
    one thread. Processes are spawned, so a script that uses more than one worker needs the usual
    ``if __name__ == "__main__":``.

    Args:
        function: A function at the top level of a module. It is called with a job's arguments
            and returns an array.
        jobs: The jobs. Jobs of one name are computed once.
        kept: Stores finished results. Results found there are not computed again.
        workers: Number of processes; 1 computes in this process.
        bar: Advanced by a job's size when it is finished.
        stepwise: Only with one worker: the function advances the bar itself. It gets the keyword
            ``advance``, a function of a number, and may use several threads.

    Returns:
        dict: Name to result.

    Example:
        >>> import numpy as np
        >>> from chainrob.experiments.jobs import Job, run_jobs
        >>> run_jobs(np.arange, [Job("two", (2,)), Job("three", (3,))])["three"].tolist()
        [0, 1, 2]
    """
    results: dict[str, NDArray[Any]] = {}
    todo: dict[str, Job] = {}
    for job in {job.name: job for job in jobs}.values():
        found = kept.load(job.name) if kept else None
        if found is None:
            todo[job.name] = job
        else:
            results[job.name] = found
            if bar is not None:
                skip(bar, job.size)

    def finished(job: Job, result: NDArray[Any]) -> None:
        if kept:
            kept.save(job.name, result)
        results[job.name] = result
        if not stepwise:
            _advance(bar, job)

    if stepwise:
        advance = (lambda number: None) if bar is None else bar.update
        for job in todo.values():
            finished(job, function(*job.arguments, advance=advance))
        return results

    if workers == 1 or len(todo) < 2:
        with threadpool_limits(1):
            for job in todo.values():
                finished(job, function(*job.arguments))
        return results
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    pool = ProcessPoolExecutor(
        min(workers, len(todo)), mp_context=context, initializer=_begin, initargs=(stop,)
    )
    try:
        running: dict[Future[NDArray[Any]], Job] = {
            pool.submit(function, *job.arguments): job for job in todo.values()
        }
        while running:
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in sorted(done, key=lambda one: one.exception() is not None):
                finished(running.pop(future), future.result())
    except BaseException:
        stop.set()  # workers exit at once, also in the middle of a job
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    return results


def check_workers(workers: int | None) -> int:
    """The number of processes: as given, or one per processor that this process may use.

    Raises:
        UsageError: If it is not positive.
    """
    if workers is None:
        affinity = getattr(os, "sched_getaffinity", None)
        return len(affinity(0)) if affinity else (os.cpu_count() or 1)
    if workers < 1:
        raise UsageError(f"workers must be at least 1, found {workers}")
    return workers


def _advance(bar: Any, job: Job) -> None:
    if bar is not None:
        bar.update(job.size)


def _begin(stop: Any) -> None:
    """Set up a worker: one thread, no Ctrl-C; it exits when the parent exits or sets ``stop``."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    threadpool_limits(1)
    parent = multiprocessing.parent_process()

    def leave_with_parent() -> None:
        # A worker also holds the other end of the pipe that it reads jobs from. So it would wait
        # forever after the parent's end.
        while not stop.wait(0.5):
            if parent is not None and not parent.is_alive():
                break
        os._exit(1)

    threading.Thread(target=leave_with_parent, daemon=True).start()
