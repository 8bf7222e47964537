"""The sample gradients of a batch that is split over ranks, as one operator."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any, Literal, get_args

import numpy as np

from chainrob.distributed.distributed_values import DistributedValues
from chainrob.distributed.ranks import Partition
from chainrob.distributed.redistribution import (
    common_tiles,
    gather,
    gathered_numbers,
    shared_numbers,
    shares,
)
from chainrob.sample_gradients import Joined, SampleGradients
from chainrob.sample_gradients.operator_base import Array, Index, Reduction, RowSquares

__all__ = ["EXCHANGES", "DistributedGradients", "Exchange", "distributed_gradients"]

Exchange = Literal["auto", "factors", "reductions"]
EXCHANGES: tuple[str, ...] = get_args(Exchange)

WORTH = 256
"""Factors are exchanged if this takes at most as much traffic as this many allreduces of the
gradient. Reductions send less, but their selection in rounds takes far more time than its bytes
(measured in ``benchmarks/scaling.py``)."""

FEW = 1 << 16
"""Up to this many numbers, factors are always exchanged: they are sent faster than the tens of
messages of a reduction."""

MOST = 1 << 28
"""The most numbers of other ranks' factors that a rank holds (1 GiB in float32)."""

NO_ROWS = -(2**20)
"""The exponent of a rank without samples, below all others, so that it does not matter."""


