"""Points without a derivative: they raise an error, or a named subgradient is used."""

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
_SAME = 1000  # two derivatives count as equal if they differ by at most this many roundings

_wanted: contextvars.ContextVar[str | None] = contextvars.ContextVar("wanted", default=None)
_chosen: contextvars.ContextVar[Choice | None] = contextvars.ContextVar("chosen", default=None)


@contextmanager
def subgradient(name: str) -> Iterator[None]:
    r"""Inside this context, a derivative at a kink is the named subgradient instead of an error.

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

    The three names mean the slope below the kink, the mean of both slopes, and the slope above it.
    For a function of one number these are the limits of ``backward_difference``,
    ``central_difference`` and ``forward_difference``. The context applies to all functions here
    that differentiate Chainer functions: ``vjp``, ``jvp``, ``jacobian``, ``hessian``,
    ``hessian_vector_product``, ``EvaluationTrace.forward`` and ``EvaluationTrace.reverse``.

    Outside the context a kink raises ValueError if it matters. It does not matter if every choice
    of subgradients gives the same derivative, as for ``max(relu(x), 0)`` at x = -1.

    The chain rule uses the named subgradient. So the result uses an element of the generalized
    gradient of each operation. It is an element of the generalized gradient of the whole function
    only if the chain rule is exact.

    These operations are checked for kinks: absolute values and errors, maximum and minimum (of two
    and over axes), clip, relu, leaky, clipped and parametric relu, ELU, and hard sigmoid. Pooling
    takes the first of equal numbers.

    Args:
        name: ``'left'``, ``'middle'`` or ``'right'``.

    Raises:
        ValueError: If the name is unknown.

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
    """Marks the nodes that are evaluated at a kink. Then their backward can use a subgradient.

    Chainer frees the arrays that no backward needs. So the finished graph no longer shows kinks.
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
    """Make the backward of this node use the chosen subgradient at its kinks."""
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
        if len(slopes) != len(indexes):  # Chainer allows gradients for all inputs of a node
            slopes = [slopes[i] for i in indexes]
        answers = []
        for i, slope in zip(indexes, slopes, strict=True):
            kink = _AtKink(sides, i, shapes[i]).apply((gy,))[0]
            answers.append(kink if slope is None else slope + kink)
        return tuple(answers)

    node.backward = backward
    node.chainrob_sides = sides


class _AtKink(chainer.FunctionNode):
    """The part of a gradient that passes through kinks. It is linear in gy for the chosen side.

    Its own backward makes a new choice. So, if a derivative of higher order depends on an earlier
    choice, two random choices give different results, and the kink is found.
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
    """As ``chainer.grad``, but a kink raises an error, or the requested subgradient is used.

    Raises:
        ValueError: If the result depends on the choice of a subgradient at a kink.
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
    """A table of derivatives by these nodes, if it does not depend on the choice at a kink.

    Raises:
        ValueError: If the table depends on the choice, and no subgradient is requested.
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
    """Inside this context, marked nodes use this choice at their kinks."""
    token = _chosen.set(choice)
    try:
        yield
    finally:
        _chosen.reset(token)


def kinks_of(y: Variable) -> list[str]:
    """The kinds of kinks in the computation of y."""
    return [
        node.chainrob_sides.text for node in function_nodes(y) if hasattr(node, "chainrob_sides")
    ]


def same(one: Any, other: Any) -> bool:
    """Whether two gradients are equal up to rounding. NaN counts as equal to NaN."""
    xp = chainer.backend.get_array_module(one)
    finite = xp.isfinite(one) & xp.isfinite(other)
    size = xp.where(finite, xp.maximum(abs(one), abs(other)), 0)
    limit = _SAME * float(np.finfo(one.dtype).eps) * float(size.max(initial=0))
    return bool((xp.where(finite, abs(one - other), 0) <= limit).all())


def refuse(met: Sequence[str]) -> None:
    """Raise the error that names the kinks."""
    raise ValueError(
        f"function is not differentiable there: {', '.join(dict.fromkeys(met))}; to use a "
        "subgradient, see chainrob.differentiation.subgradient('left', 'middle' or 'right')"
    )


def require_finite(y: Variable, xs: Sequence[Variable], products: Sequence[Any]) -> None:
    """Refuse derivatives that are not finite although inputs and output are finite.

    Raises:
        ValueError: If there are such derivatives.
    """
    arrays = [getattr(one, "array", one) for one in products]
    if all(bool(y.xp.isfinite(one).all()) for one in arrays):
        return
    if all(bool(y.xp.isfinite(one.array).all()) for one in (y, *xs)):
        raise ValueError(
            "function is not differentiable there (or its derivative overflows): inputs and output "
            "are finite, but the derivative is not"
        )
