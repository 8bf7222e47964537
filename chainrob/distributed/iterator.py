"""Batches that are the same whatever the number of ranks."""

from __future__ import annotations

from typing import Any

import chainer
from chainrob.distributed.ranks import Ranks
from chainrob.training.shuffle import SeededShuffle

__all__ = ["GlobalBatchIterator"]


class GlobalBatchIterator(chainer.iterators.SerialIterator):
    """An iterator over global batches, of which each rank takes its own run of samples.

    All ranks go through the data set in one common order, which follows from the seed alone. So
    with robust links that ``distribute`` made one over all ranks, training on P ranks takes the
    steps of training on one, and a run that was interrupted goes on with another number of ranks as
    if nothing had happened. (``chainermn.scatter_dataset`` deals out the data set instead, and what
    makes up a batch depends on the number of ranks.)

    Args:
        dataset: the whole data set, on every rank; only the rank's own samples are read from it.
        batch_size (int): Samples in the batch of all ranks together, at least one a rank.
        comm: A communicator of ChainerMN or mpi4py.
        repeat (bool): Whether to start again at the end.
        seed (int or None): Of the order; None goes through the data set as it is.

    Raises:
        ValueError: fewer samples in a batch than ranks.

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
        """The samples of the next global batch that are this rank's."""
        batch = super().__next__()
        start = len(batch) * self._rank // self._size
        stop = len(batch) * (self._rank + 1) // self._size
        return [self._samples[index] for index in batch[start:stop]]

    next = __next__
