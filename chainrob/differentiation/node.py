"""One node of a deep function: f, its parameters, and the adjoint of its derivative."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import chainer
import chainer.functions as F

__all__ = ["Node"]

Array = Any
Variable = Any


@dataclasses.dataclass(frozen=True)
class Node:
    r"""A vector function z, theta -> f(z, theta), with or without its own adjoint function.

    .. math:: G(\varepsilon, z, \theta) = \big(\varepsilon^\top \partial f / \partial z, \;
        \varepsilon^\top \partial f / \partial \theta\big)

    G maps an error vector back, without forming a Jacobian. Chainer functions and links have one.
    For a function of NumPy arrays, give it as ``adjoint``.

    Attributes:
        name: Unique; other nodes refer to it.
        function: ``function(*states, *parameters)``. Without ``adjoint``, a Chainer function of
            Variables, or a Link, which is called with the states only. With ``adjoint``, a
            function of arrays. States have any shape (N, ...). All samples share the parameters.
            It returns a state, or a tuple if there are several ``outputs``.
        inputs: Names of other nodes' outputs, or of inputs of the whole function.
        parameters: Array, tuple of arrays, or None. A link has its own.
        adjoint: G: ``adjoint(epsilon, z, theta)`` returns the pair of the error vector of z and the
            gradient in theta, summed over the samples. With several inputs, z and its error vector
            are tuples; with several outputs, epsilon; with several parameters, theta and its
            gradient. Without parameters theta and its gradient are None.
        tangent: ``tangent(dz, dtheta, z, theta)``, the derivative along a direction, of arrays like
            those of ``adjoint``. Only the forward propagation of a node with ``adjoint`` needs it.
        outputs: Names of its states. Default: its own name.

    Raises:
        ValueError: If a link gets parameters or an adjoint, or there is a tangent without adjoint.

    Example:
        >>> import numpy as np
        >>> layer = Node(
        ...     "layer", lambda z, w: z @ w.T, ("x",), np.ones((3, 2)),
        ...     adjoint=lambda epsilon, z, w: (epsilon @ w, epsilon.T @ z),
        ... )
    """

    name: str
    function: Callable[..., Any]
    inputs: tuple[str, ...]
    parameters: Any = None
    adjoint: Callable[..., Any] | None = None
    tangent: Callable[..., Any] | None = None
    outputs: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not callable(self.function):
            raise TypeError(
                f"node {self.name!r}: function must be callable, found "
                f"{type(self.function).__name__}"
            )
        given: Any = self.inputs  # a single name may be given without a tuple
        inputs = (given,) if isinstance(given, str) else tuple(given)
        object.__setattr__(self, "inputs", inputs)
        object.__setattr__(self, "outputs", tuple(self.outputs) or (self.name,))
        if self.is_link and not (self.parameters is None and self.adjoint is None):
            raise ValueError(f"node {self.name!r}: a link has its own parameters and adjoint")
        if self.tangent is not None and self.adjoint is None:
            raise ValueError(f"node {self.name!r}: a tangent goes with an adjoint, found none")

    @property
    def is_link(self) -> bool:
        """Whether the function is a Chainer link."""
        return isinstance(self.function, chainer.Link)

    def run(self, states: Sequence[Variable]) -> tuple[tuple[Variable, ...], list[Variable]]:
        """Apply f to states. Returns its outputs and the parameters' Variables, in one graph."""
        if self.is_link:
            result = self.function(*states)
            parameters = [one for _, one in self._named()]
        else:
            parameters = [chainer.Variable(array) for array in self._arrays()]
            if self.adjoint is None:
                result = self.function(*states, *parameters)
            else:
                result = _Given(self, len(states)).apply((*states, *parameters))
        results = result if isinstance(result, (tuple, list)) else (result,)
        if len(results) != len(self.outputs) or not all(
            isinstance(one, chainer.Variable) for one in results
        ):
            found = [type(one).__name__ for one in results]
            raise ValueError(
                f"node {self.name!r} must return {len(self.outputs)} chainer.Variable, "
                f"found {found}"
            )
        return tuple(F.identity(one) for one in results), parameters

    def _named(self) -> list[tuple[str, Any]]:
        link: Any = self.function
        return sorted(link.namedparams())

    def _arrays(self) -> list[Array]:
        if self.parameters is None:
            return []
        several = isinstance(self.parameters, (tuple, list))
        return [
            np.asarray(p) if np.isscalar(p) else p
            for p in (self.parameters if several else (self.parameters,))
        ]

    def structured(self, arrays: Sequence[Array]) -> Any:
        """One array per parameter, in the structure of the parameters."""
        if self.is_link:
            names = [name for name, _ in self._named()]
            return dict(zip(names, arrays, strict=True))
        if self.parameters is None:
            return None
        return tuple(arrays) if isinstance(self.parameters, (tuple, list)) else arrays[0]


