"""ChainerMN's checkpointer, for runs that continue with more, fewer or other ranks."""

from __future__ import annotations

import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

import chainer
from chainrob.distributed.iterator import GlobalBatchIterator
from chainrob.training import random_state

__all__ = ["create_multi_node_checkpointer"]


def create_multi_node_checkpointer(
    name: str,
    comm: Any,
    cp_interval: int = 5,
    gc_interval: int = 5,
    path: str | os.PathLike[str] | None = None,
) -> Any:
    """ChainerMN's checkpointer, with the same files and use. A lost rank costs no checkpoint.

    Extend the trainer with it and call ``maybe_load(trainer)`` before ``run()``. It differs from
    ChainerMN's checkpointer in three points:

    - The run may continue with another number of ranks, and on machines without any file. With
      ``GlobalBatchIterator`` the state of a run is the same on all ranks, so rank 0 sends its file
      to ranks that have none. (If each rank iterates over its own part of the data, the run needs
      as many ranks as before, and all of their files.)
    - The states of NumPy's and Python's random number generators are saved too. New ranks get their
      own streams.
    - If an exception ends the run, the files remain. (ChainerMN removes them.) They are removed
      when the run is complete.

    Args:
        name: Name of the run, without a full stop.
        comm: A communicator of ChainerMN.
        cp_interval: Least number of checkpoints to keep.
        gc_interval: As in ChainerMN.
        path: The folder; None is that of the trainer.

    Raises:
        ValueError: If the name has a full stop, which ChainerMN uses to split file names.
            ``maybe_load`` raises it if the files are those of another number of ranks, and the
            iterators cannot continue with them.

    Example:
        >>> import chainrob.distributed
        >>> comm = chainrob.distributed.create_communicator('naive')
        >>> checkpointer = chainrob.distributed.create_multi_node_checkpointer('run', comm)
        >>> # trainer.extend(checkpointer, trigger=(100, 'iteration'))
        >>> # checkpointer.maybe_load(trainer); trainer.run()
    """
    from chainermn.extensions import checkpoint  # needs mpi4py, so not at the top

    if "." in name or not name:
        raise ValueError(f"name must not be empty or hold a full stop, found {name!r}")
    kind = type("MultiNodeCheckpointer", (_Elastic, checkpoint._MultiNodeCheckpointer), {})
    return kind(name, comm, cp_interval, gc_interval, None if path is None else os.fspath(path))


class _Elastic:
    """The differences from ChainerMN's checkpointer."""

    name: str
    comm: Any
    path: Any
    files: list[str]

    def finalize(self) -> None:
        # The trainer calls this in a `finally` clause, so also while an exception is raised.
        if sys.exc_info()[0] is None:
            super().finalize()  # type: ignore[misc]

    def serialize(self, serializer: Any) -> None:
        if isinstance(serializer, chainer.serializer.Deserializer):
            try:
                content = serializer("random", None)
            except KeyError:  # a checkpoint of ChainerMN's
                return
            if content is not None:
                saved = json.loads(bytes(content).decode())
                random_state.set_global_state(saved["state"])
                if saved["rank"] != self.comm.rank:
                    # A copy of another rank's stream would repeat its draws.
                    words = np.random.randint(0, 2**32, 8, np.int64)  # noqa: NPY002
                    np.random.seed([*words, self.comm.rank])  # noqa: NPY002
            return
        state = {"rank": self.comm.rank, "state": random_state.get_global_state()}
        serializer("random", np.frombuffer(json.dumps(state).encode(), np.uint8))

    def maybe_load(self, trainer: Any, optimizer: Any = None, path: Any = None) -> None:
        """Load the newest checkpoint that this run can continue from, if any. All ranks call it.

        Args:
            trainer: A trainer that is set up like that of the interrupted run, with its extensions.
            optimizer: Not needed; ChainerMN's method has it too.
            path: The folder; None is that of the trainer.
        """
        if self.path is None:
            self.path = trainer.out if path is None else os.fspath(path)
        mine = self._at_hand()
        everywhere = self.comm.mpi_comm.allgather(mine)
        union = set().union(*everywhere)
        if not union:
            return
        same_on_all = _is_same_on_all(trainer)
        iteration = self._newest(union, same_on_all)
        self.files = sorted(self._filename(i) for r, i in mine if r == self.comm.rank)  # type: ignore[attr-defined]
        if iteration is None:
            return
        sources = {r for r, i in union if i == iteration}
        rank = self.comm.rank
        source = rank if rank in sources else min(sources)
        content = self._fetch(source, iteration, mine, everywhere)
        # Only the file of rank 0 has the logs and whatever else rank 0 alone keeps.
        chainer.serializers.load_npz(io.BytesIO(content), trainer, strict=source in (0, rank))

    def _at_hand(self) -> set[tuple[int, int]]:
        """(rank, iteration) of the files that this process can read."""
        try:
            names = os.listdir(self.path)
        except FileNotFoundError:
            return set()
        found = filter(None, map(self._parse_filename, names))  # type: ignore[attr-defined]
        return {(rank, iteration) for _, rank, iteration in found}

    def _newest(self, files: set[tuple[int, int]], same_on_all: bool) -> int | None:
        """The newest iteration from which this number of ranks can continue."""
        size = self.comm.size
        of = {i: {r for r, j in files if j == i} for i in sorted({i for _, i in files})}
        if same_on_all:
            # Prefer a file of rank 0, which has the logs. If there is none, use any other.
            return max([i for i, ranks in of.items() if 0 in ranks] or of)
        complete = [i for i, ranks in of.items() if ranks >= set(range(size))]
        newest = complete[-1] if complete else None
        held = max(of.values(), key=len)
        if newest is None or not of[newest] <= set(range(size)):
            raise ValueError(
                f"the checkpoints {self.name!r} in {self.path} are of ranks {sorted(held)}, but "
                f"this run has {size} ranks, each with its own part of the data: start it with as "
                f"many ranks as before, or use chainrob.distributed.GlobalBatchIterator"
            )
        return newest

    def _fetch(
        self,
        source: int,
        iteration: int,
        mine: set[tuple[int, int]],
        everywhere: list[set[tuple[int, int]]],
    ) -> bytes:
        """The bytes of a rank's file. If this rank does not have it, another rank sends it."""
        mpi = self.comm.mpi_comm
        missing = None if (source, iteration) in mine else source
        content = b""
        for wanted in sorted(set(mpi.allgather(missing)) - {None}):
            holder = next(r for r, held in enumerate(everywhere) if (wanted, iteration) in held)
            sent = self._read(wanted, iteration) if mpi.rank == holder else None
            received = mpi.bcast(sent, root=holder)
            content = received if wanted == missing else content
        return content if missing is not None else self._read(source, iteration)

    def _read(self, rank: int, iteration: int) -> bytes:
        return (Path(self.path) / f"{self.name}.{rank}.{iteration}").read_bytes()


def _is_same_on_all(trainer: Any) -> bool:
    iterators = getattr(trainer.updater, "_iterators", {}).values()
    return all(isinstance(one, GlobalBatchIterator) for one in iterators)
