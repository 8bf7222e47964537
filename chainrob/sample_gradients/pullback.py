"""Double backward's last step: from cotangents of the rows to cotangents of what the rows are made
of.

An estimate e = R(G) has, for a cotangent v of e, one cotangent C_n for each row g_n. No N x D array
of them is built either. Two forms are enough for all robustifiers:

- coordinate-wise: C_n = a_n * v, with a_n the derivative of each coordinate's estimate in row n;
- by weights: C_n = w_n v + sum_m M_nm g_m, with N weights w and an N x N matrix M.

The answer of a pullback is the cotangents of the operator's ingredients: a tuple (x, gy) for outer
products, (rows,) for dense rows, one tuple a part for joined parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import singledispatch
from math import prod
from typing import Any

import numpy as np

from chainrob.sample_gradients.base import TILE_BUDGET, Array, SampleGradients
from chainrob.sample_gradients.dense import Dense
from chainrob.sample_gradients.joined import Joined
from chainrob.sample_gradients.mixed import Mixed
from chainrob.sample_gradients.outer_product import OuterProducts
from chainrob.sample_gradients.output_units import OutputUnits

Derivative = Callable[[Array], Array]
"""Values (*R, N, d) to the derivatives (*R, N, d) of each coordinate's estimate in them."""


@singledispatch
def projections(gradients: SampleGradients, direction: Any) -> Array:
    """G v: the inner products (*R, N), float64, of the rows with one vector (*R, *shape)."""
    raise NotImplementedError(f"{type(gradients).__name__} has no projections")


@singledispatch
def pullback_weights(
    gradients: SampleGradients, weights: Array, mixing: Array | None, cotangent: Any
) -> tuple[Any, ...]:
    """Cotangents of the ingredients for C_n = w_n v + sum_m M_nm g_m.

    Args:
        gradients: the operator G.
        weights: w, (*R, N).
        mixing: M, (*R, N, N), or None for zero.
        cotangent: v, (*R, *shape); one a part for joined parameters.
    """
    raise NotImplementedError(f"{type(gradients).__name__} has no pullback")


@singledispatch
def pullback_coordinates(
    gradients: SampleGradients, derivative: Derivative, cotangent: Any
) -> tuple[Any, ...]:
    """Cotangents of the ingredients for C_n = derivative(rows)_n * v, tile by tile.

    Args:
        gradients: the operator G.
        derivative: values (*R, N, d) to derivatives (*R, N, d).
        cotangent: v, (*R, *shape); one a part for joined parameters.
    """
    raise NotImplementedError(f"{type(gradients).__name__} has no pullback")


# -- dense rows


@projections.register
def _(gradients: Dense, direction: Array) -> Array:
    flat = direction.reshape((*gradients.replicas, gradients.size, 1)).astype(np.float64)
    return gradients.xp.matmul(gradients.flat.astype(np.float64, copy=False), flat)[..., 0]


@pullback_weights.register
def _(gradients: Dense, weights: Array, mixing: Array | None, cotangent: Array) -> tuple[Any, ...]:
    dtype = gradients.compute_dtype
    flat = cotangent.reshape((*gradients.replicas, 1, gradients.size))
    rows = weights[..., None].astype(dtype) * flat
    if mixing is not None:
        rows = rows + gradients.xp.matmul(mixing.astype(dtype), gradients.flat)
    return (rows.reshape(gradients.rows.shape),)


@pullback_coordinates.register
def _(gradients: Dense, derivative: Derivative, cotangent: Array) -> tuple[Any, ...]:
    lead = (slice(None),) * len(gradients.replicas)
    out = gradients.xp.empty(gradients.rows.shape, gradients.compute_dtype)
    for index, values in gradients.tiles():
        target = out[(*lead, slice(None), *index)]
        at_tile = cotangent[lead + index].reshape((*gradients.replicas, 1, -1))
        target[...] = (derivative(values) * at_tile).reshape(target.shape)
    return (out,)


# -- outer products


