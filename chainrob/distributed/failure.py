"""A failure on one rank ends the run on all ranks."""

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

    Without it, the other ranks would wait forever for messages of the failed rank. The block prints
    the traceback and one line that names the failed rank. Then it tells MPI to end the run, and
    mpiexec stops all ranks within seconds, with exit status 1. (If a signal or a lack of memory
    kills a rank, mpiexec itself notices it.) If there is only one rank, exceptions pass through.

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
            "chainrob: all ranks are stopped; start again to continue from the last checkpoint",
            file=sys.stderr,
            flush=True,
        )
        sys.stdout.flush()
        time.sleep(1.0)  # when ranks stop, launchers drop output that they have not yet forwarded
        mpi.Abort(1)
        raise
