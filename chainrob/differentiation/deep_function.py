"""Deep functions: states forward, error vectors back, tangents forward."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import chainer
from chainrob.aggregation import exact_backward
from chainrob.differentiation._kinks import KinkHook, gradients_at_kinks
from chainrob.differentiation._operations import graph_operations
from chainrob.differentiation.adjoint_pass import AdjointPass, LinearNode, PassCosts, TangentPass
from chainrob.differentiation.node import Node

__all__ = ["DeepFunction"]

Array = Any
Variable = Any


class DeepFunction:
    r"""A directed acyclic graph of vector functions; the simplest case is a chain of layers.

    .. math:: x_m = f_m(x_{p(m)}, w_m), \qquad
        \varepsilon_p = \sum_{m : p \to m} \varepsilon_m^\top \partial f_m / \partial x_p, \qquad
        g_m = \varepsilon_m^\top \partial f_m / \partial w_m

    The sum runs over all nodes m that use p (fan-out). A node m may use several p (fan-in). The
    adjoint function G of a node maps an error vector back, so no Jacobian is formed. One backward
    pass costs about two forward passes. The memory is that of the states.

    Args:
        nodes: The nodes in an order in which every node comes after its inputs.
        inputs: Names of the inputs of the whole function. Default: ``('x',)``.
        outputs: Names of the states that go into the loss. Default: those of the last node.

    Raises:
        ValueError: If a name is used twice or refers to nothing before it.

    Example:
        >>> import numpy as np, chainer.functions as F
        >>> def layer(x, w):
        ...     return F.tanh(F.linear(x, w))
        >>> network = DeepFunction.chain([(layer, np.eye(2)), (layer, np.ones((1, 2)))])
        >>> result = network.adjoint(
        ...     np.array([[0.1, 0.2], [0.3, 0.4]]), lambda y: F.sum((y - 1) ** 2, axis=1)
        ... )
        >>> result.gradients["layer2"].shape, result.errors["layer1"].shape
        ((1, 2), (2, 2))
        >>> result.A["layer2", "layer1"].shape, result.sample_gradients["layer2"].shape
        ((2, 1, 2), (2, 1, 2))

    References:
        Y. LeCun, A theoretical framework for back-propagation, Connectionist Models Summer School
        (1988).
    """

    def __init__(
        self,
        nodes: Sequence[Node],
        *,
        inputs: Sequence[str] = ("x",),
        outputs: Sequence[str] | None = None,
    ) -> None:
        if not nodes:
            raise ValueError("nodes must hold at least one node, found none")
        known = set(inputs)
        if len(known) != len(inputs) or not known:
            raise ValueError(f"inputs must be unique names, at least one, found {list(inputs)}")
        for node in nodes:
            missing = [name for name in node.inputs if name not in known]
            if missing or not node.inputs:
                raise ValueError(
                    f"node {node.name!r} must have inputs that come before it, found "
                    f"{list(node.inputs)}"
                )
            for name in node.outputs:
                if name in known:
                    raise ValueError(f"nodes must have unique names, found {name!r} again")
                known.add(name)
        self.nodes = tuple(nodes)
        self.inputs = tuple(inputs)
        self.outputs = tuple(outputs) if outputs is not None else nodes[-1].outputs
        missing = [name for name in self.outputs if name not in known]
        if missing or not self.outputs:
            raise ValueError(f"outputs must be names of states, found {list(self.outputs)}")

    @classmethod
    def chain(cls, layers: Sequence[Any]) -> DeepFunction:
        """A layered network with the layers layer1, layer2, ...

        Args:
            layers: For each layer a Chainer function or link, or a tuple of the arguments of
                :class:`Node` after the inputs: ``(function, parameters, adjoint, tangent)``.

        Example:
            >>> import chainer.functions as F, chainer.links as L
            >>> network = DeepFunction.chain([L.Linear(3, 4), F.tanh, L.Linear(4, 2)])
        """
        names = ["x", *(f"layer{m + 1}" for m in range(len(layers)))]
        nodes = []
        for m, layer in enumerate(layers):
            function, *more = layer if isinstance(layer, tuple) else (layer,)
            nodes.append(Node(names[m + 1], function, (names[m],), *more))
        return cls(nodes)

    def __call__(self, *x: Any) -> Any:
        """The output as a Variable (a tuple for several), by plain forward propagation."""
        states = {
            name: chainer.as_variable(one)
            for name, one in zip(self.inputs, self._given(x if len(x) != 1 else x[0]), strict=True)
        }
        for node in self.nodes:
            results, _ = node.run([states[name] for name in node.inputs])
            states.update(zip(node.outputs, results, strict=True))
        outputs = tuple(states[name] for name in self.outputs)
        return outputs[0] if len(outputs) == 1 else outputs

    def adjoint(self, x: Any, loss: Callable[..., Any]) -> AdjointPass:
        """Forward propagation of states, back propagation of error vectors.

        Args:
            x: Input, (N, ...); for several inputs a tuple or a mapping of names to arrays.
            loss: Takes the output Variables, returns each sample's loss, (N,).

        Returns:
            An :class:`AdjointPass`.

        Raises:
            ValueError: If the losses have the wrong shape, or a node has no derivative there (see
                :func:`subgradient`).
        """
        start = time.process_time()
        linear, states = self._linearize(x)
        losses, outputs = self._losses(states, loss)
        middle = time.process_time()
        errors = self._errors_of_outputs(losses, outputs)
        gradients: dict[str, Any] = {}
        with exact_backward():
            for one in reversed(linear):
                epsilons = [errors.get(name) for name in one.node.outputs]
                pulled = one.pull(epsilons)
                for name, error in zip(one.node.inputs, pulled, strict=False):
                    errors[name] = errors[name] + error if name in errors else error
                slopes = pulled[len(one.node.inputs) :]
                if slopes:
                    gradients[one.node.name] = one.node.structured(slopes)
                one.forget()
        end = time.process_time()
        for name, state in states.items():
            if name not in errors:  # the loss does not depend on this state
                errors[name] = chainer.backend.get_array_module(state).zeros_like(state)
        seconds = (middle - start, end - middle)
        return AdjointPass(self.nodes, states, errors, gradients, losses.array, seconds)

    def tangent(
        self, x: Any, directions: Any = None, parameters: Mapping[str, Any] | None = None
    ) -> TangentPass:
        r"""Forward propagation of states and of their derivatives along one direction.

        .. math:: \dot x_m = \sum_p \frac{\partial f_m}{\partial x_p} \dot x_p
            + \frac{\partial f_m}{\partial w_m} \dot w_m

        Args:
            x: As for :meth:`adjoint`.
            directions: Directions of the inputs, in the structure of ``x``. Default: zeros.
            parameters: Mapping from nodes to directions of their parameters. Default: zeros.

        Returns:
            A :class:`TangentPass`.

        Raises:
            ValueError: If a shape is wrong, or a name is not that of a node with parameters.
            NotImplementedError: If a node has an ``adjoint`` but no ``tangent``.
        """
        moving = dict(parameters or {})
        linear, states = self._linearize(x)
        given = [None] * len(self.inputs) if directions is None else self._given(directions)
        tangents: dict[str, Array] = {}
        for name, direction in zip(self.inputs, given, strict=True):
            tangents[name] = _like(states[name], direction, f"the direction of {name!r}")
        with exact_backward():
            for one in linear:
                along = [tangents[name] for name in one.node.inputs]
                along += one.directions(moving.pop(one.node.name, None))
                pushed = one.push(along)
                tangents.update(zip(one.node.outputs, pushed, strict=True))
                one.forget()
        if moving:
            raise ValueError(f"parameters must be names of nodes that have some, found {[*moving]}")
        return TangentPass(states, tangents)

    def costs(self, x: Any, loss: Callable[..., Any], *, repeats: int = 5) -> PassCosts:
        """Count and time the forward and the backward pass.

        Operations are counted in the recorded graphs: additions, products and elementary functions,
        one per number. Nodes with their own ``adjoint`` are timed but not counted. Times are
        processor time, the minimum of several runs.

        Args:
            x: As for :meth:`adjoint`.
            loss: As for :meth:`adjoint`.
            repeats: Number of timed runs.

        Returns:
            A :class:`PassCosts`.
        """
        taken = [self.adjoint(x, loss).seconds for _ in range(max(repeats, 1))]
        linear, states = self._linearize(x)
        errors = self._errors_of_outputs(*self._losses(states, loss))
        forward = backward = 0
        with exact_backward():
            for one in reversed(linear):
                forward += graph_operations(one.outputs)
                epsilons = [errors.get(name) for name in one.node.outputs]
                pulled = one.pull(epsilons, keep=True)
                backward += graph_operations(one.pulled, excluding=one.outputs)
                for name, error in zip(one.node.inputs, pulled, strict=False):
                    errors[name] = errors[name] + error if name in errors else error
        return PassCosts(
            forward,
            backward,
            min(seconds for seconds, _ in taken),
            min(seconds for _, seconds in taken),
            sum(state.nbytes for state in states.values()),
        )

    def _given(self, x: Any) -> list[Any]:
        """The inputs in their order."""
        if isinstance(x, Mapping):
            if set(x) != set(self.inputs):
                raise ValueError(f"x must name the inputs {list(self.inputs)}, found {list(x)}")
            return [x[name] for name in self.inputs]
        given = list(x) if isinstance(x, (tuple, list)) else [x]
        if len(given) != len(self.inputs):
            raise ValueError(f"x must hold {len(self.inputs)} inputs, found {len(given)}")
        return given

    def _linearize(self, x: Any) -> tuple[list[LinearNode], dict[str, Array]]:
        """All states, and every node at its states."""
        states: dict[str, Array] = {}
        for name, one in zip(self.inputs, self._given(x), strict=True):
            array = getattr(one, "array", one)
            if getattr(array, "ndim", 0) < 1:
                raise ValueError(f"{name} must be an array (samples, ...), found shape ()")
            states[name] = array
        linear = []
        for node in self.nodes:
            one = LinearNode(node, [states[name] for name in node.inputs])
            states.update(zip(node.outputs, [y.array for y in one.outputs], strict=True))
            linear.append(one)
        return linear, states

    def _losses(
        self, states: Mapping[str, Array], loss: Callable[..., Any]
    ) -> tuple[Variable, list[Variable]]:
        outputs = [chainer.Variable(states[name]) for name in self.outputs]
        count = len(states[self.inputs[0]])
        with chainer.force_backprop_mode(), KinkHook():
            losses = loss(*outputs)
        if losses.shape != (count,):
            raise ValueError(f"loss must return shape ({count},), found {losses.shape}")
        return losses, outputs

    def _errors_of_outputs(self, losses: Variable, outputs: Sequence[Variable]) -> dict[str, Array]:
        ones = chainer.Variable(losses.xp.ones_like(losses.array))
        errors: dict[str, Array] = {}
        found = gradients_at_kinks([losses], outputs, [ones], False)
        for name, error in zip(self.outputs, found, strict=True):
            if error is not None:
                errors[name] = error.array
        return errors


def _like(state: Array, direction: Any, name: str) -> Array:
    xp = chainer.backend.get_array_module(state)
    if direction is None:
        return xp.zeros_like(state)
    direction = xp.asarray(getattr(direction, "array", direction), dtype=state.dtype)
    if direction.shape != state.shape:
        raise ValueError(f"{name} must have shape {state.shape}, found {direction.shape}")
    return direction
