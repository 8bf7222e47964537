"""An array with its sample axis distributed over ranks, for a robustifier's own formula.

A coordinate-wise robustifier writes ``reduce(values)`` in array operations along the sample axis.
Here these operations run over all ranks together. Sums and means add up the ranks' parts. Medians
and partitions use a distributed selection. All other operations work entry by entry on the values
of each rank. So moments, truncated sums, fixed-point iterations and order statistics need no second
formula, and no value leaves its rank.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

from chainrob.distributed.ranks import Partition
from chainrob.distributed.selection_over_ranks import largest, order_statistics
from chainrob.kernels import array_module
from chainrob.sample_gradients.operator_base import Array

__all__ = ["DistributedValues", "NotDistributableError"]


class NotDistributableError(TypeError):
    """An operation that needs the values of all ranks in one place."""


class DistributedValues(NDArrayOperatorsMixin):
    """Values (*R, N, d). This rank holds (*R, n, d) of them.

    Results with a sample axis are distributed too. Results without it, or with a sample axis of
    length 1, are ordinary arrays, the same on all ranks.

    Args:
        local: This rank's values.
        partition: The split of the samples over the ranks.
    """

    def __init__(self, local: Array, partition: Partition) -> None:
        self.local = local
        self.partition = partition

    @property
    def shape(self) -> tuple[int, ...]:
        return (*self.local.shape[:-2], self.partition.total, self.local.shape[-1])

    @property
    def dtype(self) -> np.dtype:
        return self.local.dtype

    @property
    def ndim(self) -> int:
        return self.local.ndim

    @property
    def size(self) -> int:
        return int(np.prod(self.shape))

    def astype(self, dtype: Any, copy: bool = True) -> DistributedValues:
        return DistributedValues(self.local.astype(dtype, copy=copy), self.partition)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> Any:
        raise NotDistributableError(f"distributed values cannot be indexed, found {index!r}")

    def __array__(self, *args: Any, **kwargs: Any) -> np.ndarray:
        raise NotDistributableError("distributed values cannot become one array")

    # -- along the sample axis

    def sum(self, axis: Any = None, dtype: Any = None, keepdims: bool = False) -> Array:
        self._need_sample_axis("sum", axis)
        part = self.local.sum(axis=-2, dtype=dtype, keepdims=keepdims)
        return self.partition.ranks.allreduce(part)

    def mean(self, axis: Any = None, dtype: Any = None, keepdims: bool = False) -> Array:
        kind = dtype or (self.dtype if self.dtype.kind == "f" else np.dtype(np.float64))
        total = self.sum(axis, kind, keepdims)
        return total / total.dtype.type(self.partition.total)

    def max(self, axis: Any = None, keepdims: bool = False) -> Array:
        self._need_sample_axis("max", axis)
        found = largest(self.local, self.partition.ranks)
        return found[..., None, :] if keepdims else found

    def min(self, axis: Any = None, keepdims: bool = False) -> Array:
        return -(-self).max(axis, keepdims)

    def any(self, axis: Any = None, keepdims: bool = False) -> Array:
        return (self != 0).sum(axis, np.int64, keepdims) > 0

    def all(self, axis: Any = None, keepdims: bool = False) -> Array:
        return (self == 0).sum(axis, np.int64, keepdims) == 0

    def order_statistics(self, *ks: int) -> list[Array]:
        """For each k, from 0, the k-th smallest values: (*R, 1, d)."""
        found = order_statistics(self.local, ks, self.partition.total, self.partition.ranks)
        return [one[..., None, :] for one in found]

    def _need_sample_axis(self, name: str, axis: Any) -> None:
        if axis not in (-2, self.ndim - 2):
            raise NotDistributableError(f"{name}: axis must be the sample axis -2, found {axis!r}")

    # -- NumPy's protocols

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        if method != "__call__" or set(options) - {"dtype"}:
            raise NotDistributableError(f"numpy.{ufunc.__name__}.{method} with {sorted(options)}")
        if ufunc is np.matmul:
            return self._mixed(*inputs)
        xp = array_module(self.local)
        function = getattr(xp, ufunc.__name__)
        return DistributedValues(function(*map(self._aligned, inputs), **options), self.partition)

    def __array_function__(self, function: Any, types: Any, args: Any, options: Any) -> Any:
        answer = _FUNCTIONS.get(function.__name__)
        if answer is None:
            raise NotDistributableError(f"numpy.{function.__name__} of distributed values")
        return answer(*args, **options)

    def _aligned(self, other: Any) -> Any:
        """The part of another operand that belongs to this rank's samples."""
        if isinstance(other, DistributedValues):
            return other.local
        if getattr(other, "ndim", 0) >= 2 and other.shape[-2] == self.partition.total > 1:
            return other[..., self.partition.start : self.partition.stop, :]
        return other

    def _mixed(self, matrix: Any, values: Any) -> Array:
        """``matrix`` (*R, M, N) @ values: M combinations of the rows, the same on all ranks."""
        if not isinstance(values, DistributedValues) or isinstance(matrix, DistributedValues):
            raise NotDistributableError("matmul: only the second factor may be distributed")
        xp = array_module(values.local)
        return self.partition.ranks.allreduce(xp.matmul(self.partition.mine(matrix), values.local))


