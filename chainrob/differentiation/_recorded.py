"""The parts of an evaluation trace: its steps, their costs, and the recorder of the steps."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

import chainer
from chainrob.differentiation._graph import function_nodes

__all__ = [
    "OperationCounts",
    "Recorder",
    "Step",
    "ancestors",
    "as_text",
    "count",
    "node_backward",
    "plain",
    "rounded",
]


@dataclasses.dataclass(frozen=True)
class OperationCounts:
    """Numbers of arithmetic operations: additions, products and elementary functions of numbers.

    Attributes:
        evaluation: Operations for the values.
        forward: Operations for the derivatives along one direction, when the values are known. A
            gradient in n inputs takes n such sweeps.
        reverse: Operations for the derivatives of one output in all values, when the values are
            known.
    """

    evaluation: int
    forward: int
    reverse: int


@dataclasses.dataclass(frozen=True)
class Step:
    """One line of the table: ``name = expression``.

    Attributes:
        name: ``u1``, ``u2``, ...
        expression: The operation with the names of its arguments.
        inputs: Names of the arguments. A constant is given by its value.
        rank: Length of the longest path from the inputs.
        partials: Partial derivative in each argument, as text: ``cos(u2)``.
        operations: Arithmetic operations that the step takes in each mode.
    """

    name: str
    expression: str
    inputs: tuple[str, ...]
    rank: int
    partials: tuple[str, ...]
    operations: OperationCounts


class Recorder(chainer.FunctionHook):
    """Keeps the nodes in the order of their computation, with their input arrays."""

    name = "chainrob.evaluation_trace"

    def __init__(self) -> None:
        self.calls: list[tuple[Any, tuple[Any, ...]]] = []

    def forward_postprocess(self, function: Any, in_data: Any) -> None:
        self.calls.append((function, tuple(in_data)))


def ancestors(output: Any, calls: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    """The recorded calls behind the output, in their order."""
    needed = {id(node) for node in function_nodes(output)}
    return [call for call in calls if id(call[0]) in needed]


def node_backward(node: Any, indexes: list[int], weights: tuple[Any, ...]) -> Any:
    """A node's own backward. Chainer lets a node return the gradients of all its inputs."""
    pulled = node.backward(tuple(indexes), weights)
    if len(pulled) == len(node.inputs):
        return [pulled[i] for i in indexes]
    return pulled


def as_text(label: str, inputs: tuple[str, ...]) -> str:
    if label.count("_") == len(inputs) and (" " in label or label.startswith("-")):
        for name in inputs:
            label = label.replace("_", name, 1)
        return label
    return f"{label}({', '.join(inputs)})"


def count(moving: list[tuple[str, int]], value: int, size: int) -> OperationCounts:
    """Operations of a step, from the partial derivatives in its arguments that are no constants."""
    products = 0
    for text, each in moving:
        if text.startswith("(d"):
            products += each  # includes the product with the derivative
        else:
            products += size * (each + (text not in ("1", "-1")))
    return OperationCounts(value, products + size * (len(moving) - 1), products)


def plain(array: Any) -> Any:
    return float(array) if array.ndim == 0 else array


def rounded(array: Any, digits: int | None) -> Any:
    return array if digits is None else np.asarray(np.round(array, digits))
