"""Points where a function has no derivative: refused, or answered by a subgradient with a name."""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

import chainer
import chainer.functions as F
from chainer import utils
from chainrob.differentiation._graph import function_nodes
from chainrob.differentiation._kink_table import FINDERS, Choice, Sides

__all__ = [
    "KinkHook",
    "every_choice",
    "gradients_at_kinks",
    "require_finite",
    "subgradient",
]

Variable = Any
_NAMES = ("left", "middle", "right")
_SAME = 1000  # two answers are one if they differ by no more than so many roundings

_wanted: contextvars.ContextVar[str | None] = contextvars.ContextVar("wanted", default=None)
_chosen: contextvars.ContextVar[Choice | None] = contextvars.ContextVar("chosen", default=None)


@contextmanager
def subgradient(name: str) -> Iterator[None]:
    r"""Inside, derivatives at kinks are the named subgradients instead of errors.

    ==============================  ==========  ============  ===========
    at the kink of                  ``'left'``  ``'middle'``  ``'right'``
    ==============================  ==========  ============  ===========
    \|x\| at 0                      -1          0             1
    relu(x) at 0                    0           1/2           1
    clip(x, a, b) at a; at b        0; 1        1/2; 1/2      1; 0
    max(x, y) in x where x = y      0           1/2           1
    min(x, y) in x where x = y      1           1/2           0
    max of many equals              the last    equal parts   the first
    ==============================  ==========  ============  ===========

    That is the slope below the kink, the mean of both slopes, and the slope above it: for one
    number the limits of ``backward_difference``, ``central_difference`` and
    ``forward_difference``. It holds for everything that differentiates Chainer functions here:
    ``vjp``, ``jvp``, ``jacobian``, ``hessian``, ``hessian_vector_product`` and
    ``EvaluationTrace.forward`` and ``reverse``.

    Outside, a kink is refused with a ValueError where it matters. It does not matter where every
    choice of subgradients gives the same derivative, as for ``max(relu(x), 0)`` at x = -1.

    A named subgradient is put through the chain rule. The result is an element of the generalized
    gradient of each operation, and of the whole function only where the chain rule is exact.

    Looked for in: absolute values and errors, maximum and minimum (of two and over axes), clip,
    relu, leaky, clipped and parametric relu, ELU, hard sigmoid. Pooling takes the first of equals.

    Args:
        name: ``'left'``, ``'middle'`` or ``'right'``.

    Raises:
        ValueError: If the name is another one.

    Example:
        >>> import chainer.functions as F, numpy as np
        >>> from chainrob.differentiation import subgradient, vjp
        >>> with subgradient("middle"):
        ...     _, slope = vjp(F.relu, np.array(0.0))
        >>> float(slope)
        0.5

    References:
        J. Bolte and E. Pauwels, Conservative set valued fields, automatic differentiation,
        stochastic gradient methods and deep learning, Mathematical Programming 188 (2021).
    """
    if name not in _NAMES:
        raise ValueError(f"name must be one of {_NAMES}, found {name!r}")
    token = _wanted.set(name)
    try:
        yield
    finally:
        _wanted.reset(token)


class KinkHook(chainer.FunctionHook):
    """Marks the nodes that are computed at a kink, so that their backward can be told what to do.

    Chainer frees the arrays that no backward needs, so a look at the finished graph comes too late.
    """

    def __init__(self) -> None:
        self.name = f"chainrob.kinks.{id(self)}"  # hooks may be nested

    def forward_postprocess(self, function: Any, in_data: Any) -> None:
        finder = FINDERS.get(type(function).__name__)
        if finder is None or hasattr(function, "chainrob_sides"):
            return
        sides = finder(function, in_data)
        if sides is not None:
            _mark(function, sides, [array.shape for array in in_data])


def _mark(node: Any, sides: Sides, shapes: Sequence[tuple[int, ...]]) -> None:
    """Let this node alone answer at its kinks as chosen."""
    own = node.backward

    def backward(indexes: tuple[int, ...], grad_outputs: tuple[Any, ...]) -> tuple[Any, ...]:
        choice = _chosen.get()
        if choice is None:
            return tuple(own(indexes, grad_outputs))
        (gy,) = grad_outputs
        rest = gy
        if not sides.keeps:
            rest = F.where(sides.mask.reshape(gy.shape), gy.xp.zeros_like(gy.array), gy)
        slopes = own(indexes, (rest,))
        if len(slopes) != len(indexes):  # Chainer lets a node answer for all its inputs
            slopes = [slopes[i] for i in indexes]
        answers = []
        for i, slope in zip(indexes, slopes, strict=True):
            kink = _AtKink(sides, i, shapes[i]).apply((gy,))[0]
            answers.append(kink if slope is None else slope + kink)
        return tuple(answers)

    node.backward = backward
    node.chainrob_sides = sides


