"""Micro-batches of one step as one batch of samples."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from chainrob.aggregation import LayerGradients
from chainrob.kernels import array_module
from chainrob.robustifiers.errors import NonFiniteGradientError
from chainrob.torch import loss_scale
from chainrob.torch.model_group import Pass
from chainrob.torch.tensor_arrays import computing, to_tensor

__all__ = ["accumulate_samples", "running"]


_running: weakref.WeakKeyDictionary[Any, Accumulation] = weakref.WeakKeyDictionary()


def running(owner: Any) -> Accumulation | None:
    """The accumulation that a layer takes part in."""
    return _running.get(owner) if _running and owner is not None else None


@contextmanager
def accumulate_samples(module: torch.nn.Module) -> Iterator[None]:
    r"""Join the micro-batches of one step: one estimate from the samples of all of them.

    .. math:: \hat g = R\big(\{N\, c_{mn}\}_{mn}\big), \qquad N = \sum_m N_m

    with :math:`c_{mn}` what sample n of micro-batch m adds to the gradient. R = mean gives what
    PyTorch accumulates. Inside, the backward passes of robust layers keep their inputs and output
    gradients, and leave ``.grad`` alone. At the end the estimate of all samples is added to it. The
    layers keep what one batch of all samples would hold.

    Without it each backward pass makes an estimate of its own, and the estimates add up. That is an
    average of robust estimates, each from few samples.

    With ``loss_reduction='mean'`` divide each loss by the number of micro-batches, or weigh it by
    its share of the samples, as ever. All micro-batches must call the layers equally often. Their
    inputs may differ in the number of samples. In Linear layers and embeddings the number of
    positions may differ too.

    Args:
        module: the model; all robust layers below take part.

    Raises:
        RuntimeError: an accumulation inside another one, or inside DistributedDataParallel; at the
            end: an input that was changed in place meanwhile.
        ValueError: at the end: micro-batches that do not fit together.

    Example:
        >>> import torch, chainrob, chainrob.torch
        >>> net = chainrob.torch.robustify(torch.nn.Linear(2, 1), chainrob.CoordinateMedian())
        >>> x = torch.tensor([[1., 1.], [2., 2.], [3., 3.], [4., 4.], [1e9, 1e9]])
        >>> with chainrob.torch.accumulate_samples(net):
        ...     for micro_batch in x.split(2):
        ...         (net(micro_batch).sum() / 5).backward()
        >>> net.weight.grad
        tensor([[3., 3.]])
    """
    layers = [one for one in module.modules() if hasattr(type(one), "set_aggregation")]
    if any(one in _running for one in layers):
        raise RuntimeError("accumulate_samples: the module accumulates samples already")
    accumulation = Accumulation()
    for one in layers:
        _running[one] = accumulation
    try:
        yield
    finally:
        for one in layers:
            _running.pop(one, None)
    accumulation.finish()


@dataclass(eq=False)
class Use:
    """What one call of a layer was in one backward pass."""

    call: Any
    layer: LayerGradients
    x: Tensor
    gy: Tensor
    scale: float
    version: int = field(init=False)

    def __post_init__(self) -> None:
        self.version = self.x._version


class Accumulation:
    """What the layers of a module have kept of several backward passes."""

    def __init__(self) -> None:
        # By layer and parameters, then by backward pass: the calls, in the order of the pass.
        self.uses: dict[Any, dict[int, list[Use]]] = {}

    def record(self, call: Any, layer: LayerGradients, x: Tensor, gy: Tensor, scale: float) -> None:
        """Keep one call of a layer."""
        if call.ranks is not None:
            raise RuntimeError(
                f"{call.where}: accumulate_samples is not available inside "
                f"DistributedDataParallel, whose ranks would not meet for the gradients; use "
                f"larger batches, or the wrapper's no_sync(), with one estimate a micro-batch"
            )
        key = (id(layer.aggregation.owner), layer.names[layer.wanted[0]], layer.wanted)
        task = torch._C._current_graph_task_id()
        passes = self.uses.setdefault(key, {})
        passes.setdefault(task, []).append(Use(call, layer, x.detach(), gy.detach(), scale))

    def finish(self) -> None:
        """Add the estimates of all samples to the parameters' gradients."""
        groups: dict[Any, Pass] = {}
        for passes in self.uses.values():
            counts = {len(uses) for uses in passes.values()}
            uses = [one for found in passes.values() for one in found]
            first = uses[0].call
            if len(counts) > 1:
                raise ValueError(
                    f"accumulate_samples: {first.where} must be called equally often in every "
                    f"micro-batch, found {sorted(counts)} calls"
                )
            for same in zip(*passes.values(), strict=True):
                with computing(same[0].gy):
                    layer, arrays, scale = _joined(same)
                    if first.group is not None:
                        one_pass = groups.setdefault(first.group, Pass())
                        one_pass.add(first, layer, layer.operators(arrays)[0], scale)
                        continue
                    layer.dtypes = dict.fromkeys(layer.wanted, arrays[-1].dtype)
                    try:
                        estimates = layer.estimates(arrays)
                    except NonFiniteGradientError as error:
                        loss_scale.leave_to_scaler(error)
                        for key in layer.wanted:
                            leaf = first.leaves[key - 1]
                            _add_tensor(leaf, torch.full_like(leaf, torch.inf))
                        continue
                for key, estimate in zip(layer.wanted, estimates, strict=True):
                    _add(first.leaves[key - 1], estimate, scale)
        for group, one_pass in groups.items():
            for parameter, gradient in one_pass.gradients(group):
                _add_tensor(parameter, gradient)


