"""Linear layers: outer products of the output gradients and the inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from chainrob.kernels import array_module
from chainrob.sample_gradients import OuterProducts, SampleGradients
from chainrob.sample_gradients.operator_base import Array


def linear_rows(
    arrays: tuple[Array, ...], wanted: Sequence[int], n_positions: int = 1
) -> dict[int, SampleGradients]:
    r"""The operators of W (key 1) and b (key 2) of y = x W^T + b.

    .. math:: g_{W,n} = \sum_s g_{y_{n,s}} x_{n,s}^\top, \qquad g_{b,n} = \sum_s g_{y_{n,s}}

    Args:
        arrays: x (*R, N * S, P) and gy (*R, N * S, Q), with replica axes R. x may lack them if
            all replicas share it.
        wanted: 1, 2 or both.
        n_positions: S, the number of consecutive rows of x that belong to one sample.
    """
    x, gy = arrays
    shape = (gy.shape[-2] // n_positions, n_positions)
    x = x.reshape((*x.shape[:-2], *shape, x.shape[-1]))
    gy = gy.reshape((*gy.shape[:-2], *shape, gy.shape[-1]))
    weights = OuterProducts(x, gy)
    operators: dict[int, SampleGradients] = {}
    if 1 in wanted:
        operators[1] = weights
    if 2 in wanted:
        operators[2] = weights.bias()
    return operators


def linear_pullback(
    arrays: tuple[Array, ...], cotangents: Mapping[int, tuple[Array, ...]], n_positions: int = 1
) -> tuple[Array, ...]:
    """Cotangents of x and gy.

    Args:
        arrays, n_positions: as for ``linear_rows``.
        cotangents: those of the factors (x, gy) of W's operator, and of the rows of b's operator.
    """
    x, gy = arrays
    of_x, of_gy = array_module(x).zeros_like(x), array_module(gy).zeros_like(gy)
    if 1 in cotangents:
        factor_x, factor_gy = cotangents[1]
        of_x, of_gy = factor_x.reshape(x.shape), factor_gy.reshape(gy.shape)
    if 2 in cotangents:
        (rows,) = cotangents[2]
        shape = (gy.shape[-2] // n_positions, n_positions, gy.shape[-1])
        every = array_module(gy).broadcast_to(rows[..., None, :], (*gy.shape[:-2], *shape))
        of_gy = of_gy + every.reshape(gy.shape)
    return of_x, of_gy
