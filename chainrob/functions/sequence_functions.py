"""Recurrent layers over sequences of different lengths. A sample is a whole sequence.

The gradient of a sample is the sum over its time steps. Chainer's operations run all steps. Only
the product of all inputs and the input weights is a robust function. Its output gradient holds the
contribution of every step, also to the hidden weights. The inputs of the hidden weights are the
states before the steps; the function records them during the forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

import chainer
from chainer import function_node
from chainer import functions as F
from chainrob.aggregation import Aggregation
from chainrob.functions.gradient_node import RobustFunction
from chainrob.kernels import array_module
from chainrob.sample_gradients import OuterProducts, SampleGradients
from chainrob.sample_gradients.operator_base import Array

Step = Callable[..., tuple[chainer.Variable, Any, Any]]


class Cell(NamedTuple):
    """The properties in which recurrent cells differ.

    The parameters are Chainer's: ``w0`` to ``w[G-1]`` see the input and ``w[G]`` to ``w[2G-1]`` the
    state, for G gates.
    """

    order: tuple[int, ...]
    """The gates in their order in the product with all input weights."""
    interleaved: bool
    """Whether the gates of one unit lie side by side there, as in ``chainer.functions.lstm``.
    Otherwise the units of one gate lie side by side."""
    step: Step
    """(input part, state, cell state, hidden part) to state, cell state, and the factor that the
    last gate's hidden part has (None where it is 1)."""

    def joined(self, parameters: Sequence[chainer.Variable]) -> chainer.Variable:
        """The weights or biases of all gates as one."""
        ordered = [parameters[gate] for gate in self.order]
        if not self.interleaved:
            return F.concat(ordered, axis=0)
        stacked = F.stack(ordered, axis=1)
        return F.reshape(stacked, (-1, *stacked.shape[2:]))

    def gate(self, array: Array, number: int) -> Array:
        """One gate's part (rows, H) of an array (rows, G * H)."""
        place, count = self.order.index(number), len(self.order)
        units = array.shape[1] // count
        if self.interleaved:
            return array.reshape((len(array), units, count))[..., place]
        return array[:, place * units : (place + 1) * units]


def _lstm(part: Any, h: Any, c: Any, hidden: Any) -> tuple[chainer.Variable, Any, Any]:
    c, h = F.lstm(c, part + hidden(h))
    return h, c, None


def _gru(part: Any, h: Any, c: Any, hidden: Any) -> tuple[chainer.Variable, Any, Any]:
    reset, update, new = F.split_axis(part, 3, axis=1)
    h_reset, h_update, h_new = F.split_axis(hidden(h), 3, axis=1)
    r = F.sigmoid(reset + h_reset)
    z = F.sigmoid(update + h_update)
    return (1 - z) * F.tanh(new + r * h_new) + z * h, None, r.array


def _simple(activation: Callable[[Any], Any]) -> Step:
    def step(part: Any, h: Any, c: Any, hidden: Any) -> tuple[chainer.Variable, Any, Any]:
        return activation(part + hidden(h)), None, None

    return step


LSTM = Cell((2, 0, 1, 3), True, _lstm)
GRU = Cell((0, 1, 2), False, _gru)
TANH = Cell((0,), False, _simple(F.tanh))
RELU = Cell((0,), False, _simple(F.relu))


