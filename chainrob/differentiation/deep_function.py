"""The adjoint view of a deep function: states forward, error vectors back."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

import chainer
import chainer.functions as F
from chainrob.differentiation._closed import gradients

__all__ = ["AdjointPass", "DeepFunction", "Node"]

Array = Any


@dataclasses.dataclass(frozen=True)
class Node:
    """One node of a deep function.

    Attributes:
        name: Unique; other nodes refer to it.
        function: ``function(*states, parameters)``: Variables of shape (N, d_k), one an input,
            and the parameters, of shape (N,) + parameters.shape (each sample has its copy), or
            nothing for a node without parameters. Returns a Variable of shape (N, d); row i may
            depend on row i of its arguments alone.
        inputs: Names of other nodes, or ``'x'`` for the input of the whole.
        parameters: Array, or None.
    """

    name: str
    function: Callable[..., Any]
    inputs: tuple[str, ...]
    parameters: Array | None = None


@dataclasses.dataclass(frozen=True)
class AdjointPass:
    """Everything that one forward and one backward propagation compute, for N samples.

    Attributes:
        states: Node to state, (N, d); ``'x'`` is the input.
        A: (node, input) to the Jacobian of the node in that input's state, (N, d, d_input).
        B: Node to the Jacobian in its parameters, (N, d, P), for nodes that have some.
        errors: Node to error vector epsilon, (N, d): the gradient of a sample's loss in its state.
        sample_gradients: Node to per-sample gradients g, (N,) + parameters.shape.
        gradients: Node to their sum over the samples.
        losses: Loss of each sample, (N,).
    """

    states: Mapping[str, Array]
    A: Mapping[tuple[str, str], Array]
    B: Mapping[str, Array]
    errors: Mapping[str, Array]
    sample_gradients: Mapping[str, Array]
    gradients: Mapping[str, Array]
    losses: Array


class DeepFunction:
    r"""A directed acyclic graph of vector functions; a chain of layers is the simplest.

    .. math:: x_m = f_m(x_{p(m)}, w_m), \quad A_{mp} = \partial f_m / \partial x_p, \quad
        B_m = \partial f_m / \partial w_m

    .. math:: \varepsilon_p = \sum_{m : p \to m} A_{mp}^\top \varepsilon_m, \qquad
        g_m = B_m^\top \varepsilon_m

    The sum over all nodes m that use p is fan-out; several p for one m are fan-in.

    Args:
        nodes: The nodes in an order in which every node comes after its inputs; the last one's
            state is the output.

    Raises:
        ValueError: If a name is used twice or refers to nothing that comes earlier.

    Example:
        >>> import numpy as np, chainer.functions as F
        >>> def layer(x, w):
        ...     return F.tanh(F.matmul(w, x[:, :, None])[:, :, 0])
        >>> network = DeepFunction.chain([(layer, np.eye(2)), (layer, np.ones((1, 2)))])
        >>> result = network.adjoint(
        ...     np.array([[0.1, 0.2], [0.3, 0.4]]), lambda y: F.sum((y - 1) ** 2, axis=1)
        ... )
        >>> result.A["layer2", "layer1"].shape, result.sample_gradients["layer2"].shape
        ((2, 1, 2), (2, 1, 2))
    """

    def __init__(self, nodes: Sequence[Node]) -> None:
        if not nodes:
            raise ValueError("nodes must hold at least one node, found none")
        known = {"x"}
        for node in nodes:
            if node.name in known:
                raise ValueError(f"nodes must have unique names, found {node.name!r} again")
            missing = [name for name in node.inputs if name not in known]
            if missing or not node.inputs:
                raise ValueError(
                    f"node {node.name!r} must have inputs that come before it, found "
                    f"{list(node.inputs)}"
                )
            known.add(node.name)
        self.nodes = tuple(nodes)

    @classmethod
    def chain(cls, layers: Sequence[tuple[Callable[..., Any], Array | None]]) -> DeepFunction:
        """A layered network: ``(function, parameters)`` a layer, named layer1, layer2, ..."""
        names = ["x", *(f"layer{m + 1}" for m in range(len(layers)))]
        return cls(
            [
                Node(names[m + 1], function, (names[m],), parameters)
                for m, (function, parameters) in enumerate(layers)
            ]
        )

    def __call__(self, x: Any) -> Any:
        """The output as a Variable, by plain forward propagation."""
        states = {"x": chainer.as_variable(x)}
        for node in self.nodes:
            arguments = [states[name] for name in node.inputs]
            if node.parameters is not None:
                arguments.append(_copies(node.parameters, len(x)))
            states[node.name] = node.function(*arguments)
        return states[self.nodes[-1].name]

    def adjoint(self, x: Array, loss: Callable[[Any], Any]) -> AdjointPass:
        """Forward propagation of states, back propagation of error vectors.

        Args:
            x: Inputs, (N, d_0).
            loss: Takes the output Variable (N, d_M), returns each sample's loss, (N,).

        Returns:
            An :class:`AdjointPass`.

        Raises:
            ValueError: If a state or the losses have the wrong shape.
        """
        if x.ndim != 2:
            raise ValueError(f"x must be a matrix (samples, features), found shape {x.shape}")
        count = len(x)
        states: dict[str, Array] = {"x": x}
        a: dict[tuple[str, str], Array] = {}
        b: dict[str, Array] = {}
        for node in self.nodes:
            state, jacobians = _linearise(node, [states[name] for name in node.inputs], count)
            states[node.name] = state
            for name, jacobian in zip(node.inputs, jacobians, strict=False):
                key = (node.name, name)  # an input used twice has the sum of both Jacobians
                a[key] = a[key] + jacobian if key in a else jacobian
            if node.parameters is not None:
                b[node.name] = jacobians[-1]

        output = chainer.Variable(states[self.nodes[-1].name])
        with chainer.force_backprop_mode():
            losses = loss(output)
            if losses.shape != (count,):
                raise ValueError(f"loss must return shape ({count},), found {losses.shape}")
            (final,) = gradients([losses], [output])
        errors = {name: np.zeros_like(state) for name, state in states.items()}
        errors[self.nodes[-1].name] = final.array
        sample_gradients: dict[str, Array] = {}
        for node in reversed(self.nodes):
            epsilon = errors[node.name]
            for name in dict.fromkeys(node.inputs):
                errors[name] = errors[name] + _transposed_product(a[node.name, name], epsilon)
            if node.parameters is not None:
                g = _transposed_product(b[node.name], epsilon)
                sample_gradients[node.name] = g.reshape(count, *node.parameters.shape)
        summed = {name: g.sum(axis=0) for name, g in sample_gradients.items()}
        return AdjointPass(states, a, b, errors, sample_gradients, summed, losses.array)


def _linearise(node: Node, states: list[Array], count: int) -> tuple[Array, list[Array]]:
    """State of a node, and its Jacobians in each input and then in its parameters."""
    arguments = [chainer.Variable(state) for state in states]
    if node.parameters is not None:
        arguments.append(chainer.Variable(_copies(node.parameters, count)))
    with chainer.force_backprop_mode():
        y = node.function(*arguments)
        if y.ndim != 2 or len(y) != count:
            raise ValueError(f"node {node.name!r} must return shape ({count}, d), found {y.shape}")
        y = F.identity(y)
        rows: list[list[Array]] = [[] for _ in arguments]
        for j in range(y.shape[1]):  # all samples at once: they do not mix
            unit = np.zeros_like(y.array)
            unit[:, j] = 1
            for k, g in enumerate(gradients([y], arguments, [chainer.Variable(unit)])):
                rows[k].append(g.array.reshape(count, -1))
    return y.array, [np.stack(row, axis=1) for row in rows]


def _copies(parameters: Array, count: int) -> Array:
    return np.broadcast_to(parameters, (count, *parameters.shape)).copy()


def _transposed_product(jacobians: Array, vectors: Array) -> Array:
    """A_i^T e_i for every sample i."""
    return np.einsum("ijk,ij->ik", jacobians, vectors)