@projections.register
def _(gradients: OuterProducts, direction: Array) -> Array:
    dtype = gradients.compute_dtype
    matrix = direction.reshape((*gradients.replicas, *_matrix_shape(gradients)))
    matrix = matrix.astype(dtype).swapaxes(-1, -2)[..., None, :, :]
    mapped = gradients.xp.matmul(gradients.x.astype(dtype, copy=False), matrix)
    return (mapped * gradients.gy).sum(axis=(-1, -2), dtype=np.float64)


@pullback_weights.register
def _(
    gradients: OuterProducts, weights: Array, mixing: Array | None, cotangent: Array
) -> tuple[Any, ...]:
    xp, dtype = gradients.xp, gradients.compute_dtype
    x, gy = gradients.x.astype(dtype, copy=False), gradients.gy.astype(dtype, copy=False)
    matrix = cotangent.reshape((*gradients.replicas, 1, *_matrix_shape(gradients))).astype(dtype)
    share = weights.astype(dtype)[..., None, None]
    d_gy = xp.matmul(share * x, matrix.swapaxes(-1, -2))
    d_x = xp.matmul(share * gy, matrix)
    if mixing is not None:
        mixing = mixing.astype(dtype)
        d_gy = d_gy + _mixed_positions(gradients, mixing, x, gy)
        d_x = d_x + _mixed_positions(gradients, mixing, gy, x)
    return _unbroadcast(d_x, x.shape, xp), _unbroadcast(d_gy, gy.shape, xp)


@pullback_coordinates.register
def _(gradients: OuterProducts, derivative: Derivative, cotangent: Array) -> tuple[Any, ...]:
    xp, dtype = gradients.xp, gradients.compute_dtype
    x, gy = gradients.x.astype(dtype, copy=False), gradients.gy.astype(dtype, copy=False)
    replicas, n = gradients.replicas, gradients.n_samples
    matrix = cotangent.reshape((*replicas, *_matrix_shape(gradients))).astype(dtype)
    d_x = xp.zeros((*replicas, *x.shape[-3:]), dtype)
    d_gy = xp.zeros((*replicas, *gy.shape[-3:]), dtype)
    whole = OuterProducts(gradients.x, gradients.gy)  # output units are vectors, tiles need Q
    for (outputs, inputs), values in whole.tiles():
        piece = matrix[..., outputs, inputs]
        rows = derivative(values) * piece.reshape((*replicas, 1, -1))
        rows = rows.reshape((*replicas, n, *piece.shape[-2:]))
        d_gy[..., outputs] += xp.matmul(x[..., inputs], rows.swapaxes(-1, -2))
        d_x[..., inputs] += xp.matmul(gy[..., outputs], rows)
    return _unbroadcast(d_x, x.shape, xp), _unbroadcast(d_gy, gy.shape, xp)


def _matrix_shape(gradients: OuterProducts) -> tuple[int, int]:
    return gradients.gy.shape[-1], gradients.x.shape[-1]


