"""Which rows of a layer are one sample, where the first axis does not say it."""

from __future__ import annotations

import threading
import warnings
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from chainrob.kernels import to_host
from chainrob.sample_gradients import RowIndex

_state = threading.local()


class SampleAxisWarning(UserWarning):
    """A robust layer sees rows that look as if they were no samples; see ``chainrob.samples``."""


class SampleIndex:
    """What ``samples`` says: the sample of each row, by the number of rows that a layer has.

    Args:
        indices: integer arrays of different lengths.
        n_samples: N.
        axis: which axis of a layer's input counts the samples, where it has several batch axes.
    """

    def __init__(
        self, indices: tuple[np.ndarray, ...] = (), n_samples: int | None = None, axis: int = 0
    ) -> None:
        self.by_length = {one.size: one for one in indices}
        self.n_samples = n_samples
        self.axis = axis

    def rows(self, n_rows: int, function: str = "a layer") -> RowIndex | None:
        """The index of a layer with so many rows; None where each row is a sample of its own.

        Raises:
            ValueError: no index of this length, and neither as many rows as samples.
        """
        if self.n_samples is None:
            return None
        index = self.by_length.get(n_rows)
        if index is None and n_rows == self.n_samples:
            return None
        if index is None and not self.by_length and n_rows < self.n_samples:
            index = np.arange(n_rows)
        if index is None:
            lengths = sorted(self.by_length) or "no index"
            raise ValueError(
                f"samples: {function} has {n_rows} rows, which must be the length of an index "
                f"({lengths}) or n_samples ({self.n_samples})"
            )
        return RowIndex(index, self.n_samples)


@contextmanager
def samples(*index: Any, n_samples: int | None = None, axis: int = 0) -> Iterator[None]:
    r"""Inside, robust layers know which of their rows are one sample.

    A robust layer takes the entries of its input's first axis for the samples. Where that is wrong,
    its estimate is silently one of something else: of words, tree nodes or pixels, or of a single
    sample, which is the plain sum. Run the forward pass inside and say what belongs together:

    .. math:: g_n = \sum_{r:\, \text{index}_r = n} g_{y_r} x_r^\top

    - ``samples(index)``: row r of a layer with ``len(index)`` rows belongs to sample ``index[r]``.
      Layers with N rows have one row a sample. Several indices serve layers with different numbers
      of rows: ``samples(words, sentences)``.
    - ``samples(n_samples=N)``: a batch that shrinks (``F.transpose_sequence``): the first rows are
      left, so row r is sample r of N.
    - ``samples(axis=1)``: layers with several batch axes (``linear`` with ``n_batch_axes``,
      ``embed_id`` of a matrix of ids) have the samples in this one; layers with one keep it.

    It holds for what is run inside, also for its backward pass outside, in this thread. An inner
    call takes the place of an outer one; ``samples()`` puts the first axis in charge again.

    Args:
        index: integer arrays or sequences, each (rows,), from 0 to N - 1, of different lengths.
        n_samples: N; by default one more than the largest number in the indices. A sample without
            a row has a gradient of zero, so give it where the last samples may have none.
        axis: the batch axis that counts the samples.

    Raises:
        ValueError: an index that is no vector of such integers, two of one length, both an index
            and an axis; and in the backward pass: a layer whose rows no index fits.

    Example:
        >>> import numpy as np, chainrob
        >>> import chainer
        >>> words = [np.ones((3, 2), np.float32), np.ones((1, 2), np.float32)]  # two sentences
        >>> layer = chainrob.links.Linear(2, 1, robustifier=chainrob.GeometricMedian())
        >>> with chainrob.samples([0, 0, 0, 1]):
        ...     y = layer(np.concatenate(words))
        >>> layer.cleargrads()
        >>> chainer.functions.mean(y).backward()
        >>> np.round(layer.b.grad, 4)  # between 2 * 3 / 4 and 2 * 1 / 4
        array([1.], dtype=float32)
    """
    given = tuple(_checked(one) for one in index)
    lengths = [one.size for one in given]
    if len(set(lengths)) < len(lengths):
        raise ValueError(f"samples: the indices must have different lengths, found {lengths}")
    if isinstance(axis, bool) or not isinstance(axis, int) or axis < 0:
        raise ValueError(f"samples: axis must be an integer from 0, found {axis!r}")
    if axis and (given or n_samples is not None):
        raise ValueError("samples: give an index or n_samples, or an axis, found both")
    largest = max([int(one.max(initial=-1)) for one in given], default=-1)
    if n_samples is None and given:
        n_samples = largest + 1
    if n_samples is not None and n_samples <= largest:
        raise ValueError(
            f"samples: n_samples must be above all numbers in the index, found {n_samples} and "
            f"{largest}"
        )
    with using(SampleIndex(given, n_samples, axis)):
        yield


@contextmanager
def using(found: SampleIndex | None) -> Iterator[None]:
    """Inside, ``current_samples()`` is this one."""
    before = current_samples()
    _state.samples = found
    try:
        yield
    finally:
        _state.samples = before


def current_samples() -> SampleIndex | None:
    """What ``samples`` said last in this thread; None outside of it."""
    return getattr(_state, "samples", None)


def _checked(index: Any) -> np.ndarray:
    array = np.asarray(to_host(index))
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise ValueError(
            f"samples: an index must be a vector of integers, found {array.dtype} of shape "
            f"{array.shape}"
        )
    array = array.astype(np.int64)
    if array.size and array.min() < 0:
        raise ValueError(f"samples: an index must count from 0, found {int(array.min())}")
    return array


# -- layers whose rows look as if they were no samples

_warned: weakref.WeakSet[Any] = weakref.WeakSet()
_counts: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()

ADVICE = "say with chainrob.samples which rows are one sample (manual: which axis is the sample)"


def watch_count(owner: Any, n_samples: int, scope: str = "layer", name: str | None = None) -> None:
    """Warn, once a layer, where N is 1, or another one than before in the same step (which
    ``scope='model'`` refuses).

    Args:
        owner: the layer.
        n_samples: N.
        scope: how it is estimated.
        name: the layer's name for the message; by default its own ``name``.
    """
    before = n_samples if scope == "model" else _counts.setdefault(owner, n_samples)
    if n_samples != 1 and n_samples == before:
        return
    if n_samples == 1:
        found = "saw a single sample, of which every estimate is the plain gradient"
    else:
        found = f"saw {before} samples and then {n_samples} in one step, and estimated each apart"
    warn_of_axis(owner, found, name)


def warn_of_axis(owner: Any, found: str, name: str | None = None, *, again: bool = False) -> None:
    """Warn, once a layer, of what it saw; ``again`` also where it was warned of before."""
    if owner in _warned and not again:
        return
    name = getattr(owner, "name", None) if name is None else name
    layer = f"{type(owner).__name__}{f' {name!r}' if name else ''}"
    _warned.add(owner)
    warnings.warn(
        f"{layer} {found}; where the first axis of its input does not count the samples, {ADVICE}",
        SampleAxisWarning,
        stacklevel=2,
    )


def new_step(_: Any = None) -> None:
    """The gradients were cleared: numbers of samples may change."""
    _counts.clear()
