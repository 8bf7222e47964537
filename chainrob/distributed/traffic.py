"""A communicator that counts how much a program sends."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["CountingComm", "Traffic"]


@dataclass
class Traffic:
    """The traffic of one rank.

    Attributes:
        calls: Number of collective operations.
        payload: Bytes that were passed to MPI.
        sent: Bytes that leave this rank, if MPI uses the algorithms with the least traffic: a ring
            for allgather; reduce-scatter and allgather for allreduce (2 (P - 1) / P of the
            payload); direct messages for alltoall; scatter and allgather for broadcast.
    """

    calls: int = 0
    payload: float = 0.0
    sent: float = 0.0

    def add(self, payload: float, factor: float) -> None:
        """Count one operation."""
        self.calls += 1
        self.payload += payload
        self.sent += payload * factor


class CountingComm:
    """An mpi4py communicator that counts its traffic, including that of ChainerMN.

    Args:
        mpi_comm: A communicator of mpi4py; None is all ranks that mpiexec started.

    Example:
        >>> import numpy as np, chainrob, chainrob.distributed
        >>> counting = chainrob.distributed.CountingComm()
        >>> comm = chainrob.distributed.create_communicator('naive', mpi_comm=counting)
        >>> counting.reset()
        >>> robust = chainrob.distributed.Distributed(chainrob.Mean(), comm)
        >>> robust(np.ones((3, 2)))
        array([1., 1.])
        >>> counting.traffic.calls, counting.traffic.sent     # one rank sends nothing
        (1, 0.0)
    """

    def __init__(self, mpi_comm: Any = None) -> None:
        if mpi_comm is None:
            from mpi4py import MPI

            mpi_comm = MPI.COMM_WORLD
        self._comm = mpi_comm
        self.traffic = Traffic()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._comm, name)

    def reset(self) -> None:
        """Set the counts to zero."""
        self.traffic = Traffic()

    @property
    def _share(self) -> float:
        return (self._comm.size - 1) / self._comm.size

    def Allreduce(self, sendbuf: Any, recvbuf: Any, *args: Any, **options: Any) -> Any:
        self.traffic.add(_bytes(recvbuf), 2 * self._share)
        return self._comm.Allreduce(sendbuf, recvbuf, *args, **options)

    def Bcast(self, buffer: Any, root: int = 0) -> Any:
        self.traffic.add(_bytes(buffer), self._share)
        return self._comm.Bcast(buffer, root)

    def Allgatherv(self, sendbuf: Any, recvbuf: Any) -> Any:
        self.traffic.add(_bytes(sendbuf), self._comm.size - 1)
        return self._comm.Allgatherv(sendbuf, recvbuf)

    def Alltoallv(self, sendbuf: Any, recvbuf: Any) -> Any:
        own = sendbuf[1][self._comm.rank]
        total = sum(sendbuf[1])
        self.traffic.add(total, (total - own) / total if total else 0.0)
        return self._comm.Alltoallv(sendbuf, recvbuf)

    def allreduce(self, sendobj: Any, *args: Any, **options: Any) -> Any:
        return self._object("allreduce", 2 * self._share, sendobj, *args, **options)

    def allgather(self, sendobj: Any) -> Any:
        return self._object("allgather", self._comm.size - 1, sendobj)

    def bcast(self, obj: Any, root: int = 0) -> Any:
        return self._object("bcast", self._share, obj, root=root)

    def gather(self, sendobj: Any, root: int = 0) -> Any:
        return self._object("gather", float(self._comm.rank != root), sendobj, root=root)

    def _object(self, name: str, factor: float, obj: Any, *args: Any, **options: Any) -> Any:
        self.traffic.add(len(pickle.dumps(obj)), factor)
        function: Callable[..., Any] = getattr(self._comm, name)
        return function(obj, *args, **options)


def _bytes(buffer: Any) -> int:
    """Bytes of an mpi4py buffer: an array, or a list that starts with one."""
    content = buffer[0] if isinstance(buffer, Sequence) else buffer
    return np.asarray(content).nbytes if content is not None else 0
