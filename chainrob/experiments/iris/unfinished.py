"""The saved state of trials in training. With it, a kill costs only seconds of work."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

import chainer
from chainrob.experiments.partial import PartialResults

__all__ = ["Unfinished"]

SECONDS = 10.0
"""Time between two writes. A write takes milliseconds."""


class Unfinished:
    """The state of trials in training, saved every ten seconds.

    Plain SGD on the whole training set has no state besides the parameters and the number of
    updates. Both, and the errors recorded so far, are saved in one float64 array, which holds
    float32 exactly. So resumed trials end with the same numbers, to the last bit.

    Args:
        kept: The saved parts of the run.
        part: Name of the trials' results.
    """

    def __init__(self, kept: PartialResults, part: str) -> None:
        self._kept = kept
        self._name = f"{part}-unfinished"
        self._due = time.monotonic() + SECONDS

    def restore(self, model: chainer.Link, errors: Any) -> int:
        """Set parameters and errors to the saved values.

        Returns:
            int: The number of updates so far; 0 if nothing was saved.
        """
        state = self._kept.load(self._name)
        if state is None:
            return 0
        updates, *arrays = np.split(state, np.cumsum([1, *(a.size for a in _arrays(model))]))
        for array, values in zip((*_arrays(model), errors), arrays, strict=True):
            xp = chainer.backend.get_array_module(array)
            array[...] = xp.asarray(values.reshape(array.shape), dtype=array.dtype)
        return int(updates[0])

    def keep(self, updates: int, model: chainer.Link, errors: Any) -> None:
        """Save the state after ``updates`` updates, if the last write is long enough ago."""
        if time.monotonic() < self._due:
            return
        host = chainer.get_device("@numpy")
        arrays = [host.send(array).ravel() for array in (*_arrays(model), errors)]
        state: NDArray[np.float64] = np.concatenate([[float(updates)], *arrays])
        self._kept.save(self._name, state)
        self._due = time.monotonic() + SECONDS


def _arrays(model: chainer.Link) -> list[Any]:
    return [parameter.array for _, parameter in sorted(model.namedparams())]
