"""DistributedDataParallel: one estimate over the samples of all ranks.

Inside the wrapper's forward pass a robust layer knows its process group. In the backward pass the
ranks exchange what the estimate needs (``chainrob.distributed``). They do so over a gloo group of
their own, which keeps these messages apart from the wrapper's. All ranks then hold the same
estimate, and the wrapper's average leaves it as it is.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from chainrob.distributed.ranks import Ranks
from chainrob.distributed.robustifier import Distributed
from chainrob.kernels import array_module, to_host
from chainrob.sample_gradients.operator_base import Array

__all__ = ["TorchRanks", "active", "all_agree", "over_ranks"]


def active(aggregation: Any, where: str) -> Any:
    """The process group of the wrapper whose forward pass this is; None outside or with one rank.

    Raises:
        RuntimeError: a combination that cannot be right.
    """
    owner = aggregation.owner
    if owner is not None and "_is_fsdp_managed_module" in owner.__dict__:
        raise RuntimeError(
            f"{where}: FSDP splits the parameters over the ranks, which robust layers cannot "
            f"estimate; use DistributedDataParallel"
        )
    if owner is not None and "_is_replica" in owner.__dict__:
        raise RuntimeError(
            f"{where}: DataParallel runs copies of the module on parts of the batch, and each "
            f"would be estimated by itself; use DistributedDataParallel"
        )
    wrapper = DistributedDataParallel._active_ddp_module
    if wrapper is None:
        return None
    group = wrapper.process_group
    if dist.get_world_size(group) == 1:
        return None
    if wrapper._join_config.enable:
        raise RuntimeError(
            f"{where}: in Join a rank without data leaves the others alone, but an estimate needs "
            f"all ranks; give all of them equally many batches"
        )
    if aggregation.loss_reduction == "sum":
        raise RuntimeError(
            f"{where}: DistributedDataParallel averages over the ranks, so with "
            f"loss_reduction='sum' the gradient would be too small by their number; use 'mean'"
        )
    return group


def over_ranks(plan: Any, group: Any) -> Distributed:
    """The robustifier of a plan over the samples of all ranks of a process group."""
    if isinstance(plan.robustifier, Distributed):
        return plan.robustifier
    return Distributed(plan.robustifier, _ranks_of(group))


def all_agree(group: Any, flag: bool) -> bool:
    """Whether the flag is set on all ranks of a process group."""
    return _ranks_of(group).all(flag)


_ranks: weakref.WeakKeyDictionary[Any, TorchRanks] = weakref.WeakKeyDictionary()


def _ranks_of(group: Any) -> TorchRanks:
    found = _ranks.get(group)
    if found is None:
        own = dist.new_group(
            dist.get_process_group_ranks(group), backend="gloo", use_local_synchronization=True
        )
        found = _ranks[group] = TorchRanks(own)
    return found


class TorchRanks(Ranks):
    """The ranks of a gloo process group; arrays of a GPU are staged through the host's memory."""

    def __init__(self, group: Any) -> None:
        self.group = group
        self.rank: int = dist.get_rank(group)
        self.size: int = dist.get_world_size(group)

    def allreduce(self, array: Array, operation: Literal["sum", "max"] = "sum") -> Array:
        total = np.array(to_host(array), order="C")
        if total.size:
            # Every rank adds up in the order of the ranks: the same bits on all of them.
            parts = [np.empty_like(total) for _ in range(self.size)]
            self._all_gather(parts, total)
            combine = {"sum": np.add, "max": np.maximum}[operation]
            for number, part in enumerate(parts):
                total = part if number == 0 else combine(total, part)
        return array_module(array).asarray(total)

    def broadcast(self, array: Array) -> Array:
        sent = np.array(to_host(array), order="C")
        if sent.size:
            dist.broadcast(_bytes(sent), dist.get_global_rank(self.group, 0), group=self.group)
        return array_module(array).asarray(sent)

    def gather(self, array: Array, counts: Sequence[int], axis: int) -> Array:
        part = np.ascontiguousarray(np.moveaxis(to_host(array), axis, 0))
        parts = [np.empty((count, *part.shape[1:]), part.dtype) for count in counts]
        if sum(one.size for one in parts):
            self._all_gather(parts, part)
        whole = np.concatenate(parts, axis=0)
        return array_module(array).asarray(np.moveaxis(whole, 0, axis))

    def transpose(
        self, array: Array, counts: Sequence[int], axis: int, columns: Sequence[int], along: int
    ) -> Array:
        host = np.moveaxis(to_host(array), (axis, along), (0, 1))
        edges = np.cumsum([0, *columns])
        outgoing = [np.ascontiguousarray(host[:, i:j]) for i, j in pairwise(edges)]
        shape = (columns[self.rank], *host.shape[2:])
        incoming = [np.empty((count, *shape), host.dtype) for count in counts]
        self._exchange(incoming, outgoing)
        whole = np.concatenate(incoming, axis=0)
        return array_module(array).asarray(np.moveaxis(whole, (0, 1), (axis, along)))

    def _all_gather(self, parts: list[np.ndarray], mine: np.ndarray) -> None:
        """Every rank's array; gloo takes equal lengths only, so the shorter ones are filled up."""
        longest = max(one.nbytes for one in parts)
        sent = np.zeros(longest, np.uint8)
        sent[: mine.nbytes] = mine.reshape(-1).view(np.uint8)
        received = [torch.empty(longest, dtype=torch.uint8) for _ in parts]
        dist.all_gather(received, torch.from_numpy(sent), group=self.group)
        for part, found in zip(parts, received, strict=True):
            part.reshape(-1).view(np.uint8)[...] = found.numpy()[: part.nbytes]

    def _exchange(self, incoming: list[np.ndarray], outgoing: list[np.ndarray]) -> None:
        """Every rank's part for every other one, by messages between pairs."""
        incoming[self.rank][...] = outgoing[self.rank]
        waiting = []
        for other in range(self.size):
            if other == self.rank:
                continue
            peer = dist.get_global_rank(self.group, other)
            if outgoing[other].size:
                waiting.append(dist.isend(_bytes(outgoing[other]), peer, group=self.group))
            if incoming[other].size:
                waiting.append(dist.irecv(_bytes(incoming[other]), peer, group=self.group))
        for one in waiting:
            one.wait()


def _bytes(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array.reshape(-1).view(np.uint8))
