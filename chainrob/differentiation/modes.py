"""Forward and reverse mode for Chainer functions: products, Jacobians, Hessians.

All are derivatives of the function itself: here robust layers give exact sums, not estimates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import chainer
import chainer.functions as F
from chainrob.aggregation import exact_backward
from chainrob.differentiation._closed import as_array
from chainrob.differentiation._graph import require_dependence
from chainrob.differentiation._kinks import KinkHook, gradients_at_kinks, require_finite

__all__ = ["hessian", "hessian_vector_product", "jacobian", "jvp", "vjp"]

Variable = Any
Function = Callable[..., Any]


def vjp(
    function: Function, inputs: Any, cotangent: Any = None, *, enable_double_backprop: bool = False
) -> tuple[Any, Any]:
    r"""Vector-Jacobian product: one reverse pass.

    .. math:: (f(x), \; v^\top J(x))

    Args:
        function: Takes one Variable for each input and returns a Variable.
        inputs: A Variable or array, or a tuple of them.
        cotangent: v, of the shape of the output. Default: 1 for an output of one number.
        enable_double_backprop: Return Variables that can be differentiated further.

    Returns:
        ``(output, product)``; the product has the structure of ``inputs``. Inputs that the
        output does not depend on get zeros.

    Raises:
        ValueError: If the shapes of cotangent and output differ; if the function depends on none of
            its inputs, or reads one of the Variables itself instead of its argument (see
            :func:`functional` for models); or if it has no derivative at the point: an absolute
            value of 0, a maximum of equal numbers, a derivative that is not finite.

    Example:
        >>> import numpy as np
        >>> output, product = vjp(lambda x: x**2, np.array([1.0, 2.0]), np.array([1.0, 10.0]))
        >>> print(output, product)
        [1. 4.] [ 2. 40.]
    """
    xs, single = _as_variables(inputs)
    with chainer.force_backprop_mode(), exact_backward():
        y = _call(function, xs)
        v = _match(cotangent, y, "cotangent", "output")
        products = _grad([y], xs, [v], enable_double_backprop)
    return _finish(y, products, single, enable_double_backprop)


def jvp(
    function: Function, inputs: Any, tangents: Any, *, enable_double_backprop: bool = False
) -> tuple[Any, Any]:
    r"""Jacobian-vector product: forward mode.

    .. math:: (f(x), \; J(x) v), \qquad J v = \nabla_w (w^\top J) \cdot v

    The reverse pass is linear in its cotangent w, so its derivative along v is the forward mode. It
    takes two reverse passes for any number of inputs.

    Args:
        function: As for :func:`vjp`; the backward of its nodes must be differentiable.
        inputs: A Variable or array, or a tuple of them.
        tangents: v, one for each input, of its shape.
        enable_double_backprop: Return Variables that can be differentiated further.

    Returns:
        ``(output, product)``, both of the shape of the output.

    Raises:
        ValueError: If the tangents differ from the inputs in number or shape.

    Example:
        >>> import numpy as np
        >>> print(jvp(lambda x: x**2, np.array([1.0, 2.0]), np.array([1.0, 10.0]))[1])
        [ 2. 40.]
    """
    xs, single = _as_variables(inputs)
    given = (tangents,) if single else tuple(tangents)
    if len(given) != len(xs):
        raise ValueError(f"tangents must be as many as inputs ({len(xs)}), found {len(given)}")
    vs = [_match(v, x, "tangent", "input") for v, x in zip(given, xs, strict=True)]
    with chainer.force_backprop_mode(), exact_backward():
        y = _call(function, xs)
        w, pulled = _pullback(y, xs)
        (product,) = _grad(pulled, [w], vs, enable_double_backprop)
    return _finish(y, (product,), True, enable_double_backprop)


def jacobian(function: Function, inputs: Any, *, mode: str = "auto") -> Any:
    r"""Jacobian of a Chainer function.

    .. math:: J_{ij} = \partial f_i / \partial x_j

    Args:
        function: As for :func:`vjp`.
        inputs: A Variable or array, or a tuple of them.
        mode: ``'reverse'`` takes one pass per output number, ``'forward'`` one per input number.
            ``'auto'`` takes the mode with fewer passes, and reverse mode at a tie, because forward
            mode needs a graph twice as long.

    Returns:
        Array of shape output.shape + input.shape, or a tuple with one for each input.

    Raises:
        ValueError: If the mode is unknown.

    Example:
        >>> import numpy as np
        >>> print(jacobian(lambda x: x**2, np.array([1.0, 2.0])))
        [[2. 0.]
         [0. 4.]]
    """
    if mode not in ("auto", "forward", "reverse"):
        raise ValueError(f"mode must be 'auto', 'forward' or 'reverse', found {mode!r}")
    xs, single = _as_variables(inputs)
    with chainer.force_backprop_mode(), exact_backward():
        y = _call(function, xs)
        if mode == "auto":
            mode = "forward" if sum(x.size for x in xs) < y.size else "reverse"
        if mode == "reverse":
            rows = [_grad([y], xs, [basis], False) for basis in _basis(y)]
            blocks = [
                y.xp.stack([row[k].array for row in rows]).reshape(y.shape + x.shape)
                for k, x in enumerate(xs)
            ]
        else:
            w, pulled = _pullback(y, xs)
            blocks = []
            for k, x in enumerate(xs):
                columns = [_grad([pulled[k]], [w], [v], False)[0].array for v in _basis(x)]
                block = y.xp.stack(columns).reshape((x.size, y.size)).T
                blocks.append(block.reshape(y.shape + x.shape))
    return blocks[0] if single else tuple(blocks)


def hessian_vector_product(
    function: Function, inputs: Any, vectors: Any, *, enable_double_backprop: bool = False
) -> Any:
    r"""Hessian-vector product of a scalar Chainer function, without the Hessian.

    .. math:: H(x) v = \nabla_x (\nabla_x f(x) \cdot v)

    Args:
        function: Returns a Variable of one number.
        inputs: A Variable or array, or a tuple of them.
        vectors: v, one for each input, of its shape.
        enable_double_backprop: Return Variables that can be differentiated further.

    Returns:
        An array (or tuple of arrays) of the shape of the inputs.

    Raises:
        ValueError: If the function is not scalar, or shapes differ.

    Example:
        >>> import chainer.functions as F, numpy as np
        >>> x, v = np.array([1.0, 2.0]), np.array([1.0, 0.0])
        >>> print(hessian_vector_product(lambda x: F.sum(x**3), x, v))
        [6. 0.]
    """
    xs, single = _as_variables(inputs)
    given = (vectors,) if single else tuple(vectors)
    if len(given) != len(xs):
        raise ValueError(f"vectors must be as many as inputs ({len(xs)}), found {len(given)}")
    vs = [_match(v, x, "vector", "input") for v, x in zip(given, xs, strict=True)]
    with chainer.force_backprop_mode(), exact_backward():
        y = _call(function, xs)
        _check_scalar(y)
        slopes = _grad([y], xs, [_ones(y)], True)
        products = _grad(slopes, xs, vs, enable_double_backprop)
    return _finish(y, products, single, enable_double_backprop)[1]


def hessian(function: Function, inputs: Any) -> Any:
    r"""Hessian of a scalar Chainer function, with one Hessian-vector product per row.

    .. math:: H_{ij} = \partial^2 f / \partial x_i \partial x_j

    Args:
        function: Returns a Variable of one number.
        inputs: A Variable or array, or a tuple of them.

    Returns:
        Array of shape input.shape + input.shape; for a tuple of inputs the tuple of tuples of its
        blocks.

    Raises:
        ValueError: If the function is not scalar.

    Example:
        >>> import numpy as np
        >>> print(hessian(lambda x: x[0] ** 2 * x[1], np.array([1.0, 2.0])))
        [[4. 2.]
         [2. 0.]]
    """
    xs, single = _as_variables(inputs)
    with chainer.force_backprop_mode(), exact_backward():
        y = _call(function, xs)
        _check_scalar(y)
        slopes = _grad([y], xs, [_ones(y)], True)
        blocks = []
        for x, slope in zip(xs, slopes, strict=True):
            rows = [_grad([slope], xs, [basis], False) for basis in _basis(x)]
            blocks.append(
                tuple(
                    y.xp.stack([row[k].array for row in rows]).reshape(x.shape + other.shape)
                    for k, other in enumerate(xs)
                )
            )
    return blocks[0][0] if single else tuple(blocks)


def _as_variables(inputs: Any) -> tuple[list[Variable], bool]:
    """Inputs as Variables that require a gradient; Variables in a graph stay in it."""
    single = not isinstance(inputs, (tuple, list))
    variables = []
    for x in (inputs,) if single else inputs:
        if not isinstance(x, chainer.Variable):
            x = chainer.Variable(as_array(x))
        if x.dtype.kind != "f":
            raise TypeError(f"inputs must be of a floating-point dtype, found {x.dtype}")
        # A new node: the same Variable may be given twice, or not require a gradient.
        variables.append(F.identity(x) if x.requires_grad else chainer.Variable(x.array))
    return variables, single


def _call(function: Function, xs: Sequence[Variable]) -> Variable:
    with KinkHook():
        y = function(*xs)
    if not isinstance(y, chainer.Variable):
        raise TypeError(f"function must return a chainer.Variable, found {type(y).__name__}")
    y = F.identity(y)  # the function may return its input itself
    require_dependence(y, xs)
    return y


def _check_scalar(y: Variable) -> None:
    if y.size != 1:
        raise ValueError(f"function must return one number, found shape {y.shape}")


def _match(v: Any, like: Variable, name: str, of: str) -> Variable:
    if v is None:
        if like.size != 1:
            raise ValueError(f"{name} must be given for an {of} of shape {like.shape}")
        return _ones(like)
    if not isinstance(v, chainer.Variable):
        v = chainer.Variable(like.xp.asarray(v, dtype=like.dtype))
    if v.shape != like.shape:
        raise ValueError(f"{name} must have the shape {like.shape} of its {of}, found {v.shape}")
    return v


def _ones(like: Variable) -> Variable:
    return chainer.Variable(like.xp.ones_like(like.array))


def _grad(
    outputs: Sequence[Variable], inputs: Sequence[Variable], weights: Sequence[Variable], keep: bool
) -> list[Variable]:
    """As ``chainer.grad``, with zeros for inputs that the outputs do not depend on."""
    reached = [(y, w) for y, w in zip(outputs, weights, strict=True) if y.creator_node is not None]
    if not reached:
        return [chainer.Variable(x.xp.zeros_like(x.array)) for x in inputs]
    ys, ws = zip(*reached, strict=True)
    with KinkHook():  # kinks of the gradient matter for the next derivative
        found = gradients_at_kinks(ys, inputs, ws, keep)
    slopes = [
        chainer.Variable(x.xp.zeros_like(x.array)) if slope is None else slope
        for x, slope in zip(inputs, found, strict=True)
    ]
    for y in ys:
        require_finite(y, inputs, slopes)
    return slopes


def _pullback(y: Variable, xs: Sequence[Variable]) -> tuple[Variable, list[Variable]]:
    """The reverse pass as a function of its cotangent: (w, w^T J in the graph of w)."""
    w = _ones(y)
    return w, [F.identity(pulled) for pulled in _grad([y], xs, [w], True)]


def _basis(like: Variable) -> Any:
    """Unit arrays of one shape, one after the other."""
    for j in range(like.size):
        # Not zeros_like, which would keep a transposed layout. Then reshape would make a copy.
        unit = like.xp.zeros(like.shape, like.dtype)
        unit.reshape(-1)[j] = 1
        yield chainer.Variable(unit)


def _finish(y: Variable, products: Sequence[Variable], single: bool, keep: bool) -> tuple[Any, Any]:
    values = tuple(product if keep else product.array for product in products)
    return (y if keep else y.array), (values[0] if single else values)