def _joined(uses: tuple[Use, ...]) -> tuple[LayerGradients, tuple[Any, ...], float]:
    """The same call of all micro-batches as one call with all their samples."""
    first = uses[0]
    where = first.call.where
    for one in uses:
        if one.x._version != one.version:
            raise RuntimeError(
                f"accumulate_samples: the input of {where} was changed in place after its backward "
                f"pass; give every micro-batch a tensor of its own"
            )
        if one.scale != first.scale:
            raise ValueError(
                f"accumulate_samples: all micro-batches must have one loss scale, found "
                f"{first.scale} and {one.scale} in {where}"
            )
    arrays = [one.call.arrays(one.x, one.gy) for one in uses]
    positions = [one.layer.n_positions for one in uses]
    layer = max(uses, key=lambda one: one.layer.n_positions).layer
    if len(set(positions)) > 1:
        # Positions of zero gradient add nothing.
        arrays = [
            tuple(_longer(array, found, layer.n_positions) for array in pair)
            for pair, found in zip(arrays, positions, strict=True)
        ]
    columns = list(zip(*arrays, strict=True))
    shapes = [{array.shape[1:] for array in column} for column in columns]
    if any(len(found) > 1 for found in shapes):
        raise ValueError(
            f"accumulate_samples: the inputs and outputs of {where} must differ in the number of "
            f"samples only, found {[sorted(found) for found in shapes]}"
        )
    xp = array_module(arrays[0][-1])
    return layer, tuple(xp.concatenate(column) for column in columns), first.scale


def _longer(array: Any, n_positions: int, wanted: int) -> Any:
    """(N * S, K) with zeros behind each sample's positions: (N * wanted, K)."""
    xp = array_module(array)
    rows = array.reshape((len(array) // n_positions, n_positions, array.shape[-1]))
    return xp.pad(rows, ((0, 0), (0, wanted - n_positions), (0, 0))).reshape(-1, array.shape[-1])


def _add(parameter: Tensor, estimate: Any, scale: float) -> None:
    gradient = to_tensor(
        np.asarray(estimate) if np.isscalar(estimate) else estimate, parameter.dtype
    )
    _add_tensor(
        parameter, (gradient if scale == 1.0 else gradient * scale).reshape(parameter.shape)
    )


def _add_tensor(parameter: Tensor, gradient: Tensor) -> None:
    if not parameter.is_leaf:
        raise RuntimeError(
            "accumulate_samples needs parameters that are leaves of the graph, found one of shape "
            f"{tuple(parameter.shape)} that a hook or parametrization computes"
        )
    parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
