"""The results of one pass through a deep function. Some are computed only on request."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from math import prod
from typing import Any

import chainer
import chainer.functions as F
from chainrob.aggregation import exact_backward
from chainrob.differentiation._kinks import KinkHook, gradients_at_kinks
from chainrob.differentiation.node import Node

__all__ = ["LARGEST", "AdjointPass", "LinearNode", "PassCosts", "TangentPass"]

Array = Any
Variable = Any

LARGEST = 2**24
"""Largest size of a dense matrix, or of the per-sample gradients of one node."""


class LinearNode:
    """A node at its states: its outputs, and its derivative, which maps error vectors back.

    Attributes:
        node: The node.
        outputs: Variables of its outputs, in their own graph.
        pulled: Variables of the last :meth:`pull` that kept its graph.
    """

    def __init__(self, node: Node, states: Sequence[Array]) -> None:
        self.node = node
        self.arguments = [chainer.Variable(state) for state in states]
        with chainer.force_backprop_mode(), KinkHook():
            self.outputs, parameters = node.run(self.arguments)
        self.n_states = len(states)
        self.arguments += parameters
        self.pulled: list[Variable] = []

    def pull(self, epsilons: Sequence[Array | None], keep: bool = False) -> list[Array]:
        """G: the error vectors of the inputs, then the gradients in the parameters."""
        pairs = [
            (y, chainer.Variable(epsilon))
            for y, epsilon in zip(self.outputs, epsilons, strict=True)
            if epsilon is not None
        ]
        return [one.array for one in self._pull(pairs, keep)]

    def _pull(self, pairs: Sequence[tuple[Variable, Variable]], keep: bool) -> list[Variable]:
        found: Sequence[Variable | None] = [None] * len(self.arguments)
        if pairs:
            outputs, weights = zip(*pairs, strict=True)
            with KinkHook():
                found = gradients_at_kinks(outputs, self.arguments, weights, keep)
        self.pulled = [one for one in found if one is not None] if keep else []
        return [
            chainer.Variable(like.xp.zeros_like(like.array)) if one is None else one
            for one, like in zip(found, self.arguments, strict=True)
        ]

    def push(self, directions: Sequence[Array]) -> list[Array]:
        """The derivative along a direction: G is linear in epsilon, and this is its transpose."""
        weights = [chainer.Variable(y.xp.ones_like(y.array)) for y in self.outputs]
        pairs = list(zip(self.outputs, weights, strict=True))
        with chainer.force_backprop_mode():
            pulled = [F.identity(one) for one in self._pull(pairs, True)]
            moved = [
                (one, chainer.Variable(direction))
                for one, direction in zip(pulled, directions, strict=True)
                if one.creator_node is not None
            ]
            with KinkHook():
                found = gradients_at_kinks(
                    [one for one, _ in moved], weights, [v for _, v in moved], False
                )
        return [
            w.xp.zeros_like(w.array) if one is None else one.array
            for one, w in zip(found, weights, strict=True)
        ]

    def directions(self, given: Any) -> list[Array]:
        """Directions of the parameters; zeros if none are given."""
        parameters = self.arguments[self.n_states :]
        if given is None:
            return [one.xp.zeros_like(one.array) for one in parameters]
        if isinstance(given, Mapping):
            given = [given[name] for name in sorted(given)]
        arrays = list(given) if isinstance(given, (tuple, list)) else [given]
        found = [getattr(one, "shape", ()) for one in arrays]
        wanted = [one.shape for one in parameters]
        if found != wanted:
            raise ValueError(
                f"the direction of the parameters of {self.node.name!r} must have shapes {wanted}, "
                f"found {found}"
            )
        return [one.xp.asarray(v, one.dtype) for one, v in zip(parameters, arrays, strict=True)]

    def forget(self) -> None:
        """Free the graph."""
        self.outputs, self.arguments, self.pulled = (), [], []


class _OnRequest(Mapping[Any, Any]):
    """A mapping that computes a value at the first access and keeps it."""

    def __init__(self, keys: Sequence[Hashable], compute: Callable[[Any], Any]) -> None:
        self._keys, self._compute = dict.fromkeys(keys), compute
        self._known: dict[Any, Any] = {}

    def __getitem__(self, key: Any) -> Any:
        if key not in self._keys:
            raise KeyError(key)
        if key not in self._known:
            with exact_backward():
                self._known[key] = self._compute(key)
        return self._known[key]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)


@dataclasses.dataclass(frozen=True)
class TangentPass:
    """The result of a forward propagation of derivatives.

    Attributes:
        states: Name to state, (N, ...).
        tangents: Name to the state's derivative along the direction, (N, ...).
    """

    states: Mapping[str, Array]
    tangents: Mapping[str, Array]


@dataclasses.dataclass(frozen=True)
class PassCosts:
    """The costs of the two passes.

    Attributes:
        forward_operations: Additions, products and elementary functions of the forward pass.
        backward_operations: The same for the backward pass.
        forward_seconds: Processor time of the forward pass, to the losses.
        backward_seconds: Processor time of the backward pass, from the losses.
        state_bytes: Memory of all states.
    """

    forward_operations: int
    backward_operations: int
    forward_seconds: float
    backward_seconds: float
    state_bytes: int


class AdjointPass:
    """The results of one forward and one backward propagation, for N samples.

    The last three attributes are computed at the first access, one entry at a time. They need
    functions that treat every sample separately, row i from row i. An entry of more than 2**24
    numbers is refused.

    Attributes:
        states: Name to state, (N, ...); the inputs too.
        errors: Name to error vector epsilon, (N, ...): the gradient of a sample's loss in it.
        gradients: Node to the gradient in its parameters, summed over the samples, in the structure
            of the parameters (a mapping of names for a link).
        losses: Loss of each sample, (N,).
        seconds: Processor time of the forward and of the backward pass.
        A: (node, input) to the Jacobian of the node in that state, (N, ..., ...).
        B: Node to the Jacobian in its parameters, (N, ..., P), all P numbers in one axis.
        sample_gradients: Node to per-sample gradients, (N,) + parameters.shape.
    """

    def __init__(
        self,
        nodes: Sequence[Node],
        states: Mapping[str, Array],
        errors: Mapping[str, Array],
        gradients: Mapping[str, Any],
        losses: Array,
        seconds: tuple[float, float],
    ) -> None:
        self.states, self.errors, self.gradients = states, errors, gradients
        self.losses, self.seconds = losses, seconds
        self._nodes = {node.name: node for node in nodes}
        edges = [(node.name, name) for node in nodes for name in dict.fromkeys(node.inputs)]
        self.A: Mapping[tuple[str, str], Array] = _OnRequest(edges, self._a)
        self.B: Mapping[str, Array] = _OnRequest([*gradients], self._b)
        self.sample_gradients: Mapping[str, Any] = _OnRequest([*gradients], self._rows)

    def _a(self, edge: tuple[str, str]) -> Array:
        node, source = self._nodes[edge[0]], edge[1]
        (name,) = _single(node)
        shape = (*self.states[name].shape, *self.states[source].shape[1:])
        _check_size(f"A[{edge[0]!r}, {source!r}]", shape)
        linear = LinearNode(node, [self.states[one] for one in node.inputs])
        rows = []
        for unit in _units(self.states[name]):  # all samples at once: they do not mix
            pulled = linear.pull([unit])
            rows.append(
                sum(g for one, g in zip(node.inputs, pulled, strict=False) if one == source)
            )
        return self._stack(rows).reshape(shape)

    def _b(self, key: str) -> Array:
        node = self._nodes[key]
        (name,) = _single(node)
        state, size = self.states[name], sum(prod(p.shape) for p in _flat(self.gradients[key]))
        _check_size(f"B[{key!r}]", (*state.shape, size))
        samples = []
        for n in range(len(state)):
            linear = LinearNode(node, [self.states[one][n : n + 1] for one in node.inputs])
            pulled = [linear.pull([unit])[len(node.inputs) :] for unit in _units(state[n : n + 1])]
            samples.append(self._stack([_joined(one) for one in pulled], axis=0))
        return self._stack(samples, axis=0).reshape(*state.shape, size)

    def _rows(self, key: str) -> Any:
        node, count = self._nodes[key], len(self.losses)
        size = sum(prod(p.shape) for p in _flat(self.gradients[key]))
        _check_size(f"sample_gradients[{key!r}]", (count, size))
        rows = []
        for n in range(count):
            linear = LinearNode(node, [self.states[one][n : n + 1] for one in node.inputs])
            epsilons = [self.errors[name][n : n + 1] for name in node.outputs]
            rows.append(linear.pull(epsilons)[len(node.inputs) :])
        return node.structured([self._stack(one, axis=0) for one in zip(*rows, strict=True)])

    def _stack(self, arrays: Sequence[Array], axis: int = 1) -> Array:
        return chainer.backend.get_array_module(arrays[0]).stack(arrays, axis=axis)


def _check_size(name: str, shape: Sequence[int]) -> None:
    if prod(shape) > LARGEST:
        raise ValueError(
            f"{name} must have at most {LARGEST:,} numbers to be formed, found shape "
            f"{tuple(shape)}; error vectors and gradients need no such array"
        )


def _single(node: Node) -> tuple[str]:
    if len(node.outputs) != 1:
        raise ValueError(f"node {node.name!r} must have one output for a Jacobian, found several")
    return (node.outputs[0],)


def _units(state: Array) -> Iterator[Array]:
    """Unit error vectors: one for each number of a state, with a 1 there in every sample."""
    xp = chainer.backend.get_array_module(state)
    for j in range(prod(state.shape[1:])):
        unit = xp.zeros((len(state), prod(state.shape[1:])), state.dtype)
        unit[:, j] = 1
        yield unit.reshape(state.shape)


def _flat(structured: Any) -> list[Array]:
    if isinstance(structured, Mapping):
        return [*structured.values()]
    return [*structured] if isinstance(structured, tuple) else [structured]


def _joined(arrays: Sequence[Array]) -> Array:
    xp = chainer.backend.get_array_module(arrays[0])
    return xp.concatenate([one.reshape(-1) for one in arrays])
