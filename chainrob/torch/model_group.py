"""One estimate for a whole model, complete when ``backward()`` returns.

A row of the whole model needs all parameters, and a parameter may be used in several places. So the
layers leave their sample gradients with their ``ModelGroup`` during the pass. The gate makes the
estimate: a node of the graph between all layers and their parameters. PyTorch runs it when every
layer has been passed, and before any parameter has its gradient. So hooks of parameters,
``torch.autograd.grad``, DistributedDataParallel and whatever reads ``.grad`` see what they would
see without.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from chainrob.aggregation import Entry, LayerGradients, model_gradients
from chainrob.aggregation.recorder import Recording
from chainrob.robustifiers.errors import NonFiniteGradientError, NotDifferentiableError
from chainrob.torch import loss_scale
from chainrob.torch.tensor_arrays import computing, to_tensor

__all__ = ["ModelGroup", "Pass", "held_robustifier"]


@dataclass(eq=False)
class Pass:
    """What the layers of a group recorded in one backward pass."""

    thread: int = 0
    """The thread that runs it."""
    recordings: dict[int, Recording] = field(default_factory=dict)
    robustifiers: list[Any] = field(default_factory=list)
    sources: list[Tensor] = field(default_factory=list)
    """Tensors with a graph of their own, for the error of a second derivative."""
    scale: float = 1.0
    ready: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    """Pairs of a parameter and a gradient that is no part of the estimate."""

    def add(
        self, call: Any, layer: LayerGradients, operators: Mapping[int, Any], scale: float
    ) -> None:
        """Take the operators of one call of a layer."""
        plan = layer.aggregation
        for key, operator in operators.items():
            parameter = call.leaves[key - 1]
            name = f"{call.path}.{layer.names[key]}" if call.path else layer.names[key]
            found = self.recordings.get(id(parameter))
            if found is None:
                found = Recording(parameter, name, plan.owner, plan.loss_reduction)
                self.recordings[id(parameter)] = found
            found.operators.append(operator)
        if plan.robustifier not in self.robustifiers:
            self.robustifiers.append(plan.robustifier)
        self.scale = scale

    def gradients(self, model: Any) -> list[tuple[Tensor, Tensor]]:
        """Pairs of a parameter and its gradient."""
        if not self.recordings:
            return []
        entries = [Entry.of(one.name, one) for one in self.recordings.values()]
        robustifier = held_robustifier(self.robustifiers)
        try:
            with computing(entries[0].recording.target):
                estimates = model_gradients(entries, robustifier, model)
        except NonFiniteGradientError as error:
            loss_scale.leave_to_scaler(error)
            targets = [one.recording.target for one in entries]
            return [(one, torch.full_like(one, torch.inf)) for one in targets]
        found = []
        for entry, estimate in zip(entries, estimates, strict=True):
            parameter = entry.recording.target
            gradient = to_tensor(entry.rows.xp.asarray(estimate), parameter.dtype)
            gradient = gradient.reshape(parameter.shape)
            found.append((parameter, gradient if self.scale == 1.0 else gradient * self.scale))
        return found


def held_robustifier(found: Sequence[Any]) -> Callable[[Any], Any]:
    """The one robustifier that all layers hold."""
    if len(found) != 1:
        raise ValueError(
            f"scope='model' needs one robustifier for all layers, found {list(found)}; call "
            f"chainrob.torch.robustify(module, robustifier, scope='model') once for all of them"
        )
    return found[0]


class ModelGroup:
    """The layers that are estimated together.

    They refer to it and it to them weakly, so a copy or a pickle of a model has a group of its own.
    """

    def __init__(self) -> None:
        self._layers: list[weakref.ref[Any]] = []
        self._token: Tensor | None = None
        self._parameters: tuple[Tensor, ...] = ()
        self._signature: frozenset[Any] = frozenset()
        self.frozen: tuple[Tensor, ...] = ()
        self._first: weakref.ref[Any] | None = None
        self._number = 0
        self._passes: dict[int, Pass] = {}  # by PyTorch's number of the backward pass
        self._given_up: deque[int] = deque(maxlen=64)
        self._last: tuple[int, int] = (-1, -1)

    def __reduce__(self) -> tuple[Any, ...]:
        return ModelGroup, ()

    def join(self, layer: Any) -> None:
        """Let a layer belong to the group."""
        if layer not in self.layers():
            self._layers.append(weakref.ref(layer))
            self._token = None

    def leave(self, layer: Any) -> None:
        """Let a layer go its own way."""
        self._layers = [one for one in self._layers if one() not in (None, layer)]
        self._token = None

    def parameters_changed(self) -> None:
        """Forget the token: a layer has another parameter."""
        self._token = None

    def layers(self) -> list[Any]:
        """The layers that are still there."""
        return [one for one in (reference() for reference in self._layers) if one is not None]

    def token(self, layer: Any) -> Tensor | None:
        """What a layer's call takes along, to be connected with the parameters of all layers.

        It is made anew when the parameters have changed. That is asked once in a forward pass: by
        the layer that asked last time, or when a layer has a parameter that is not known.
        """
        own = {_key(one) for one in layer.estimated() if one is not None and one.requires_grad}
        first = None if self._first is None else self._first()
        if self._token is None or first is None or first is layer or not own <= self._signature:
            self._first = weakref.ref(layer)
            self.renew()
        return self._token

    def renew(self) -> None:
        """Make the token anew where it lacks a parameter; one too many gets no gradient by it."""
        parameters = tuple(self._estimated())
        found = {_key(one): one for one in parameters if one.requires_grad}
        if len(found) < len(parameters) or self.frozen:
            self.frozen = tuple([one for one in parameters if not one.requires_grad])
        if self._token is not None and found.keys() <= self._signature:
            return
        self._signature = frozenset(found)
        self._parameters = tuple(found.values())
        self._number += 1
        self._token = _Gate.apply(self, self._number, *self._parameters)

    def _estimated(self) -> Iterator[Tensor]:
        for layer in self.layers():
            if layer.group is self and layer.robustifier is not None:
                yield from (one for one in layer.estimated() if one is not None)

    def record(self, call: Any, layer: LayerGradients, x: Tensor, gy: Tensor, scale: float) -> None:
        """Leave the sample gradients of one call for the end of the pass."""
        one_pass = self._pass(call.where)
        with computing(gy):
            operators, _ = layer.operators(call.arrays(x, gy))
        one_pass.add(call, layer, operators, scale)
        if torch.is_grad_enabled():
            one_pass.sources += [one for one in (x, gy) if one.requires_grad]

    def hand_over(self, where: str, pairs: Sequence[tuple[Tensor, Tensor]]) -> None:
        """Let the gate pass on gradients that need no estimate: exact ones, or overflows."""
        self._pass(where).ready += pairs

    def _pass(self, where: str) -> Pass:
        """That which runs."""
        task = torch._C._current_graph_task_id()
        thread = threading.get_ident()
        for number, old in tuple(self._passes.items()):
            if number != task and old.thread == thread:
                # Of a pass that an error ended; if this one runs inside it, it will say so.
                self._passes.pop(number, None)
                self._given_up.append(number)
        one_pass = self._passes.setdefault(task, Pass(thread))
        if task in self._given_up:
            raise RuntimeError(f"{where}: {_INTERRUPTED}")
        return one_pass

    def finish(self, number: int, parameters: Sequence[Tensor]) -> tuple[Tensor | None, ...]:
        """The gradients of the gate's parameters, when all layers have been passed."""
        task = torch._C._current_graph_task_id()
        mine = self._passes.get(task)
        if task in self._given_up:
            raise RuntimeError(_INTERRUPTED)
        if mine is None or not (mine.recordings or mine.ready):
            return (None,) * len(parameters)
        known = {id(one) for one in parameters}
        strangers = [one.name for key, one in mine.recordings.items() if key not in known]
        strangers += ["a parameter" for one, _ in mine.ready if id(one) not in known]
        if strangers or (self._last[0] == task != -1 and self._last[1] != number):
            self._passes.pop(task, None)
            raise RuntimeError(
                f"scope='model': parameters were added, exchanged or unfrozen between two layers "
                f"of one forward pass{_named(strangers)}, so they cannot be estimated together; "
                f"run the forward pass again"
            )
        self._last = task, number
        del self._passes[task]
        found = {id(parameter): gradient for parameter, gradient in mine.gradients(self)}
        for parameter, gradient in mine.ready:
            before = found.get(id(parameter))
            found[id(parameter)] = gradient if before is None else before + gradient
        gradients = tuple(found.get(id(one)) for one in parameters)
        if torch.is_grad_enabled() and mine.sources:
            return _undifferentiable(gradients, mine.sources)
        return gradients


