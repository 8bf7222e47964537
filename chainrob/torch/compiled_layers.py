"""Robust layers under ``torch.compile``: a custom operator takes the place of a layer's call, so
the graph has no break.

Dynamo cannot look into the core. While it traces a layer, it meets one operator of which it knows
the shapes only. When the compiled program runs, the operator does what ``robust_call`` does in an
ordinary program. Operators take tensors, numbers and texts, so layers and kinds have names here.
"""

from __future__ import annotations

import functools
import itertools
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from chainrob.aggregation import Aggregation
from chainrob.aggregation.observers import is_observed
from chainrob.aggregation.sample_index import SampleIndex, current_samples
from chainrob.torch import gradient_accumulation, ranks_of_ddp
from chainrob.torch.call_checks import check_call, check_leaves, lower_dtype, refuse_transforms
from chainrob.torch.robust_call import (
    LayerKind,
    Parameters,
    RobustCall,
    current_task,
    gradients_of,
    stock_output,
)

__all__ = ["call", "enroll", "kind_of_layer"]

_layers: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
_kinds: dict[str, LayerKind] = {}
_numbers = itertools.count(1)


Function = TypeVar("Function", bound=Callable[..., Any])


def _asked_by_dynamo(function: Function) -> Function:
    """Let Dynamo call the function while it traces, and make the answer a part of the graph.

    It is ``torch.compiler.assume_constant_result``, which would import Dynamo, two seconds of it.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


def enroll(module: Any) -> Tensor:
    """A new name for a layer, by which the operators find it for as long as it lives.

    It is a number in a tensor: Dynamo makes it an input of the graph, so layers that are alike
    share one.
    """
    number = next(_numbers)
    _layers[number] = module
    with torch.inference_mode(False):
        return torch.tensor(number, device="cpu")


def kind_of_layer(make: Callable[..., LayerKind]) -> Callable[..., Any]:
    """Let a function make one ``LayerKind`` for each choice of its options.

    While Dynamo traces, the answer is the kind's name.
    """
    cached = functools.lru_cache(maxsize=256)(make)

    @_asked_by_dynamo
    def named(*options: Any) -> str:
        name = f"{make.__name__}{options}"
        _kinds[name] = cached(*options)
        return name

    @functools.wraps(make)
    def kind(*options: Any) -> Any:
        return named(*options) if torch.compiler.is_dynamo_compiling() else cached(*options)

    return kind


def call(module: Any, kind: str, x: Tensor, parameters: Parameters, sample_axis: int) -> Tensor:
    """y of one call of a layer, while Dynamo traces it."""
    casts = _begin(kind)
    lower, in_half = lower_dtype(x, casts)
    if lower is not None:
        x = x.to(lower)
    token = None
    if module.group is not None and any(p is not None and p.requires_grad for p in parameters):
        _renew_token(module.group)
        token = module.group._token
        # Where a parameter of any layer is unfrozen, Dynamo traces this layer anew as well: all
        # layers of a forward pass must have one token. A frozen layer must not look: it would find
        # its own parameters there, at a place of their own, and share no graph with its like.
        any(one.requires_grad for one in module.group.frozen)
    first, second = (*parameters, None)[:2]
    facts = (kind, _new_number(), sample_axis, lower, in_half)
    name = module.name_in_graphs
    y, _ = torch.ops.chainrob.robust_layer(x, token, first, second, name, *facts)
    return y


@_asked_by_dynamo
def _begin(kind: str) -> bool:
    """Refuse what only the tracing sees, and say whether autocast casts such a layer."""
    refuse_transforms(_kinds[kind].function)
    return _kinds[kind].casts


@_asked_by_dynamo
def _new_number() -> str:
    """Of a call: two calls with the same tensors must not be taken for one."""
    return str(next(_numbers))


@_asked_by_dynamo
def _renew_token(group: Any) -> bool:
    """Let a group make its token anew where that is necessary."""
    with torch.enable_grad():
        group.renew()
    return True


class Circumstances(NamedTuple):
    """What the backward pass of a call has to know of the forward pass."""

    samples: SampleIndex | None = None
    ranks: Any = None
    task: int = -1
    """PyTorch's number of the backward pass in which the call was made, as checkpointing makes it;
    -1 outside of one."""


KEPT = 1024
"""How many different circumstances are remembered; most programs have none but the usual ones."""

_circumstances: OrderedDict[int, Circumstances] = OrderedDict()
_lock = threading.Lock()


def _remember(found: Circumstances) -> int:
    """A number for the circumstances; 0 for the usual ones."""
    if found == Circumstances():
        return 0
    with _lock:
        if _circumstances and (last := next(reversed(_circumstances.items())))[1] == found:
            return last[0]
        number = next(_numbers)
        _circumstances[number] = found
        while len(_circumstances) > KEPT:
            _circumstances.popitem(last=False)
    return number


def _recall(number: int, where: str) -> Circumstances:
    if number == 0:
        return Circumstances()
    found = _circumstances.get(number)
    if found is None:
        raise RuntimeError(
            f"{where}: under torch.compile a backward pass must come before {KEPT} more forward "
            f"passes inside chainrob.samples or DistributedDataParallel; run it earlier, or do not "
            f"compile the layer"
        )
    return found


def _layer(name: Tensor, kind: str) -> tuple[Any, str]:
    module = _layers.get(int(name))
    if module is None:
        raise RuntimeError("the robust layer of a compiled program is gone; compile the model anew")
    function = _kinds[kind].function
    return module, f"{function} {module.path!r}" if module.path else function


_FACTS = "Tensor layer, str kind, str number, int sample_axis, ScalarType? lower, bool in_half"


@torch.library.custom_op(
    "chainrob::robust_layer",
    mutates_args=(),
    schema=f"(Tensor x, Tensor? token, Tensor? first, Tensor? second, {_FACTS}) "
    "-> (Tensor, Tensor)",
)
def _forward(
    x: Tensor,
    token: Tensor | None,
    first: Tensor | None,
    second: Tensor | None,
    layer: Tensor,
    kind: str,
    number: str,
    sample_axis: int,
    lower: torch.dtype | None,
    in_half: bool,
) -> tuple[Tensor, Tensor]:
    """y, and the number of the circumstances."""
    module, where = _layer(layer, kind)
    found = _kinds[kind]
    parameters = (first, second)[: len(found.names)]
    check_call(found, x, parameters, sample_axis, where)
    if token is not None:
        pairs = zip(parameters, _leaves(module, found), strict=True)
        check_leaves([one for one, leaf in pairs if one is not None and _other(one, leaf)], where)
    ranks = ranks_of_ddp.active(module.aggregation, where)
    circumstances = _remember(Circumstances(current_samples(), ranks, current_task()))
    y = stock_output(found, x, parameters, lower)
    return y.contiguous(), torch.tensor(circumstances)


@_forward.register_fake
def _shape_of_forward(
    x: Tensor,
    token: Tensor | None,
    first: Tensor | None,
    second: Tensor | None,
    layer: Tensor,
    kind: str,
    number: str,
    sample_axis: int,
    lower: torch.dtype | None,
    in_half: bool,
) -> tuple[Tensor, Tensor]:
    found = _kinds[kind]
    y = stock_output(found, x, (first, second)[: len(found.names)], lower)
    return _dense(y), torch.empty((), dtype=torch.int64)


@torch.library.custom_op(
    "chainrob::robust_layer_backward",
    mutates_args=(),
    schema="(Tensor gy, Tensor x, Tensor? first, Tensor? second, Tensor circumstances, "
    f"bool[] needed, {_FACTS}) -> Tensor[]",
)
def _backward(
    gy: Tensor,
    x: Tensor,
    first: Tensor | None,
    second: Tensor | None,
    circumstances: Tensor,
    needed: Sequence[bool],
    layer: Tensor,
    kind: str,
    number: str,
    sample_axis: int,
    lower: torch.dtype | None,
    in_half: bool,
) -> list[Tensor]:
    """What is needed of: gx, the token's gradient, those of the parameters."""
    module, where = _layer(layer, kind)
    found = _kinds[kind]
    parameters = (first, second)[: len(found.names)]
    past = _recall(int(circumstances), where)
    plan = Aggregation(
        module.robustifier, module.loss_reduction, module.scope, module, past.samples
    )
    group = module.group if needed[1] else None
    leaves = _leaves(module, found)
    one_call = RobustCall(
        found, plan, sample_axis, module.path, group, leaves, past.ranks, lower, in_half
    )
    if group is not None or is_observed(module) or gradient_accumulation.running(module):
        # The compiled program may write over these arrays before whoever keeps them reads them.
        x, gy = x.clone(), gy.clone()
    # A compiled checkpoint is recomputed in the pass itself, a reentrant one has a pass of its own.
    recomputed = past.task not in (-1, current_task())
    with torch.no_grad():
        flags = (needed[0], *needed[2:][: len(parameters)])
        gx, gradients = gradients_of(one_call, x, gy, parameters, flags, recomputed)
    if group is not None:  # an operator's answers are fixed: what is no estimate takes the gate too
        pairs = zip(leaves, gradients, strict=True)
        ready = [(leaf, one) for leaf, one in pairs if leaf is not None and one is not None]
        if ready:
            group.hand_over(where, ready)
    outputs = [None if gx is None else gx.to(x.dtype), gy.new_zeros(()), *gradients]
    likes = (x, gy, first, second)
    answers = []
    for need, one, like in zip(_asked(needed), (*outputs, None)[:4], likes, strict=True):
        if need:
            # What an accumulation keeps for its end is zero now.
            answers.append(torch.zeros_like(like) if one is None else _fresh(one, x, gy))
    return answers


