"""A Chainer function as one node. Its inner graph is separate from the graph outside."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import chainer
from chainrob.aggregation import exact_backward

__all__ = ["as_array", "closed", "gradients"]

Variable = Any


def as_array(value: Any) -> Any:
    """The value as an array. NumPy numbers and arrays keep their dtype; lists become float64."""
    if isinstance(value, np.generic):
        return np.asarray(value)
    return value if hasattr(value, "dtype") else np.asarray(value, dtype=np.float64)


def gradients(
    outputs: Sequence[Variable],
    inputs: Sequence[Variable],
    weights: Sequence[Variable] | None = None,
) -> tuple[Variable, ...]:
    """Differentiable gradients of weighted outputs; zeros if an input has no influence."""
    if weights is None:
        weights = [chainer.Variable(y.xp.ones_like(y.array)) for y in outputs]
    pairs = [(y, w) for y, w in zip(outputs, weights, strict=True) if y.creator_node is not None]
    found: Sequence[Variable | None] = [None] * len(inputs)
    if pairs:
        ys, ws = zip(*pairs, strict=True)
        with exact_backward():  # the derivative of the function itself, also of robust layers
            found = chainer.grad(ys, inputs, ws, enable_double_backprop=True)
    return tuple(
        chainer.Variable(x.xp.zeros_like(x.array)) if g is None else g
        for x, g in zip(inputs, found, strict=True)
    )


def closed(function: Callable[..., Sequence[Variable]], *inputs: Variable) -> tuple[Variable, ...]:
    """Apply ``function`` as a single node.

    ``function`` maps Variables to a sequence of Variables and may call ``chainer.grad`` inside. It
    gets new leaf Variables. So partial derivatives inside it stay partial, even if an input depends
    on another one outside (as x* depends on theta). The backward is the pullback of ``function``,
    again as a closed node. So derivatives of every order are right.
    """
    outputs: tuple[Variable, ...] = _Closed(function).apply(inputs)
    return outputs


class _Closed(chainer.FunctionNode):
    def __init__(self, function: Callable[..., Sequence[Variable]]) -> None:
        self._function = function

    def forward(self, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        self.retain_inputs(tuple(range(len(inputs))))
        with chainer.force_backprop_mode():
            outputs = self._function(*[chainer.Variable(x) for x in inputs])
        return tuple(y.array for y in outputs)

    def backward(
        self, indexes: tuple[int, ...], gys: tuple[Variable | None, ...]
    ) -> tuple[Variable, ...]:
        given = [k for k, gy in enumerate(gys) if gy is not None]
        count = len(self.inputs)

        def pullback(*arguments: Variable) -> tuple[Variable, ...]:
            xs, weights = arguments[:count], arguments[count:]
            ys = self._function(*xs)
            return gradients([ys[k] for k in given], [xs[i] for i in indexes], weights)

        return closed(pullback, *self.get_retained_inputs(), *[gys[k] for k in given])
