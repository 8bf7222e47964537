"""Independent pieces of work over processes, each kept when it is finished."""

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
from chainrob.experiments.usage import UsageError

__all__ = ["Job", "check_workers", "run_jobs"]


class Job(NamedTuple):
    """One piece of work: what to call the function with, and the name that its result has."""

    name: str
    """A file name; equal names mean equal results."""
    arguments: tuple[Any, ...]
    size: float = 1
    """For the progress bar."""


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

    Results do not depend on the number of workers: each job computes alone, with the threads of
    matrix products limited to one. Processes are spawned, so a script that runs jobs with more than
    one worker needs the usual ``if __name__ == "__main__":``.

    Args:
        function: At the top of a module; called with a job's arguments, returns an
            array.
        jobs: Those of one name are computed once.
        kept: Where finished results are kept, and looked for first.
        workers: Processes; 1 computes in this one.
        bar: Advanced by a job's size when it is finished.
        stepwise: With one worker only: the function advances the bar itself. It gets the
            keyword ``advance``, to be called with a number, and uses the threads that it likes.

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
            _advance(bar, job)

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
        stop.set()  # workers leave at once, whatever they are computing
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    return results


def check_workers(workers: int | None) -> int:
    """The number of processes: as given, or one a processor that this process may use.

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
    """In a worker: one thread, no keyboard, and the end when the parent ends or says so."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    threadpool_limits(1)
    parent = multiprocessing.parent_process()

    def leave_with_parent() -> None:
        # A worker waits for work on a pipe that it holds open itself, so it would wait for ever.
        while not stop.wait(0.5):
            if parent is not None and not parent.is_alive():
                break
        os._exit(1)

    threading.Thread(target=leave_with_parent, daemon=True).start()