_INTERRUPTED = (
    "scope='model' needs the whole backward pass at once, but another one through the same layers "
    "ran inside it; use another scope"
)


def _key(parameter: Tensor) -> tuple[Any, ...]:
    """What PyTorch's node of a leaf is made for: ``module.to`` lets a parameter have a new one."""
    return id(parameter), parameter.dtype, parameter.device, parameter.shape


def _undifferentiable(
    gradients: Sequence[Tensor | None], sources: Sequence[Tensor]
) -> tuple[Tensor | None, ...]:
    from chainrob.torch.robust_call import refused  # which builds on this file

    error = NotDifferentiableError(
        "the gradient with scope='model' is found from all layers at once, and its derivative is "
        "not available; use another scope"
    )
    there = [one for one in gradients if one is not None]
    attached = iter(refused(error, there, sources))
    return tuple(None if one is None else next(attached) for one in gradients)


class _Gate(torch.autograd.Function):
    """Between all layers of a group and their parameters."""

    @staticmethod
    def forward(ctx: Any, group: ModelGroup, number: int, *parameters: Tensor) -> Tensor:
        ctx.group = weakref.ref(group)
        ctx.number = number
        # The layers keep them alive, and a graph that holds its own leaves would never end.
        ctx.parameters = [weakref.ref(one) for one in parameters]
        ctx.set_materialize_grads(False)
        return torch.zeros((), device=parameters[0].device) if parameters else torch.zeros(())

    @staticmethod
    def backward(ctx: Any, _: Tensor | None) -> Any:
        group = ctx.group()
        parameters = [one() for one in ctx.parameters]
        if group is None:
            return (None, None, *(None for _ in parameters))
        return None, None, *group.finish(ctx.number, parameters)


def _named(parameters: Sequence[str]) -> str:
    return f" ({', '.join(parameters)})" if parameters else ""