def _mixed_positions(gradients: OuterProducts, mixing: Array, key: Array, value: Array) -> Array:
    """sum_m,t M_nm <key_ns, key_mt> value_mt: the mixed rows applied to one of their factors."""
    xp, n, s = gradients.xp, gradients.n_samples, gradients.n_positions
    replicas = gradients.replicas
    keys = key.reshape((*key.shape[:-3], n * s, key.shape[-1]))
    values = value.reshape((*value.shape[:-3], n * s, value.shape[-1]))
    out = xp.empty((*replicas, n, s, value.shape[-1]), key.dtype)
    step = max(1, TILE_BUDGET // max(1, prod(replicas) * n * s * s))
    for start in range(0, n, step):
        stop = min(start + step, n)
        here = keys[..., start * s : stop * s, :]
        products = xp.matmul(here, keys.swapaxes(-1, -2))
        products = products.reshape((*products.shape[:-2], stop - start, s, n, s))
        products = products * mixing[..., start:stop, None, :, None]
        products = products.reshape((*replicas, (stop - start) * s, n * s))
        mixed = xp.matmul(products, values)
        out[..., start:stop, :, :] = mixed.reshape((*replicas, stop - start, s, value.shape[-1]))
    return out


def _unbroadcast(array: Array, shape: tuple[int, ...], xp: Any) -> Array:
    """Sum over the replica axes that the ingredient shares or lacks."""
    array = xp.broadcast_to(array, np.broadcast_shapes(array.shape, shape))
    extra = array.ndim - len(shape)
    if extra:
        array = array.sum(axis=tuple(range(extra)))
    shared = tuple(axis for axis, size in enumerate(shape) if size == 1 and array.shape[axis] != 1)
    return array.sum(axis=shared, keepdims=True) if shared else array


# -- views and combinations


@projections.register
def _(gradients: OutputUnits, direction: Array) -> Array:
    return projections(gradients._explicit(), direction)


@pullback_weights.register
def _(
    gradients: OutputUnits, weights: Array, mixing: Array | None, cotangent: Array
) -> tuple[Any, ...]:
    """All units in turn, in chunks: their inputs are shared, so their cotangents of x add up."""
    base, n = gradients.base, gradients.n_samples
    n_units = base.shape[0]
    weights = _broadcast(weights, (*gradients.replicas, n), gradients.xp)
    cotangent = cotangent.reshape((*gradients.replicas, base.shape[1]))
    step = max(1, TILE_BUDGET // max(1, prod(base.replicas) * base.x[..., 0, :, :].size * n))
    d_x, d_gy = 0.0, gradients.xp.empty((*base.replicas, *base.gy.shape[-3:]), base.compute_dtype)
    for start in range(0, n_units, step):
        chosen = slice(start, min(start + step, n_units))
        lead = (slice(None),) * len(base.replicas)
        part = gradients.replica((*lead, chosen))
        piece = mixing if mixing is None else mixing[(*lead, chosen)]
        some_x, some_gy = pullback_weights(
            part, weights[(*lead, chosen)], piece, cotangent[(*lead, chosen)]
        )
        d_x = d_x + some_x.sum(axis=len(base.replicas))
        d_gy[..., chosen] = gradients.xp.moveaxis(some_gy[..., 0], len(base.replicas), -1)
    return _unbroadcast(d_x, base.x.shape, gradients.xp), d_gy


@pullback_coordinates.register
def _(gradients: OutputUnits, derivative: Derivative, cotangent: Array) -> tuple[Any, ...]:
    base = gradients.base
    return pullback_coordinates(base, derivative, cotangent)


@projections.register
def _(gradients: Joined, direction: Any) -> Array:
    parts = zip(gradients.parts, direction, strict=True)
    return sum(projections(part, piece) for part, piece in parts)


@pullback_weights.register
def _(gradients: Joined, weights: Array, mixing: Array | None, cotangent: Any) -> tuple[Any, ...]:
    parts = zip(gradients.parts, cotangent, strict=True)
    return tuple(pullback_weights(part, weights, mixing, piece) for part, piece in parts)


@pullback_coordinates.register
def _(gradients: Joined, derivative: Derivative, cotangent: Any) -> tuple[Any, ...]:
    parts = zip(gradients.parts, cotangent, strict=True)
    return tuple(pullback_coordinates(part, derivative, piece) for part, piece in parts)


@projections.register
def _(gradients: Mixed, direction: Any) -> Array:
    base = projections(gradients.base, direction)
    return gradients.xp.matmul(gradients.matrix, base[..., None])[..., 0]


@pullback_weights.register
def _(gradients: Mixed, weights: Array, mixing: Array | None, cotangent: Any) -> tuple[Any, ...]:
    xp, matrix = gradients.xp, gradients.matrix
    back = matrix.swapaxes(-1, -2)
    weights = xp.matmul(back, weights[..., None].astype(np.float64))[..., 0]
    if mixing is not None:
        mixing = xp.matmul(xp.matmul(back, mixing), matrix)
    return pullback_weights(gradients.base, weights, mixing, cotangent)


@pullback_coordinates.register
def _(gradients: Mixed, derivative: Derivative, cotangent: Any) -> tuple[Any, ...]:
    xp, matrix = gradients.xp, gradients.matrix

    def through(values: Array) -> Array:
        local = matrix.astype(values.dtype, copy=False)
        return xp.matmul(local.swapaxes(-1, -2), derivative(xp.matmul(local, values)))

    return pullback_coordinates(gradients.base, through, cotangent)


def _broadcast(array: Array, shape: tuple[int, ...], xp: Any) -> Array:
    return array if array.shape == shape else xp.broadcast_to(array, shape)
