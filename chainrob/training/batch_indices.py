"""Which samples of the dataset are in the batch that an iterator has just handed out."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

import chainer

__all__ = ["BatchIndices"]

_KNOWN = (
    chainer.iterators.SerialIterator,
    chainer.iterators.MultithreadIterator,
    chainer.iterators.MultiprocessIterator,
)


class BatchIndices:
    """Reads the indices of each batch from the iterator's state before and after it.

    Nothing is added to the examples, so datasets, converters, models and worker processes stay as
    they are. Chainer's three iterators take the positions i to i + B of an order as a batch. At the
    end of the order they draw a new one.

    Args:
        iterator: A ``SerialIterator``, ``MultithreadIterator`` or ``MultiprocessIterator``.

    Raises:
        TypeError: Another kind of iterator.
        ValueError: The batch is larger than the dataset. It then goes through orders that are
            already gone.

    Example:
        >>> import numpy as np
        >>> import chainrob
        >>> import chainer
        >>> from chainrob.training.batch_indices import BatchIndices
        >>> iterator = chainer.iterators.SerialIterator(np.arange(10) * 10, 4)
        >>> indices = BatchIndices(iterator)
        >>> all((np.array(iterator.next()) == indices.next() * 10).all() for _ in range(20))
        True
    """

    def __init__(self, iterator: Any) -> None:
        if not isinstance(iterator, _KNOWN):
            raise TypeError(
                f"the order of a {type(iterator).__name__} is not known; use a SerialIterator, "
                f"MultithreadIterator or MultiprocessIterator, or give indices=, a function of the "
                f"trainer that returns the dataset indices of the last batch"
            )
        self.iterator = iterator
        self.n_samples = len(iterator.dataset)
        if iterator.batch_size > self.n_samples:
            raise ValueError(
                f"the batch size must not exceed the size of the dataset, {self.n_samples}, so "
                f"that the samples of a batch are known; found {iterator.batch_size}"
            )
        self.synchronise()

    def synchronise(self) -> None:
        """Remember the iterator's state, as the state before the next batch."""
        state = self.iterator._state
        self._position, self._epoch = state.current_position, state.epoch
        self._order = np.arange(self.n_samples) if state.order is None else state.order

    def next(self) -> NDArray[np.int64]:
        """The indices of the one batch handed out since the last call, in the batch's order."""
        state = self.iterator._state
        start, order = self._position, self._order
        if state.epoch == self._epoch:
            indices = order[start : state.current_position]
            self._position = state.current_position
        else:
            rest = order[start:]
            self.synchronise()
            indices = np.concatenate([rest, self._order[: self._position]])
        return indices.astype(np.int64)
