"""One call of a robust layer in PyTorch's graph: the stock forward pass and gx, and the parameters'
gradients from the core.

What a layer does is said by a ``LayerKind``; the mathematics of its sample gradients stands in
``chainrob.builders``, and what becomes of them in ``chainrob.aggregation``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from chainrob.aggregation import Aggregation, LayerGradients, is_exact
from chainrob.aggregation.layer_gradients import Build, Pull
from chainrob.robustifiers.errors import NonFiniteGradientError, NotDifferentiableError
from chainrob.torch import gradient_accumulation, loss_scale, ranks_of_ddp, sample_axis_watch
from chainrob.torch.call_checks import check_call, check_leaves, lower_dtype
from chainrob.torch.tensor_arrays import computing, to_array, to_tensor

__all__ = [
    "LayerKind",
    "Parameters",
    "RobustCall",
    "breaks_graph",
    "current_task",
    "gradients_of",
    "run",
    "stock_output",
]

Parameters = Sequence["Tensor | None"]


@dataclass(frozen=True, eq=False)
class LayerKind:
    """What one kind of layer does, with its options filled in.

    Args:
        function: its name, for messages.
        names: the parameters' names in the module, in the order of ``op``.
        op: the stock function, (x, *parameters) to y.
        input_gradient: (gy, x, *parameters) to gx, by operations that PyTorch differentiates.
        rows: a builder of ``chainrob.builders``.
        pull: its pullback.
        flat: whether all axes of x but the last are samples and positions, as in a Linear layer.
        casts: whether autocast runs it in a lower precision.
        min_ndim: axes that x has at least, the samples' among them.
    """

    function: str
    names: tuple[str, ...]
    op: Callable[..., Tensor]
    input_gradient: Callable[..., Tensor] | None
    rows: Build
    pull: Pull
    flat: bool = False
    casts: bool = True
    min_ndim: int = 2


@dataclass(eq=False, slots=True)
class RobustCall:
    """One call of a layer.

    Args:
        kind: what the layer does.
        aggregation: robustifier, scope and scale; the owner is the module, if there is one.
        sample_axis: the axis of x and y that counts the samples.
        path: the module's name in the model, for messages.
        group: with ``scope='model'``: the layers that are estimated together.
        leaves: the parameters, of which gradients may wait for the end of the pass.
        ranks: the process group of the DistributedDataParallel around the layer.
        dtype: what autocast makes of input and parameters.
        in_half: whether it ran under autocast to float16, where a loss is scaled and may overflow.
    """

    kind: LayerKind
    aggregation: Aggregation
    sample_axis: int = 0
    path: str = ""
    group: Any = None
    leaves: Parameters = ()
    ranks: Any = None
    dtype: torch.dtype | None = None
    in_half: bool = False

    def gradients(
        self, x: Tensor, gy: Tensor, parameters: Parameters, wanted: Sequence[int]
    ) -> LayerGradients:
        """What makes the estimates of the wanted parameters."""
        plan = self.aggregation.now()
        if self.ranks is not None and not is_exact():
            plan = replace(plan, robustifier=ranks_of_ddp.over_ranks(plan, self.ranks))
        positions = 1
        if self.kind.flat:
            axes = [size for axis, size in enumerate(gy.shape[:-1]) if axis != self.sample_axis]
            for size in axes:
                positions *= size
            positions = positions or 1  # a batch of empty sequences: see _laid_out
        return LayerGradients(
            self.kind.rows if positions == 1 else _with_positions(self.kind.rows, positions),
            plan,
            tuple(wanted),
            dict(enumerate(self.kind.names, 1)),
            {},
            n_positions=positions,
            function=self.where,
            pull=self.kind.pull if positions == 1 else _with_positions(self.kind.pull, positions),
        )

    @property
    def where(self) -> str:
        return f"{self.kind.function} {self.path!r}" if self.path else self.kind.function

    def arrays(self, *tensors: Tensor) -> tuple[Any, ...]:
        """The tensors as arrays whose first axis counts the samples."""
        return tuple(to_array(self._laid_out(one)) for one in tensors)

    def _laid_out(self, tensor: Tensor) -> Tensor:
        if self.sample_axis:
            tensor = tensor.movedim(self.sample_axis, 0)
        if self.kind.flat and tensor.ndim != 2:
            if not tensor.shape[1:-1].numel():
                # A position of zeros adds what no position does: nothing.
                return tensor.new_zeros(tensor.shape[0], tensor.shape[-1])
            tensor = tensor.reshape(tensor.shape[:-1].numel(), tensor.shape[-1])
        return tensor

    def restored(self, array: Any, like: Tensor) -> Tensor:
        """An array as ``arrays`` made it, in the tensor's own shape."""
        if not like.numel():
            return torch.zeros_like(like)
        tensor = to_tensor(array, like.dtype)
        shape = like.movedim(self.sample_axis, 0).shape
        return tensor.reshape(shape).movedim(0, self.sample_axis)


