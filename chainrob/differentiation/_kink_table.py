"""The kinks of operations: their places, and the slopes on both sides.

Every entry takes a function node and its input arrays. It returns the :class:`Sides` of the kinks,
or None. The slope of the output in an input is ``left`` just below the kink and ``right`` just
above it. For two inputs "above" means that the first one grows.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import chainer

__all__ = ["FINDERS", "Choice", "Sides"]

Array = Any

Choice = str | int
"""Name of a side, or the seed of a random mixture of the two."""

_serial = itertools.count()


@dataclasses.dataclass(frozen=True)
class Sides:
    """The kinks at which one node was evaluated.

    Attributes:
        text: The kind of kink, for messages.
        mask: The outputs that lie at a kink, in the shape ``expanded`` or one that broadcasts to
            it.
        expanded: Shape to which the node's output gradient is reshaped before it is multiplied.
        left: For each input an array of the slopes below; 0 if there is no kink.
        right: The same above.
        ties: For a maximum over many numbers, the places of the largest ones and the axes. It
            replaces left and right.
        keeps: Whether the node's own backward is used at its kinks too, because it gives 0 there.
    """

    text: str
    mask: Array
    expanded: tuple[int, ...]
    left: tuple[Array, ...] = ()
    right: tuple[Array, ...] = ()
    ties: tuple[Array, tuple[int, ...]] | None = None
    keeps: bool = False
    serial: int = dataclasses.field(default_factory=lambda: next(_serial))

    def weights(self, index: int, choice: Choice) -> Array:
        """Slopes at the kinks in one input: those of the named side, or a random mixture."""
        xp = chainer.backend.get_array_module(self.mask)
        if self.ties is not None:
            where, axes = self.ties
            return _shares(xp, where, axes, choice, self.serial)
        if isinstance(choice, str):
            mix: Any = {"left": 0.0, "middle": 0.5, "right": 1.0}[choice]
        else:
            # One mixture per node and seed, for both inputs and both modes of differentiation.
            mix = xp.asarray(np.random.default_rng([choice, self.serial]).random(self.mask.shape))
        slope = self.left[index] + mix * (self.right[index] - self.left[index])
        return xp.where(self.mask, slope, 0)


def _shares(xp: Any, where: Array, axes: tuple[int, ...], choice: Choice, serial: int) -> Array:
    """Weights of the equal largest numbers. They add up to 1 over the axes."""
    if choice == "middle":
        shares = where.astype(np.float64)
    elif isinstance(choice, str):
        # The first of equal numbers for 'right', the last for 'left', as in a maximum of two.
        order = xp.arange(1, where.size + 1).reshape(where.shape)
        order = where * (where.size + 1 - order if choice == "right" else order)
        shares = (where & (order == order.max(axis=axes, keepdims=True))).astype(np.float64)
    else:
        shares = where * xp.asarray(np.random.default_rng([choice, serial]).random(where.shape))
    return shares / xp.where(
        where.any(axis=axes, keepdims=True), shares.sum(axis=axes, keepdims=True), 1
    )


def _at(text: str, mask: Array, *slopes: tuple[Any, Any], keeps: bool = False) -> Sides | None:
    """The kinks of an elementwise operation, from a pair (left, right) for each input."""
    if not bool(mask.any()):
        return None
    xp = chainer.backend.get_array_module(mask)
    left, right = ([xp.asarray(pair[k]) for pair in slopes] for k in (0, 1))
    return Sides(text, mask, mask.shape, tuple(left), tuple(right), keeps=keeps)


def _ends(text: str, x: Array, low: Any, high: Any, slope: float = 1.0) -> Sides | None:
    """The kinks of a function that is flat, then rises, and then is flat again."""
    at_low = x == low if low is not None else x != x
    at_high = x == high if high is not None else x != x
    xp = chainer.backend.get_array_module(x)
    return _at(
        text,
        at_low | at_high,
        (xp.where(at_high, slope, 0.0), xp.where(at_low, slope, 0.0)),
    )


def _elu(node: Any, data: Sequence[Array]) -> Sides | None:
    return None if node.alpha == 1 else _at("an ELU of 0", data[0] == 0, (node.alpha, 1.0))


def _prelu(node: Any, data: Sequence[Array]) -> Sides | None:
    x, slope = data
    slope = slope.reshape(slope.shape + (1,) * (x.ndim - 1 - slope.ndim)) if slope.ndim else slope
    return _at("a PReLU of 0", x == 0, (slope, 1.0), (0.0, 0.0))


def _choice(text: str, low: float, high: float) -> Callable[..., Sides | None]:
    def find(node: Any, data: Sequence[Array]) -> Sides | None:
        return _at(text, data[0] == data[1], (low, high), (1 - low, 1 - high))

    return find


def _largest(text: str) -> Callable[..., Sides | None]:
    """A maximum or minimum over axes. Each of the equal numbers is a possible choice."""

    def find(node: Any, data: Sequence[Array]) -> Sides | None:
        (x,) = data
        axes = tuple(range(x.ndim)) if node.axis is None else tuple(a % x.ndim for a in node.axis)
        best = x.max(axis=axes, keepdims=True) if text == "maximum" else x.min(axes, keepdims=True)
        where = x == best
        mask = where.sum(axis=axes, keepdims=True) > 1
        if not bool(mask.any()):
            return None
        return Sides(f"a {text} over equal values", mask, mask.shape, ties=(where & mask, axes))

    return find


def _absolute_error(node: Any, data: Sequence[Array]) -> Sides | None:
    return _at("an absolute error of 0", data[0] == data[1], (-1.0, 1.0), (1.0, -1.0))


def _mean_absolute_error(node: Any, data: Sequence[Array]) -> Sides | None:
    """Chainer's loss or ours: one number, or one per sample."""
    y, t = data
    mask = y == t
    each = getattr(node, "reduce", "mean") == "no"
    scale = 1.0 if getattr(node, "reduction", "mean") == "sum" else 1 / max(y[0].size, 1)
    scale *= 1.0 if each else 1 / len(y)
    sides = _at("an absolute error of 0", mask, (-scale, scale), (scale, -scale), keeps=True)
    if sides is None:
        return None
    return dataclasses.replace(sides, expanded=(len(y) if each else 1,) + (1,) * (y.ndim - 1))


FINDERS: dict[str, Callable[[Any, Sequence[Array]], Sides | None]] = {
    "Absolute": lambda node, data: _at("an absolute value of 0", data[0] == 0, (-1.0, 1.0)),
    "AbsoluteError": _absolute_error,
    "MeanAbsoluteError": _mean_absolute_error,
    "ReLU": lambda node, data: _at("a ReLU of 0", data[0] == 0, (0.0, 1.0)),
    "LeakyReLU": lambda node, data: _at("a leaky ReLU of 0", data[0] == 0, (node.slope, 1.0)),
    "ClippedReLU": lambda node, data: _ends("a clipped ReLU at an end", data[0], 0, node.cap),
    "Clip": lambda node, data: _ends("a clip at an end", data[0], node.x_min, node.x_max),
    "HardSigmoid": lambda node, data: _ends("a hard sigmoid at an end", data[0], -2.5, 2.5, 0.2),
    "ELU": _elu,
    "PReLUFunction": _prelu,
    "Maximum": _choice("a maximum of equal values", 0.0, 1.0),
    "Minimum": _choice("a minimum of equal values", 1.0, 0.0),
    "Max": _largest("maximum"),
    "Min": _largest("minimum"),
}