@_backward.register_fake
def _shapes_of_backward(
    gy: Tensor,
    x: Tensor,
    first: Tensor | None,
    second: Tensor | None,
    circumstances: Tensor,
    needed: Sequence[bool],
    *facts: Any,
) -> list[Tensor]:
    likes = [x, gy.new_empty(()), first, second]
    return [_dense(like) for need, like in zip(_asked(needed), likes, strict=True) if need]


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, _, first, second, layer, *facts = inputs
    ctx.save_for_backward(x, first, second, layer, output[1])
    ctx.facts = facts


def _differentiate(ctx: Any, gy: Tensor, _: Any) -> tuple[Any, ...]:
    x, first, second, layer, circumstances = ctx.saved_tensors
    needed = list(ctx.needs_input_grad[:4])
    found = iter(
        torch.ops.chainrob.robust_layer_backward(
            gy, x, first, second, circumstances, needed, layer, *ctx.facts
        )
    )
    answers = [next(found) if need else None for need in _asked(needed)]
    return (*answers, None, *(None for _ in ctx.facts))


_forward.register_autograd(_differentiate, setup_context=_save)


def _asked(needed: Sequence[bool]) -> list[bool]:
    """Which gradients the operator answers with: of x, the token, the parameters. With a token,
    those of the parameters come from the gate of the group.
    """
    x, token, *parameters = needed
    return [x, token, *(need and not token for need in parameters)]


def _leaves(module: Any, kind: LayerKind) -> list[Tensor | None]:
    return [module._parameters.get(name) for name in kind.names]


def _other(given: Tensor, leaf: Tensor | None) -> bool:
    """Whether the call was given something else than the layer's own parameter."""
    return leaf is None or given.data_ptr() != leaf.data_ptr()


def _dense(like: Tensor) -> Tensor:
    return torch.empty_like(like, memory_format=torch.contiguous_format)


def _fresh(tensor: Tensor, *inputs: Tensor) -> Tensor:
    """The tensor laid out in order, in memory that is no input's: an operator must not return
    these.
    """
    tensor = tensor.contiguous()
    for one in inputs:
        storage = one.untyped_storage()
        if 0 <= tensor.data_ptr() - storage.data_ptr() < storage.nbytes():
            return tensor.clone()
    return tensor