def _with_positions(build: Callable[..., Any], n_positions: int) -> Callable[..., Any]:
    return lambda arrays, other: build(arrays, other, n_positions=n_positions)


class RobustFunction(torch.autograd.Function):
    """(x, *parameters) to y; backward gives the stock gx and robust gradients of the parameters."""

    @staticmethod
    def forward(
        ctx: Any, call: RobustCall, token: Tensor | None, x: Tensor, *parameters: Tensor | None
    ) -> Tensor:
        ctx.call = call
        # A call made inside a backward pass is reentrant checkpointing's.
        ctx.recomputed = current_task() != -1
        ctx.save_for_backward(x, *parameters)
        return stock_output(call.kind, x, parameters, call.dtype)

    @staticmethod
    def backward(ctx: Any, gy: Tensor) -> Any:
        call: RobustCall = ctx.call
        if torch._C._functorch.is_legacy_batchedtensor(gy):
            raise RuntimeError(
                f"{call.where}: a robust layer takes one output gradient at a time; leave "
                f"is_grads_batched (in torch.autograd.functional: vectorize) False"
            )
        x, *parameters = ctx.saved_tensors
        needed = ctx.needs_input_grad[2:]
        gx, gradients = gradients_of(call, x, gy, parameters, needed, ctx.recomputed)
        return None, None, gx, *gradients

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        raise RuntimeError(
            f"{ctx.call.where}: a robust layer has no forward-mode derivative; use "
            f"chainrob.torch.plain(module) first"
        )


def stock_output(
    kind: LayerKind, x: Tensor, parameters: Parameters, dtype: torch.dtype | None
) -> Tensor:
    """y of the stock layer, in the dtype of autocast if there is one."""
    if dtype is None:
        return kind.op(x, *parameters)
    with torch.autocast(x.device.type, enabled=False):
        return kind.op(x, *(None if one is None else one.to(dtype) for one in parameters))


def current_task() -> int:
    """PyTorch's number of the backward pass that this thread runs; -1 outside of one."""
    return torch._C._current_graph_task_id()


def gradients_of(
    call: RobustCall,
    x: Tensor,
    gy: Tensor,
    parameters: Parameters,
    needed: Sequence[bool],
    recomputed: bool,
) -> tuple[Tensor | None, list[Tensor | None]]:
    """The stock gx, and the robust gradients of the parameters, each where it is needed.

    Gradients of parameters that wait for the end of the pass are None.
    """
    gx = None
    if needed[0] and call.kind.input_gradient is not None:
        used = [None if one is None else one.to(gy.dtype) for one in parameters]
        gx = call.kind.input_gradient(gy, x, *used)
    wanted = [key for key, need in enumerate(needed[1:], 1) if need]
    found: list[Tensor | None] = [None] * len(parameters)
    if wanted:
        gradients = _parameter_gradients(call, x, gy, parameters, wanted, recomputed)
        for key, gradient in zip(wanted, gradients, strict=True):
            found[key - 1] = gradient
    return gx, found


def _parameter_gradients(
    call: RobustCall,
    x: Tensor,
    gy: Tensor,
    parameters: Parameters,
    wanted: Sequence[int],
    recomputed: bool,
) -> Sequence[Tensor | None]:
    """The robust gradients, or None for those that wait for the end of the pass."""
    dtypes = [parameters[key - 1].dtype for key in wanted]  # type: ignore[union-attr]
    scale = 1.0
    if not is_exact():
        scale, overflow = loss_scale.scale_of(call.aggregation.owner, gy, call.in_half, call.ranks)
        if overflow:
            # Of a step that GradScaler is to skip, whatever a robustifier would make of it.
            return _infinite(parameters, wanted)
        if scale != 1.0:
            gy = gy.float() / scale
    layer = call.gradients(x, gy, parameters, wanted)
    if not is_exact():
        accumulation = gradient_accumulation.running(call.aggregation.owner)
        if accumulation is not None:
            accumulation.record(call, layer, x, gy, scale)
            return [None] * len(wanted)
        if call.ranks is None:
            sample_axis_watch.watch(call, x, gy.shape[call.sample_axis])
        if call.group is not None:
            if recomputed:
                raise RuntimeError(
                    f"{call.where}: scope='model' needs the whole backward pass at once, but "
                    f"reentrant checkpointing runs it in pieces; use "
                    f"torch.utils.checkpoint.checkpoint(..., use_reentrant=False)"
                )
            call.group.record(call, layer, x, gy, scale)
            return [None] * len(wanted)
    try:
        if torch.is_grad_enabled():
            estimates = Estimates.apply(call, layer, dtypes, x, gy)
        else:
            estimates = _estimates(call, layer, dtypes, x, gy)
    except NonFiniteGradientError as error:
        loss_scale.leave_to_scaler(error)
        return _infinite(parameters, wanted)
    return estimates if scale == 1.0 else [one * scale for one in estimates]