class DistributedGradients(SampleGradients):
    """The N rows of all ranks, in the order of the ranks. Each rank holds its own rows.

    All methods are collective: all ranks call them, and get the same arrays. Weighted sums and
    moments take one or two allreduces of the parameter's size. For Gram matrices the ranks exchange
    inputs and output gradients of the layer (its factors), and each rank does its share of the
    work. Coordinate-wise reductions do the same with ``exchange='factors'``. With
    ``exchange='reductions'`` they send sums and counts only. Sample gradients themselves are sent
    only if they have no smaller form, a tile at a time, or if the robustifier is a plain function
    of the rows.

    Args:
        local: The operator of this rank's samples, possibly without samples.
        partition: The split of the samples over the ranks.
        exchange: ``'factors'``, ``'reductions'``, or ``'auto'``: factors, unless they take more
            traffic than 256 allreduces of the gradient, or more than 2^28 numbers.
        exponent: The rows are 2^-exponent times those of ``local``.
    """

    def __init__(
        self,
        local: SampleGradients,
        partition: Partition,
        exchange: Exchange = "auto",
        exponent: int = 0,
    ) -> None:
        self.local = local
        self.partition = partition
        self.exchange = exchange
        self.exponent = exponent
        self.ranks = partition.ranks
        self.replicas = local.replicas
        self.n_samples = partition.total
        self.shape = local.shape
        self.dtype = local.dtype
        self._gathered: SampleGradients | None = None

    @property
    def xp(self) -> Any:
        return self.local.xp

    # -- linear operations: the sum of the ranks' results

    def weighted_sum(self, weights: Array) -> Array:
        # All ranks computed the weights from the same numbers. Different processors may still round
        # differently, and a choice that depends on the last bit must be the same on all ranks.
        return self._added_up(self.partition.mine(self.ranks.broadcast(weights)))

    def mean(self) -> Array:
        n_local = self.local.n_samples
        weights = self.xp.full((*self.replicas, n_local), 1.0 / self.n_samples, self.compute_dtype)
        return self._added_up(weights)

    # -- Gram matrices: the samples of all ranks at some coordinates, or at all coordinates

    def gram(self) -> Array:
        return self._gram("gram")

    def centered_gram(self) -> Array:
        # Each rank may center its coordinates on a different row. Together this is still one
        # common translation of all rows.
        return self._gram("centered_gram")

    def _gram(self, question: str) -> Array:
        partition, size = self.partition, self.ranks.size
        in_share = shared_numbers(self.local, partition) * self.local.dtype.itemsize
        matrix = 8 * prod(self.replicas) * self.n_samples**2
        in_share += 2 * matrix * (size - 1) / size
        if gathered_numbers(self.local, partition) * self.local.dtype.itemsize <= in_share:
            return getattr(self._scaled(self.gathered()), question)()
        total = self.xp.zeros((*self.replicas, self.n_samples, self.n_samples), np.float64)
        for share in shares(self.local, partition):
            if share.part.size:
                total += getattr(self._scaled(share.part), question)()
        return self.ranks.allreduce(total)

    # -- coordinate-wise reductions

    def _reduce(self, reduction: Reduction, dtype: Any, squares: RowSquares | None) -> Array:
        layer = self.local.as_layer()
        if layer is not self.local and squares is None and not reduction.by_replica:
            return self._over(layer).reduce(reduction, dtype)
        # Squares need all values of a coordinate in one place.
        if squares is None and not self._by_factors():
            try:
                return self._reduce_distributed(reduction, dtype)
            except (TypeError, AttributeError, IndexError):
                # The formula needs more than distributed values can do. It fails on all ranks
                # alike. If the formula itself is wrong, it fails again below.
                pass
        if self.local.sparse:
            # Most of its coordinates are zero, and the operator of all rows knows which.
            return self._scaled(self.gathered()).reduce(reduction, dtype, squares)
        out = self.xp.empty((*self.replicas, *self.shape), dtype or self.dtype)
        lead = (slice(None),) * len(self.replicas)
        own = None if squares is None else squares.like()
        for share in shares(self.local, self.partition):
            mine = self._scaled(share.part).reduce(reduction, dtype or self.dtype, own)
            target = out[(*lead, *share.index, ...)]
            target[...] = self.ranks.gather(mine, share.counts, share.axis).reshape(target.shape)
        if squares is not None and own is not None:
            squares.add(self.ranks.allreduce(own.let_in), self.ranks.allreduce(own.total))
        return out

    def _reduce_distributed(self, reduction: Reduction, dtype: Any) -> Array:
        partition = self.partition
        out = self.xp.empty((*self.replicas, *self.shape), dtype or self.dtype)
        lead = (slice(None),) * len(self.replicas)
        for index, values in common_tiles(self._scaled(self.local), partition):
            target = out[(*lead, *index, ...)]
            target[...] = reduction.of_values(DistributedValues(values, partition)).reshape(
                target.shape
            )
        return out

    def _by_factors(self) -> bool:
        if self.exchange != "auto":
            return self.exchange == "factors"
        asked = gathered_numbers if self.local.sparse else shared_numbers
        numbers = asked(self.local, self.partition)
        size = self.ranks.size
        allreduce = 2.0 * prod(self.replicas) * self.size * (size - 1) / size
        return numbers <= min(max(WORTH * allreduce, FEW), MOST)

    # -- all rows

    def gathered(self) -> SampleGradients:
        """The operator of all samples, on every rank, without the exponent of this operator."""
        if self._gathered is None:
            self._gathered = gather(self.local, self.partition)
        return self._gathered

    def tiles(self, budget: int | None = None) -> Iterator[tuple[Index, Array]]:
        return self._scaled(self.gathered()).tiles(budget)

    def materialize(self, limit: int | None = None) -> Array:
        return self._scaled(self.gathered()).materialize(limit)

    def unflatten(self, estimate: Array) -> Any:
        return self.local.unflatten(estimate)

    # -- parts

    def take(self, rows: Array) -> SampleGradients:
        xp = self.xp
        chosen = np.asarray(rows if xp is np else rows.get())
        if np.any(np.diff(chosen) <= 0):
            # Rows stay on their ranks. Another order or a repetition is a combination of rows.
            matrix = np.eye(self.n_samples)[chosen]
            return self.mix(xp.asarray(matrix))
        partition, mine = self.partition.take(chosen)
        return self._over(self.local.take(xp.asarray(mine)), partition)

    def replica(self, index: tuple[int | slice, ...]) -> DistributedGradients:
        return self._over(self.local.replica(index))

    def units(self) -> DistributedGradients:
        return self._over(self.local.units())

    def finite_rows(self) -> Array:
        finite = self.xp.zeros((*self.replicas, 0), bool)
        if self.local.n_samples:
            finite = self.local.finite_rows()
        return self.ranks.gather(finite, self.partition.counts, -1)

    def all_finite(self) -> bool:
        if self.partition.finite:
            return True
        return self.ranks.all(self.local.n_samples == 0 or self.local.all_finite())

    def surely_finite(self) -> Array:
        return self.xp.asarray(self.all_finite())

    def magnitude(self) -> int:
        exponent = int(self.local.magnitude()) if self.local.n_samples else NO_ROWS
        return int(self.ranks.allreduce(np.array([exponent]), "max")[0]) - self.exponent

    def scaled_down(self, exponent: int) -> SampleGradients:
        scaled = self._over(self.local)
        scaled.exponent += exponent
        scaled._gathered = self._gathered
        return scaled

    # -- inside

    def _added_up(self, weights: Array) -> Array:
        """The weighted sum of the rows of all ranks, from the weights of this rank's rows."""
        part = self.xp.zeros((*self.replicas, *self.shape), self.compute_dtype)
        if self.local.n_samples:
            part = self._scaled(self.local).weighted_sum(weights)
        total = self.ranks.allreduce(part.astype(self.compute_dtype, copy=False))
        return total.astype(self.dtype, copy=False)

    def _scaled(self, gradients: SampleGradients) -> SampleGradients:
        if self.exponent and gradients.n_samples:
            return gradients.scaled_down(self.exponent)
        return gradients

    def _over(
        self, local: SampleGradients, partition: Partition | None = None
    ) -> DistributedGradients:
        return DistributedGradients(
            local, partition or self.partition, self.exchange, self.exponent
        )


def distributed_gradients(
    local: SampleGradients, partition: Partition, exchange: Exchange = "auto"
) -> SampleGradients:
    """The operator of the rows of all ranks. Joined parameters are distributed one by one."""
    found = local.each(lambda part: DistributedGradients(part, partition, exchange))
    return Joined(found) if isinstance(found, tuple) else found
