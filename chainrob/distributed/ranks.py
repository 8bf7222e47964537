"""The collective operations that robust training needs, on NumPy and CuPy arrays."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import prod
from typing import Any, Literal

import numpy as np

from chainrob.kernels import array_module, to_host
from chainrob.sample_gradients.operator_base import Array

__all__ = ["Partition", "Ranks", "ranks_of"]


class Ranks:
    """The ranks of a communicator.

    Arrays of a GPU are copied through the memory of the host, so this works with every MPI and
    every communicator of ChainerMN. NCCL sends only ChainerMN's own messages: the averages of plain
    gradients.

    Args:
        comm: A communicator of ChainerMN or of mpi4py.

    Raises:
        TypeError: If ``comm`` is neither.
    """

    def __init__(self, comm: Any) -> None:
        self.mpi = getattr(comm, "mpi_comm", comm)
        if not callable(getattr(self.mpi, "Allreduce", None)):
            raise TypeError(f"comm must be a communicator of ChainerMN or mpi4py, found {comm!r}")
        self.rank: int = self.mpi.rank
        self.size: int = self.mpi.size

    def allreduce(self, array: Array, operation: Literal["sum", "max"] = "sum") -> Array:
        """The sum or the maximum over the ranks, entry by entry, with the same bits on all."""
        from mpi4py import MPI

        total = np.array(to_host(array), order="C")
        if total.size:
            op = {"sum": MPI.SUM, "max": MPI.MAX}[operation]
            self.mpi.Allreduce(MPI.IN_PLACE, total, op=op)
        return array_module(array).asarray(total)

    def all(self, flag: bool) -> bool:
        """Whether the flag is set on all ranks."""
        return int(self.allreduce(np.array([not flag], np.int8), "max")[0]) == 0

    def broadcast(self, array: Array) -> Array:
        """The array of rank 0, on all ranks."""
        sent = np.array(to_host(array), order="C")
        if sent.size:
            self.mpi.Bcast(sent, root=0)
        return array_module(array).asarray(sent)

    def gather(self, array: Array, counts: Sequence[int], axis: int) -> Array:
        """The arrays of all ranks, concatenated along an axis, on all ranks.

        Args:
            array: This rank's part. Its other axes are the same on all ranks.
            counts: Lengths of the parts along the axis, rank by rank.
            axis: The axis, negative, counted from the last.
        """
        from mpi4py import MPI

        part = np.ascontiguousarray(np.moveaxis(to_host(array), axis, 0))
        whole = np.empty((sum(counts), *part.shape[1:]), part.dtype)
        if whole.size:
            width = prod(part.shape[1:]) * part.itemsize
            lengths = [count * width for count in counts]
            self.mpi.Allgatherv([part, MPI.BYTE], [whole, lengths, MPI.BYTE])
        return array_module(array).asarray(np.moveaxis(whole, 0, axis))

    def transpose(
        self, array: Array, counts: Sequence[int], axis: int, columns: Sequence[int], along: int
    ) -> Array:
        """Exchange this rank's samples at all columns for all samples at this rank's columns.

        Args:
            array: This rank's part, with ``counts[rank]`` samples along ``axis``.
            counts: Number of samples on each rank.
            axis: The axis of the samples, negative.
            columns: Number of columns that each rank gets.
            along: The axis of the columns, negative.
        """
        from mpi4py import MPI

        host = np.moveaxis(to_host(array), (axis, along), (0, 1))
        edges = np.cumsum([0, *columns])
        outgoing = [
            np.ascontiguousarray(host[:, start:stop]).reshape(-1) for start, stop in pairwise(edges)
        ]
        shape = (columns[self.rank], *host.shape[2:])
        incoming = np.empty((sum(counts), *shape), host.dtype)
        width = prod(shape) * host.itemsize
        self.mpi.Alltoallv(
            [np.concatenate(outgoing), [one.nbytes for one in outgoing], MPI.BYTE],
            [incoming, [count * width for count in counts], MPI.BYTE],
        )
        return array_module(array).asarray(np.moveaxis(incoming, (0, 1), (axis, along)))


def ranks_of(comm: Any) -> Ranks:
    """The ranks of a communicator. An argument that is ``Ranks`` already is returned itself."""
    return comm if isinstance(comm, Ranks) else Ranks(comm)


class Partition:
    """The split of N samples over the ranks, in the order of the ranks.

    Args:
        ranks: The ranks.
        counts: Number of samples on each rank.
        finite: Whether all rows of all ranks are known to be finite; None if not checked.
    """

    def __init__(self, ranks: Ranks, counts: Sequence[int], finite: bool | None = None) -> None:
        self.ranks = ranks
        self.finite = finite
        self.counts = tuple(int(count) for count in counts)
        self.total = sum(self.counts)
        self.start = sum(self.counts[: ranks.rank])
        self.stop = self.start + self.counts[ranks.rank]

    @property
    def largest(self) -> int:
        """The rank with the most samples."""
        return self.counts.index(max(self.counts))

    def mine(self, array: Array) -> Array:
        """The entries of an array (..., N) that belong to this rank's samples."""
        return array[..., self.start : self.stop]

    def take(self, rows: np.ndarray) -> tuple[Partition, np.ndarray]:
        """The partition of the chosen rows (increasing), and the chosen rows of this rank."""
        edges = np.cumsum([0, *self.counts])
        counts = np.diff(np.searchsorted(rows, edges))
        local = rows[(rows >= self.start) & (rows < self.stop)] - self.start
        return Partition(self.ranks, counts.tolist()), local

    def even(self, extent: int) -> list[int]:
        """Numbers of coordinates for the ranks, as equal as possible, ``extent`` in total."""
        edges = [extent * rank // self.ranks.size for rank in range(self.ranks.size + 1)]
        return [stop - start for start, stop in pairwise(edges)]
