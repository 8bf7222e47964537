"""Robust training on many machines with ChainerMN over MPI. The estimate is that of one process.

Import this package by name. It needs mpi4py and an MPI; ``pip install 'chainrob[mpi]'`` installs
both. These lines of a ChainerMN program change::

    comm = chainrob.distributed.create_communicator('naive')         # or 'flat', 'pure_nccl'
    chainrob.distributed.distribute(model, comm)                     # one estimate over all ranks
    optimizer = chainrob.distributed.create_multi_node_optimizer(optimizer, comm).setup(model)
    train = chainrob.distributed.GlobalBatchIterator(dataset, batch_size, comm)
    checkpointer = chainrob.distributed.create_multi_node_checkpointer('run', comm)
    with chainrob.distributed.abort_on_exception(comm):
        trainer.run()

``chainermn.scatter_dataset`` and ``chainermn.create_multi_node_evaluator`` work as before.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from chainrob.distributed.gradients import DistributedGradients
from chainrob.distributed.robustifier import Distributed, distribute, undistribute
from chainrob.distributed.traffic import CountingComm, Traffic

_OF_CHAINER = {
    "GlobalBatchIterator": "iterator",
    "abort_on_exception": "failure",
    "create_multi_node_checkpointer": "checkpoint",
    "create_multi_node_optimizer": "optimizer",
}
"""Names whose modules need Chainer. The operators and robustifiers of many ranks do not."""

__all__ = [
    "CountingComm",
    "Distributed",
    "DistributedGradients",
    "GlobalBatchIterator",
    "Traffic",
    "abort_on_exception",
    "create_communicator",
    "create_multi_node_checkpointer",
    "create_multi_node_optimizer",
    "distribute",
    "undistribute",
]


def __getattr__(name: str) -> Any:
    if name in _OF_CHAINER:
        return getattr(import_module(f"{__name__}.{_OF_CHAINER[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def create_communicator(name: str = "naive", mpi_comm: Any = None, **options: Any) -> Any:
    """Create a communicator of ChainerMN.

    Args:
        name: ``'naive'`` (CPU, any MPI), ``'flat'`` (GPU, a CUDA-aware MPI) or ``'pure_nccl'``
            (GPU, NCCL).
        mpi_comm: A communicator of mpi4py, or a ``CountingComm``; None is all ranks that mpiexec
            started.
        options: As for ``chainermn.create_communicator``.

    Raises:
        ImportError: If mpi4py or an MPI is missing. The message says how to install them.

    Example:
        >>> import chainrob.distributed
        >>> chainrob.distributed.create_communicator('naive').size
        1
    """
    try:
        from mpi4py import MPI  # noqa: F401
    except (ImportError, RuntimeError) as error:  # mpi4py raises RuntimeError if it finds no MPI
        raise ImportError(
            f"chainrob.distributed needs mpi4py and an MPI ({error}): pip install 'chainrob[mpi]' "
            f"installs both; on a cluster that has an MPI, install mpi4py alone"
        ) from error
    import chainermn

    return chainermn.create_communicator(name, mpi_comm=mpi_comm, **options)
