"""Several programs in one start of mpiexec: four ranks, and groups of two and three of them.

Starting a rank costs seconds, so equality is checked on four ranks, then on two of them while the
other two look at the edges, then on three, which train models at last. Each line printed names a
part and how many checks it made.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import chainrob.distributed

sys.path.insert(0, str(Path(__file__).parent))
import edges
import equality
import training
from cases import Checks

world = chainrob.distributed.create_communicator("naive")


def group(color: int) -> Any:
    """The communicator of the ranks that name the same color."""
    return world.mpi_comm.Split(color, world.rank)


def check(name: str, program: Any, mpi_comm: Any) -> None:
    """Run a program on some of the ranks; it fails on the ranks where a check does."""
    checks = Checks()
    program.main(mpi_comm, checks)
    checks.report(f"{name}-{mpi_comm.size}", mpi_comm.rank)


with chainrob.distributed.abort_on_exception(world):
    check("equality", equality, world.mpi_comm)
    pair = group(world.rank // 2)
    check(*(("equality", equality) if world.rank < 2 else ("edges", edges)), pair)
    three = group(int(world.rank == 3))
    if world.rank < 3:
        check("equality", equality, three)
        check("training", training, three)
    world.mpi_comm.Barrier()