class _AtKink(chainer.FunctionNode):
    """The part of a gradient that comes through kinks: linear in gy, for the side that is chosen.

    Its own backward chooses anew. So where a derivative of higher order depends on the choice that
    was made below, two draws disagree and the kink is found.
    """

    def __init__(self, sides: Sides, index: int, shape: tuple[int, ...]) -> None:
        self.chainrob_sides = sides
        self._index = index
        self._shape = shape
        self._made = _chosen.get()

    def _weights(self, dtype: Any) -> Any:
        choice = _chosen.get()
        choice = self._made if choice is None else choice
        assert choice is not None
        return self.chainrob_sides.weights(self._index, choice).astype(dtype)

    def forward(self, inputs: tuple[Any, ...]) -> tuple[Any]:
        (gy,) = inputs
        product = self._weights(gy.dtype) * gy.reshape(self.chainrob_sides.expanded)
        return (utils.force_array(utils.sum_to(product, self._shape)),)

    def backward(self, indexes: tuple[int, ...], grad_outputs: tuple[Any, ...]) -> tuple[Any]:
        (ggx,) = grad_outputs
        weights = self._weights(ggx.dtype)
        product = F.broadcast_to(ggx, weights.shape) * weights
        product = F.sum_to(product, self.chainrob_sides.expanded)
        return (F.reshape(product, self.inputs[0].shape),)


def gradients_at_kinks(
    outputs: Sequence[Variable], inputs: Sequence[Variable], weights: Sequence[Variable], keep: bool
) -> list[Variable | None]:
    """``chainer.grad`` that refuses a kink, or takes the subgradient asked for.

    Raises:
        ValueError: a kink is met whose derivative depends on the choice.
    """

    def run(choice: Choice | None) -> list[Variable | None]:
        with chosen(choice):
            found: list[Variable | None] = chainer.grad(
                outputs, inputs, weights, enable_double_backprop=keep
            )
        return found

    met = [text for y in outputs for text in kinks_of(y)]
    if not met:
        return run(None)
    name = _wanted.get()
    if name is not None:
        return run(name)
    first, second = (run(seed) for seed in (0, 1))
    for one, other in zip(first, second, strict=True):
        if one is not None and other is not None and not same(one.array, other.array):
            refuse(met)
    return first


def every_choice(nodes: Sequence[Any], run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """A table of derivatives by these nodes, refused where it depends on the choice at a kink.

    Raises:
        ValueError: it does, and no subgradient is asked for.
    """
    met = [node.chainrob_sides.text for node in nodes if hasattr(node, "chainrob_sides")]
    name = _wanted.get()
    with chosen(name if met else None):
        if not met or name is not None:
            return run()
    tables = []
    for seed in (0, 1):
        with chosen(seed):
            tables.append(run())
    if not all(same(tables[0][key], tables[1][key]) for key in tables[0]):
        refuse(met)
    return tables[0]


@contextmanager
def chosen(choice: Choice | None) -> Iterator[None]:
    """Inside, marked nodes answer at their kinks by this choice."""
    token = _chosen.set(choice)
    try:
        yield
    finally:
        _chosen.reset(token)


def kinks_of(y: Variable) -> list[str]:
    """What kinks were met on the way to y."""
    return [
        node.chainrob_sides.text for node in function_nodes(y) if hasattr(node, "chainrob_sides")
    ]


def same(one: Any, other: Any) -> bool:
    """Whether two gradients are equal but for rounding; NaN is equal to NaN."""
    xp = chainer.backend.get_array_module(one)
    finite = xp.isfinite(one) & xp.isfinite(other)
    size = xp.where(finite, xp.maximum(abs(one), abs(other)), 0)
    limit = _SAME * float(np.finfo(one.dtype).eps) * float(size.max(initial=0))
    return bool((xp.where(finite, abs(one - other), 0) <= limit).all())


def refuse(met: Sequence[str]) -> None:
    """Raise the error that names the kinks."""
    raise ValueError(
        f"function is not differentiable there: {', '.join(dict.fromkeys(met))}; "
        "chainrob.differentiation.subgradient('left', 'middle' or 'right') takes a subgradient"
    )


def require_finite(y: Variable, xs: Sequence[Variable], products: Sequence[Any]) -> None:
    """Refuse derivatives that are not finite where inputs and output are.

    Raises:
        ValueError: there are such.
    """
    arrays = [getattr(one, "array", one) for one in products]
    if all(bool(y.xp.isfinite(one).all()) for one in arrays):
        return
    if all(bool(y.xp.isfinite(one.array).all()) for one in (y, *xs)):
        raise ValueError(
            "function is not differentiable there (or its derivative overflows): inputs and output "
            "are finite, the derivative is not"
        )