class _Ordered:
    """The result of ``partition`` and ``sort``. It selects values only when they are indexed."""

    def __init__(self, values: DistributedValues) -> None:
        self.values = values
        self.shape = values.shape
        self.dtype = values.dtype

    def __getitem__(self, index: Any) -> Any:
        if not isinstance(index, tuple) or len(index) != 3:
            raise NotDistributableError(f"ordered values: index as [..., k, :], found {index!r}")
        rest, chosen, columns = index
        if rest is not Ellipsis or columns != slice(None):
            raise NotDistributableError(f"ordered values: index as [..., k, :], found {index!r}")
        total = self.shape[-2]
        if isinstance(chosen, int | np.integer):
            return self.values.order_statistics(range(total)[int(chosen)])[0][..., 0, :]
        if not isinstance(chosen, slice):
            raise NotDistributableError(
                f"ordered values: the index must be a number or a slice, found {chosen!r}"
            )
        start, stop, step = chosen.indices(total)
        if step != 1 or stop <= start:
            raise NotDistributableError(f"ordered values: a slice must be like a:b, found {chosen}")
        if stop - start == 1:
            return self.values.order_statistics(start)[0]
        return _Between(self.values, start, stop)

    def __array_function__(self, function: Any, types: Any, args: Any, options: Any) -> Any:
        return self.values.__array_function__(function, types, args, options)


class _Between:
    """The sorted values ``start`` to ``stop`` - 1 of every coordinate."""

    def __init__(self, values: DistributedValues, start: int, stop: int) -> None:
        self.values, self.start, self.stop = values, start, stop
        self.shape = (*values.shape[:-2], stop - start, values.shape[-1])
        self.dtype = values.dtype

    def sum(self, axis: int, dtype: Any = None, keepdims: bool = False) -> Array:
        values = self.values
        values._need_sample_axis("sum", axis)
        xp = array_module(values.local)
        low, high = values.order_statistics(self.start, self.stop - 1)
        inside = (values > low) & (values < high)
        middle = _where(inside, values, np.zeros((), self.dtype)).sum(-2, dtype, keepdims=True)
        # The numbers of values in the range that equal its ends.
        at_low = (values <= low).sum(-2, np.int64, keepdims=True) - self.start
        at_high = self.stop - (values < high).sum(-2, np.int64, keepdims=True)
        ends = low * at_low.astype(low.dtype) + high * at_high.astype(low.dtype)
        total = xp.where(low < high, middle + ends, low * (self.stop - self.start))
        return total if keepdims else total[..., 0, :]

    def mean(self, axis: int, dtype: Any = None, keepdims: bool = False) -> Array:
        total = self.sum(axis, dtype, keepdims)
        return total / total.dtype.type(self.stop - self.start)


def _where(condition: Any, yes: Any, no: Any) -> DistributedValues:
    pivot = next(one for one in (condition, yes, no) if isinstance(one, DistributedValues))
    xp = array_module(pivot.local)
    return DistributedValues(xp.where(*map(pivot._aligned, (condition, yes, no))), pivot.partition)


def _median(values: DistributedValues, axis: Any = None, keepdims: bool = False) -> Array:
    values._need_sample_axis("median", axis)
    total = values.shape[-2]
    ks = sorted({(total - 1) // 2, total // 2})
    middle = values.order_statistics(*ks)
    xp = array_module(values.local)
    median = middle[0] if len(ks) == 1 else xp.stack(middle).mean(axis=0)
    return median if keepdims else median[..., 0, :]


def _ordered(values: DistributedValues, *args: Any, axis: int = -1, **options: Any) -> _Ordered:
    values._need_sample_axis("partition", axis)
    return _Ordered(values)


def _take(ordered: Any, indices: Any, axis: Any = None) -> Array:
    if not isinstance(ordered, _Ordered) or axis not in (-2, len(ordered.shape) - 2):
        raise NotDistributableError("take: only along the sample axis of ordered values")
    xp = array_module(ordered.values.local)
    ks = [int(k) for k in np.asarray(indices).reshape(-1)]
    found = ordered.values.order_statistics(*ks)
    return xp.concatenate(found, axis=-2) if np.ndim(indices) else found[0][..., 0, :]


def _local(name: str) -> Callable[..., DistributedValues]:
    """A NumPy function that works entry by entry."""

    def answer(values: Any, *args: Any, **options: Any) -> DistributedValues:
        if not isinstance(values, DistributedValues):
            raise NotDistributableError(f"numpy.{name} with distributed values as a later argument")
        function = getattr(array_module(values.local), name)
        args = tuple(map(values._aligned, args))
        return DistributedValues(function(values.local, *args, **options), values.partition)

    return answer


def _method(name: str) -> Callable[..., Array]:
    def answer(values: Any, axis: Any = None, **options: Any) -> Array:
        return getattr(values, name)(axis=axis, **options)

    return answer


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "where": _where,
    "median": _median,
    "partition": _ordered,
    "sort": _ordered,
    "take": _take,
    "amax": _method("max"),
    "amin": _method("min"),
    **{name: _method(name) for name in ("sum", "mean", "max", "min", "any", "all")},
    **{
        name: _local(name)
        for name in ("clip", "zeros_like", "ones_like", "full_like", "nan_to_num")
    },
}
"""The NumPy functions, besides ufuncs, that robustifiers use on values with a sample axis."""
