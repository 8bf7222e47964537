"""Batches that are the same for every number of ranks."""

from __future__ import annotations

from typing import Any

import chainer
from chainrob.distributed.ranks import Ranks
from chainrob.training.shuffle import SeededShuffle

__all__ = ["GlobalBatchIterator"]


class GlobalBatchIterator(chainer.iterators.SerialIterator):
    """An iterator over global batches. Each rank takes its own consecutive part of a batch.

    All ranks go through the data set in one common order, which depends only on the seed. So, if
    ``distribute`` made the links robust over all ranks, training on P ranks takes the same steps as
    training on one. An interrupted run continues the same way with another number of ranks.
    (``chainermn.scatter_dataset`` gives each rank a part of the data set instead, and then the
    batches depend on the number of ranks.)

    Args:
        dataset: The whole data set, on every rank. Each rank reads only its own samples.
        batch_size: Samples in the batch of all ranks together, at least one per rank.
        comm: A communicator of ChainerMN or mpi4py.
        repeat: Whether to start again at the end.
        seed: Seed of the order; None keeps the order of the data set.

    Raises:
        ValueError: If a batch has fewer samples than there are ranks.

    Example:
        >>> import chainrob, chainrob.distributed
        >>> comm = chainrob.distributed.create_communicator('naive')
        >>> batches = chainrob.distributed.GlobalBatchIterator('abcdef', 3, comm, seed=None)
        >>> next(batches), batches.next()
        (['a', 'b', 'c'], ['d', 'e', 'f'])
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int,
        comm: Any,
        *,
        repeat: bool = True,
        seed: int | None = 0,
    ) -> None:
        ranks = Ranks(comm)
        if batch_size < ranks.size:
            raise ValueError(
                f"batch_size must be at least the number of ranks, {ranks.size}, found {batch_size}"
            )
        self._samples = dataset
        self._rank, self._size = ranks.rank, ranks.size
        order_sampler = None if seed is None else SeededShuffle(seed)
        super().__init__(
            range(len(dataset)),
            batch_size,
            repeat=repeat,
            shuffle=False if seed is None else None,
            order_sampler=order_sampler,
        )

    def __next__(self) -> list[Any]:
        """The samples of the next global batch that belong to this rank."""
        batch = super().__next__()
        start = len(batch) * self._rank // self._size
        stop = len(batch) * (self._rank + 1) // self._size
        return [self._samples[index] for index in batch[start:stop]]

    next = __next__