class _Given(chainer.FunctionNode):
    """f of arrays as a Chainer function whose backward is G."""

    def __init__(self, node: Node, n_states: int) -> None:
        self.node = node
        self.n_states = n_states

    def forward(self, inputs: tuple[Array, ...]) -> tuple[Array, ...]:
        self.retain_inputs(tuple(range(len(inputs))))
        result = self.node.function(*inputs)
        results = result if isinstance(result, tuple) else (result,)
        return tuple(getattr(one, "array", one) for one in results)

    def backward(
        self, indexes: tuple[int, ...], grad_outputs: tuple[Variable | None, ...]
    ) -> tuple[Variable, ...]:
        epsilons = [
            chainer.Variable(_zeros(y)) if gy is None else gy
            for gy, y in zip(grad_outputs, (one() for one in self.outputs), strict=True)
        ]
        pulled = _GivenAdjoint(self).apply((*self.get_retained_inputs(), *epsilons))
        return tuple(pulled[i] for i in indexes)


class _GivenAdjoint(chainer.FunctionNode):
    """G as a Chainer function: linear in the error vectors, so its own adjoint is the tangent."""

    def __init__(self, given: _Given) -> None:
        self.node, self.n_states = given.node, given.n_states

    def _split(self, arrays: Sequence[Array]) -> tuple[Any, Any, Any]:
        """z, theta and epsilon in the form that the node's functions take."""
        n_outputs = len(self.node.outputs)
        z, epsilon = arrays[: self.n_states], arrays[len(arrays) - n_outputs :]
        theta = arrays[self.n_states : len(arrays) - n_outputs]
        return _one_or_all(z), self.node.structured(theta), _one_or_all(epsilon)

    def forward(self, inputs: tuple[Array, ...]) -> tuple[Array, ...]:
        self.retain_inputs(tuple(range(len(inputs))))
        z, theta, epsilon = self._split(inputs)
        assert self.node.adjoint is not None
        answer = self.node.adjoint(epsilon, z, theta)
        if not isinstance(answer, tuple) or len(answer) != 2:
            raise ValueError(
                f"node {self.node.name!r}: adjoint must return a pair, the error vector of z and "
                f"the gradient in theta, found {type(answer).__name__}"
            )
        found = [*_all(answer[0]), *([] if theta is None else _all(answer[1]))]
        wanted = inputs[: len(inputs) - len(self.node.outputs)]
        shapes = [np.shape(one) for one in found], [one.shape for one in wanted]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"node {self.node.name!r}: adjoint must return arrays of the shapes {shapes[1]} of "
                f"z and theta, found {shapes[0]}"
            )
        return tuple(
            chainer.backend.get_array_module(like).asarray(one, dtype=like.dtype)
            for one, like in zip(found, wanted, strict=True)
        )

    def backward(
        self, indexes: tuple[int, ...], grad_outputs: tuple[Variable | None, ...]
    ) -> tuple[Variable | None, ...]:
        inputs = [one.array for one in self.get_retained_inputs()]
        n_outputs = len(self.node.outputs)
        first = len(inputs) - n_outputs  # of the error vectors
        if min(indexes) < first or self.node.tangent is None:
            raise NotImplementedError(
                f"node {self.node.name!r} has an adjoint function of arrays: forward propagation "
                "needs its tangent=, and there are no second derivatives"
            )
        moves = [
            _zeros(like) if gy is None else gy.array
            for gy, like in zip(grad_outputs, inputs[:first], strict=True)
        ]
        z, theta, _ = self._split(inputs)
        dz, dtheta, _ = self._split([*moves, *inputs[first:]])
        pushed = _all(self.node.tangent(dz, dtheta, z, theta))
        return tuple(chainer.Variable(pushed[i - first]) for i in indexes)


def _one_or_all(arrays: Sequence[Array]) -> Any:
    return arrays[0] if len(arrays) == 1 else tuple(arrays)


def _all(answer: Any) -> tuple[Array, ...]:
    return answer if isinstance(answer, tuple) else (answer,)


def _zeros(like: Any) -> Array:
    xp = chainer.backend.get_array_module(getattr(like, "data", like))
    return xp.zeros(like.shape, like.dtype)
