"""A product of Jacobians with an error vector. The order of the products sets the cost."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import chainer

__all__ = ["JacobianProduct", "jacobian_product"]


@dataclasses.dataclass(frozen=True)
class JacobianProduct:
    """A product and its cost.

    Attributes:
        vector: The product.
        multiplications: Number of multiplications.
    """

    vector: Any
    multiplications: int


def jacobian_product(
    jacobians: Sequence[Any], error: Any, *, order: str = "right-to-left"
) -> JacobianProduct:
    r"""Gradient of a chain of layers, by one of the two orders of multiplication.

    .. math:: A_1^\top A_2^\top \cdots A_M^\top \varepsilon

    From the right every product is a matrix times a vector, O(N^2) for N units. From the left every
    product is a matrix times a matrix, O(N^3), except the last one.

    Args:
        jacobians: A_1, ..., A_M, first layer first, A_m of shape (N_m, N_{m-1}).
        error: epsilon, shape (N_M,).
        order: ``'right-to-left'`` (reverse mode) or ``'left-to-right'`` (forward mode).

    Returns:
        A :class:`JacobianProduct`; its vector has shape (N_0,).

    Raises:
        ValueError: If the order is unknown or shapes do not chain.

    Example:
        >>> import numpy as np
        >>> chain = [np.full((10, 10), 0.1)] * 3
        >>> jacobian_product(chain, np.ones(10)).multiplications
        300
        >>> jacobian_product(chain, np.ones(10), order="left-to-right").multiplications
        2100
    """
    if order not in ("right-to-left", "left-to-right"):
        raise ValueError(f"order must be 'right-to-left' or 'left-to-right', found {order!r}")
    xp = chainer.backend.get_array_module(error)
    matrices = [xp.asarray(a) for a in jacobians]
    sizes = [a.shape[::-1] for a in matrices]  # of the transposes
    ends = [*(shape[0] for shape in sizes[1:]), len(error)]
    if not matrices or any(shape[1] != end for shape, end in zip(sizes, ends, strict=True)):
        raise ValueError(
            f"jacobians must chain to the error of shape {error.shape}, "
            f"found shapes {[a.shape for a in matrices]}"
        )
    count = 0
    if order == "right-to-left":
        vector = error
        for a in reversed(matrices):
            vector = a.T @ vector
            count += a.size
        return JacobianProduct(vector, count)
    product = matrices[0].T
    for a in matrices[1:]:
        count += product.shape[0] * a.size
        product = product @ a.T
    return JacobianProduct(product @ error, count + product.size)
