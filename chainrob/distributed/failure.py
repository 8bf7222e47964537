"""A rank that fails ends the run of all."""

from __future__ import annotations

import os
import socket
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["abort_on_exception"]


@contextmanager
def abort_on_exception(comm: Any = None) -> Iterator[None]:
    """End all ranks when an exception leaves this block on one of them.

    A rank that stops with an exception leaves the others waiting for its messages, for ever.
    Here its traceback and one line that says which rank failed are printed and MPI is told to end
    the run: mpiexec stops all ranks within seconds, with exit status 1. (A rank that is killed, by
    a signal or for want of memory, is noticed by mpiexec itself.) On one rank alone, exceptions
    pass through.

    Args:
        comm: A communicator of ChainerMN or mpi4py; None is all ranks that mpiexec started.

    Example:
        >>> import chainrob.distributed
        >>> with chainrob.distributed.abort_on_exception():
        ...     pass  # training
    """
    from mpi4py import MPI

    mpi = MPI.COMM_WORLD if comm is None else getattr(comm, "mpi_comm", comm)
    try:
        yield
    except BaseException as error:
        if mpi.size == 1 or (isinstance(error, SystemExit) and not error.code):
            raise
        traceback.print_exc()
        print(
            f"\nchainrob: rank {mpi.rank} of {mpi.size} (process {os.getpid()} on "
            f"{socket.gethostname()}) failed with {type(error).__name__}: {error}\n"
            "chainrob: all ranks are stopped; start again to go on from the last checkpoint",
            file=sys.stderr,
            flush=True,
        )
        sys.stdout.flush()
        time.sleep(1.0)  # launchers drop what they have not forwarded when all ranks are stopped
        mpi.Abort(1)
        raise
