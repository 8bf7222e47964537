"""Gauss-Newton-vector products: the curvature of a loss without the curvature of the model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from chainrob.differentiation.modes import hessian_vector_product, jvp, vjp

__all__ = ["gauss_newton_vector_product"]


def gauss_newton_vector_product(
    function: Callable[..., Any], loss: Callable[[Any], Any], inputs: Any, vectors: Any
) -> Any:
    r"""Product of a vector with the generalized Gauss-Newton matrix of ``loss(function(x))``.

    .. math:: G v = J^\top \, \nabla^2 \ell(y) \, J v, \qquad y = f(x), \; J = \partial f/\partial x

    It is the Hessian without the second derivatives of f. So it is positive semidefinite at every
    point if the loss is convex in y. The product takes a pass in forward mode, a Hessian-vector
    product of the loss, and a reverse pass. No matrix is formed.

    Args:
        function: As for :func:`vjp`; its output y may have any shape.
        loss: Takes y as a Variable and returns a Variable of one number.
        inputs: A Variable or array, or a tuple of them.
        vectors: v, one for each input, of its shape.

    Returns:
        An array (or tuple of arrays) of the shape of the inputs.

    Raises:
        ValueError: As :func:`jvp` and :func:`hessian_vector_product`.

    Example:
        >>> import chainer.functions as F, numpy as np
        >>> x, v = np.array([1.0, 2.0]), np.array([1.0, 1.0])
        >>> print(gauss_newton_vector_product(lambda x: x**2, lambda y: F.sum(y**2), x, v))
        [ 8. 32.]

    References:
        N. N. Schraudolph, Fast curvature matrix-vector products for second-order gradient descent,
        Neural Computation 14 (2002).
    """
    y, moved = jvp(function, inputs, vectors)
    bent = hessian_vector_product(loss, y, moved)
    return vjp(function, inputs, bent)[1]