def _infinite(parameters: Parameters, wanted: Sequence[int]) -> list[Tensor | None]:
    return [torch.full_like(parameters[key - 1], torch.inf) for key in wanted]


def _estimates(
    call: RobustCall, layer: LayerGradients, dtypes: Sequence[torch.dtype], x: Tensor, gy: Tensor
) -> tuple[Tensor, ...]:
    with computing(gy):
        arrays = call.arrays(x, gy)
        layer.dtypes = dict.fromkeys(layer.wanted, arrays[-1].dtype)
        estimates = layer.estimates(arrays)
    return tuple(to_tensor(one, dtype) for one, dtype in zip(estimates, dtypes, strict=True))


class Estimates(torch.autograd.Function):
    """(x, gy) to the robust gradients, in a graph that is differentiated once more."""

    @staticmethod
    def forward(
        ctx: Any,
        call: RobustCall,
        layer: LayerGradients,
        dtypes: Sequence[torch.dtype],
        x: Tensor,
        gy: Tensor,
    ) -> tuple[Tensor, ...]:
        ctx.call, ctx.layer = call, layer
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, gy)
        return _estimates(call, layer, dtypes, x, gy)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> Any:
        x, gy = ctx.saved_tensors
        if all(one is None for one in cotangents):
            return None, None, None, None, None
        pulled = Pullback.apply(ctx.call, ctx.layer, x, gy, *cotangents)
        real = x.dtype.is_floating_point and ctx.needs_input_grad[3]
        return None, None, None, pulled[0] if real else None, pulled[1]


class Pullback(torch.autograd.Function):
    """The derivative of ``Estimates``, which has none of its own."""

    @staticmethod
    def forward(
        ctx: Any,
        call: RobustCall,
        layer: LayerGradients,
        x: Tensor,
        gy: Tensor,
        *cotangents: Tensor | None,
    ) -> tuple[Tensor, ...]:
        ctx.layer = layer
        with computing(gy):
            arrays = call.arrays(x, gy)
            given = [None if one is None else to_array(one) for one in cotangents]
            of_x, of_gy = layer.pullback(arrays, given)
        return call.restored(of_x, x), call.restored(of_gy, gy)

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> Any:
        raise ctx.layer.refuse_third()


def refused(
    error: NotDifferentiableError, values: Sequence[Tensor], sources: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    """The values, of which a derivative in the sources raises the error."""
    return _Refused.apply(error, len(values), *values, *sources)


class _Refused(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, error: NotDifferentiableError, count: int, *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.error = error
        return tuple(one.clone() for one in tensors[:count])

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> Any:
        raise ctx.error


def breaks_graph(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function at which ``torch.compile`` breaks its graph, for it cannot look into the core."""
    eagerly = torch._disable_dynamo(function)

    @functools.wraps(function)
    def called(*args: Any, **options: Any) -> Any:
        if torch.compiler.is_dynamo_compiling():
            return eagerly(*args, **options)
        return function(*args, **options)

    return called


@breaks_graph
def run(
    kind: LayerKind,
    x: Tensor,
    parameters: Parameters,
    aggregation: Aggregation,
    *,
    sample_axis: int = 0,
    path: str = "",
    group: Any = None,
) -> Tensor:
    """y of a layer, whose gradients will be estimated in the backward pass.

    Raises:
        ValueError: an input without a batch axis.
        RuntimeError: a transform of ``torch.func``, or a wrapper that the estimate cannot span.
        TypeError: complex or sparse tensors.
    """
    if aggregation.robustifier is None or not torch.is_grad_enabled():
        return kind.op(x, *parameters)
    needed = (one is not None and one.requires_grad for one in parameters)
    if isinstance(x, Tensor) and not any(needed):
        if group is not None:
            group.token(aggregation.owner)  # the group knows its first layer, be it frozen
        return kind.op(x, *parameters)
    where = f"{kind.function} {path!r}" if path else kind.function
    check_call(kind, x, parameters, sample_axis, where)
    dtype, in_half = lower_dtype(x, kind.casts)
    if dtype is not None:
        x = x.to(dtype)
    token = None
    if group is not None:
        check_leaves([one for one in parameters if one is not None and not one.is_leaf], where)
        token = group.token(aggregation.owner)
    ranks = ranks_of_ddp.active(aggregation, where)
    options = (sample_axis, path, group, parameters, ranks, dtype, in_half)
    call = RobustCall(kind, aggregation, *options)
    return RobustFunction.apply(call, token, x, *parameters)
