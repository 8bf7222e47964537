"""Send the factors of sample gradients between ranks, instead of the gradients.

The inputs and output gradients of a layer determine its rows. ``gather`` gives every rank these
factors for all samples. ``shares`` gives every rank all samples at its own share of the
coordinates: it gathers the smaller of two factors and transposes the larger one. Each rank then
works on its share with the same operators as a single process.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import inf, prod
from typing import Any

import numpy as np

from chainrob.distributed.ranks import Partition
from chainrob.sample_gradients import Dense, Joined, OuterProducts, SampleGradients
from chainrob.sample_gradients.operator_base import Array, Index

__all__ = [
    "Share",
    "common_tiles",
    "gather",
    "gathered_layer",
    "gathered_numbers",
    "shared_numbers",
    "shares",
]


@dataclass(frozen=True)
class Share:
    """All samples at one rank's share of a block of coordinates."""

    part: SampleGradients
    index: Index
    """The place of the block in the parameter."""
    counts: list[int]
    """For each rank, how much of the block it has."""
    axis: int
    """The axis of an estimate of ``part`` along which the block is split; negative."""


def gather(local: SampleGradients, partition: Partition) -> SampleGradients:
    """The operator of all samples, on every rank.

    Args:
        local: The operator of this rank's samples.
        partition: The split of the samples over the ranks.
    """
    gathered = partition.ranks.gather
    return local.map_factors(lambda one, axis: gathered(one, partition.counts, axis - one.ndim))


def gathered_layer(local: SampleGradients, partition: Partition) -> SampleGradients:
    """As ``gather``, also for joined parameters. A bias still shares the factors of its weights."""
    whole: dict[int, Any] = {}

    def gathered(part: SampleGradients) -> SampleGradients:
        weights = whole.get(id(getattr(part, "weights", None)))
        found = gather(part, partition) if weights is None else weights.bias()
        whole[id(part)] = found
        return found

    parts = local.each(gathered)
    return Joined(parts) if isinstance(parts, tuple) else parts


def gathered_numbers(local: SampleGradients, partition: Partition) -> float:
    """The average number of numbers that a rank sends for ``gather``."""
    ring = partition.total * (partition.ranks.size - 1) / partition.ranks.size
    return ring * local.numbers_per_sample()


def shares(local: SampleGradients, partition: Partition) -> Iterator[Share]:
    """The shares of the coordinates that this rank has, with all samples, block by block.

    Args:
        local: The operator of this rank's samples.
        partition: The split of the samples over the ranks.
    """
    factors = local.outer_factors
    if factors is not None and _factors_are_smaller(local, partition):
        (x, gy), ranks, counts = factors, partition.ranks, partition.counts
        whole = (slice(0, local.shape[0]), slice(0, local.shape[1]))
        if _per_sample(gy) >= _per_sample(x):
            dealt = partition.even(local.shape[0])
            gy = ranks.transpose(gy, counts, -3, dealt, -1)
            yield Share(OuterProducts(ranks.gather(x, counts, -3), gy), whole, dealt, -2)
        else:
            dealt = partition.even(local.shape[1])
            x = ranks.transpose(x, counts, -3, dealt, -1)
            yield Share(OuterProducts(x, ranks.gather(gy, counts, -3)), whole, dealt, -1)
        return
    for index, values in common_tiles(local, partition):
        dealt = partition.even(values.shape[-1])
        rows = partition.ranks.transpose(values, partition.counts, -2, dealt, -1)
        yield Share(Dense(rows, len(local.replicas)), index, dealt, -1)


def shared_numbers(local: SampleGradients, partition: Partition) -> float:
    """The average number of numbers that a rank sends for ``shares``."""
    size = partition.ranks.size
    rows = partition.total * prod(local.replicas) * local.size * (size - 1) / size**2
    return min(rows, _factor_numbers(local, partition))


def _factor_numbers(local: SampleGradients, partition: Partition) -> float:
    if local.outer_factors is None:
        return inf
    size = partition.ranks.size
    small, large = sorted(map(_per_sample, local.outer_factors))
    return partition.total / size * (size - 1) * (small + large / size)


def _factors_are_smaller(local: SampleGradients, partition: Partition) -> bool:
    return shared_numbers(local, partition) == _factor_numbers(local, partition)


def common_tiles(local: SampleGradients, partition: Partition) -> Iterator[tuple[Index, Array]]:
    """The rows of this rank, a tile of coordinates at a time. All ranks have the same tiles.

    An operator chooses its tiles by its number of rows. So all ranks fill up their rows to the
    largest number of rows on any rank.
    """
    ranks, most = partition.ranks, max(partition.counts)
    count = local.n_samples
    if min(partition.counts) == 0:
        tiles = [index for index, _ in local.tiles()] if ranks.rank == partition.largest else None
        layout = ranks.mpi.bcast(tiles, root=partition.largest)
        if count == 0:
            for index in layout:
                extent = prod(one.stop - one.start for one in index)
                yield index, local.xp.zeros((*local.replicas, 0, extent), local.compute_dtype)
            return
    if count < most:
        local = local.take(local.xp.asarray(np.minimum(np.arange(most), count - 1)))
    for index, values in local.tiles():
        yield index, values[..., :count, :]


def _per_sample(array: Any) -> int:
    """How many numbers an array (*R, N, S, K) has for one sample."""
    return prod(array.shape[:-3]) * prod(array.shape[-2:])