class SequenceInput(RobustFunction, function_node.FunctionNode):
    """The input part of all steps, x W^T + b; its backward pass estimates all parameters.

    Inputs: x (rows, P), the weights w0, w1, ... and the biases b0, b1, ... of a cell.

    Args:
        aggregation: robustifier, scope, scale, and to which sample each row belongs.
        cell: the kind of cell.
        prefix: the layer's name in the link.
        n_steps: the number of time steps.
    """

    def __init__(self, aggregation: Aggregation, cell: Cell, prefix: str, n_steps: int) -> None:
        super().__init__()
        self.aggregation = aggregation
        self.cell = cell
        n = 2 * len(cell.order)
        names = [f"{kind}{number}" for kind in "wb" for number in range(n)]
        self.parameters: Mapping[int, str] = {  # type: ignore[misc]
            position: f"{prefix}/{name}" for position, name in enumerate(names, 1)
        }
        # Arrays, not variables: a node that holds its own successors would never be freed.
        self.states: list[Array] = [None] * n_steps
        self.factors: list[Array] = [None] * n_steps

    def forward(self, inputs: tuple[Array, ...]) -> tuple[Array]:
        self.retain_inputs(tuple(range(1 + len(self.cell.order))))
        x, *parameters = inputs
        n = 2 * len(self.cell.order)
        W, b = (self._joined(parameters[start : start + n // 2]) for start in (0, n))
        return (array_module(x).matmul(x, W.T).astype(x.dtype, copy=False) + b,)

    def _joined(self, arrays: Sequence[Array]) -> Array:
        with chainer.no_backprop_mode():
            return self.cell.joined([chainer.as_variable(one) for one in arrays]).array

    def input_gradient(self, gy: chainer.Variable) -> chainer.Variable:
        _, *weights = self.get_retained_inputs()
        return F.matmul(gy, self.cell.joined(weights))

    def sources(self) -> tuple[chainer.Variable, ...]:
        x = self.get_retained_inputs()[0]
        found = [self.states] if self.factors[0] is None else [self.states, self.factors]
        xp = array_module(x.array)
        return (x, *[chainer.as_variable(xp.concatenate(one)) for one in found])

    def sample_gradients(
        self, arrays: tuple[Array, ...], wanted: Sequence[int]
    ) -> Mapping[int, SampleGradients]:
        x, h, *factor, gy = arrays
        n_gates = len(self.cell.order)
        operators: dict[int, SampleGradients] = {}
        for number in range(2 * n_gates):
            part = self.cell.gate(gy, number % n_gates)
            if number == 2 * n_gates - 1 and factor:
                part = part * factor[0]
            rows = OuterProducts((x if number < n_gates else h)[:, None], part[:, None])
            operators[1 + number] = rows
            operators[1 + 2 * n_gates + number] = rows.bias()
        return {index: operators[index] for index in wanted}


class HiddenPart(function_node.FunctionNode):
    """h W^T + b of one step. It has no gradients of W and b: ``SequenceInput`` estimates these."""

    def forward(self, inputs: tuple[Array, ...]) -> tuple[Array]:
        self.retain_inputs((0, 1))
        h, W, b = inputs
        return (array_module(h).matmul(h, W.T).astype(h.dtype, copy=False) + b,)

    def backward(self, indexes: Any, grad_outputs: Any) -> Any:
        _, W = self.get_retained_inputs()
        (gy,) = grad_outputs
        return tuple(F.matmul(gy, W) if index == 0 else None for index in indexes)


def recurrence(
    cell: Cell,
    x: chainer.Variable,
    counts: Sequence[int],
    h: chainer.Variable,
    c: chainer.Variable | None,
    ws: Sequence[chainer.Variable],
    bs: Sequence[chainer.Variable],
    aggregation: Aggregation,
    prefix: str,
    *,
    backward: bool = False,
) -> tuple[chainer.Variable, chainer.Variable | None, chainer.Variable]:
    """One layer of a recurrent network over sequences, in one direction.

    Args:
        cell: the kind of cell.
        x: inputs of all steps, one step after the other: (rows, P).
        counts: how many sequences each step has, not increasing; they add up to the rows.
        h, c: states (B, H) before the first step; c is None where the cell has none.
        ws, bs: the cell's weights and biases.
        aggregation: how the gradients are estimated, with the sample of each row.
        prefix: the layer's name, for its parameters.
        backward: whether time runs from the last step to the first.

    Returns:
        the last states, and those of all steps in the order of x: (rows, H).
    """
    if x.shape[1] != ws[0].shape[1]:
        raise ValueError(
            f"the inputs must have as many columns as {prefix}/w0, found {x.shape[1]} "
            f"and {ws[0].shape[1]}"
        )
    node = SequenceInput(aggregation, cell, prefix, len(counts))
    (parts,) = node.apply((x, *ws, *bs))
    n_gates = len(cell.order)
    W, b = cell.joined(ws[n_gates:]), cell.joined(bs[n_gates:])
    by_step = [parts]
    if len(counts) > 1:
        by_step = F.split_axis(parts, np.cumsum(counts)[:-1], axis=0)
    outputs: list[Any] = [None] * len(counts)
    for t in reversed(range(len(counts))) if backward else range(len(counts)):
        waiting: list[Any] = []  # sequences that have ended, or have not begun
        if len(h) > counts[t]:
            h, h_waiting = F.split_axis(h, [counts[t]], axis=0)
            waiting = [h_waiting]
            if c is not None:
                c, c_waiting = F.split_axis(c, [counts[t]], axis=0)
                waiting.append(c_waiting)
        node.states[t] = h.array
        h, c, node.factors[t] = cell.step(
            by_step[t], h, c, lambda state: HiddenPart().apply((state, W, b))[0]
        )
        outputs[t] = h
        if waiting:
            h = F.concat([h, waiting[0]], axis=0)
            if c is not None:
                c = F.concat([c, waiting[1]], axis=0)
    return h, c, F.concat(outputs, axis=0)
