"""A Chainer function as one node, its inner graph severed from the graph outside."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import chainer
from chainrob.aggregation import exact_backward

__all__ = ["as_array", "closed", "gradients"]

Variable = Any


def as_array(value: Any) -> Any:
    """An array as it is, of any device; a NumPy number keeps its dtype, a list becomes float64."""
    if isinstance(value, np.generic):
        return np.asarray(value)
    return value if hasattr(value, "dtype") else np.asarray(value, dtype=np.float64)


def gradients(
    outputs: Sequence[Variable],
    inputs: Sequence[Variable],
    weights: Sequence[Variable] | None = None,
) -> tuple[Variable, ...]:
    """Differentiable gradients of weighted outputs, zeros where there is no dependence."""
    if weights is None:
        weights = [chainer.Variable(y.xp.ones_like(y.array)) for y in outputs]
    pairs = [(y, w) for y, w in zip(outputs, weights, strict=True) if y.creator_node is not None]
    found: Sequence[Variable | None] = [None] * len(inputs)
    if pairs:
        ys, ws = zip(*pairs, strict=True)
        with exact_backward():  # of the function itself, robust layers in it or not
            found = chainer.grad(ys, inputs, ws, enable_double_backprop=True)
    return tuple(
        chainer.Variable(x.xp.zeros_like(x.array)) if g is None else g
        for x, g in zip(inputs, found, strict=True)
    )


def closed(function: Callable[..., Sequence[Variable]], *inputs: Variable) -> tuple[Variable, ...]:
    """Apply ``function`` as a single node.

    ``function`` maps Variables to a sequence of Variables and may call ``chainer.grad`` inside.
    It sees fresh leaves, so partial derivatives taken inside it stay partial even where one input
    depends on another outside (as x* depends on theta). The backward is the pullback of
    ``function`` as a closed node again: right at every order.
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
