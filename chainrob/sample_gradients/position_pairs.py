"""Outer products with several positions a sample: sums over all pairs of positions, in steps whose
memory is bounded by the budget of a tile.
"""

from __future__ import annotations

from math import prod

import numpy as np

from chainrob.kernels import array_module
from chainrob.sample_gradients.operator_base import TILE_BUDGET, Array
from chainrob.sample_gradients.rows import central_row


def gram_of_pairs(x: Array, gy: Array, replicas: tuple[int, ...], *, centered: bool) -> Array:
    r"""Inner products of the rows sum_s gy[n, s] x[n, s]^T, (*R, N, N).

    .. math:: K_{nm} = \sum_{s,t} \langle x_{ns}, x_{mt} \rangle \langle g_{ns}, g_{mt} \rangle

    Args:
        x: inputs, (*R, N, S, P), float64; replica axes may be 1.
        gy: output gradients, (*R, N, S, Q), float64.
        replicas: R.
        centered: whether the row of an ordinary sample is subtracted from all rows first.
    """
    xp = array_module(gy)
    if centered:
        xc, gc = _central_sample(x), _central_sample(gy)
        gc = xp.broadcast_to(gc, gy.shape)
        x = xp.concatenate([x, x - xc], axis=-2)
        gy = xp.concatenate([gy - gc, gc], axis=-2)
    (n, s, q), p = gy.shape[-3:], x.shape[-1]
    out = xp.empty((*replicas, n, n), np.float64)
    step = _step(replicas, n, s)
    xt = x.reshape((*x.shape[:-3], n * s, p)).swapaxes(-1, -2)
    gt = gy.reshape((*gy.shape[:-3], n * s, q)).swapaxes(-1, -2)
    for start in range(0, n, step):
        stop = min(start + step, n)
        left_x = x[..., start:stop, :, :].reshape((*x.shape[:-3], -1, p))
        left_g = gy[..., start:stop, :, :].reshape((*gy.shape[:-3], -1, q))
        pairs = (left_x @ xt) * (left_g @ gt)
        pairs = pairs.reshape((*replicas, stop - start, s, n, s))
        out[..., start:stop, :] = pairs.sum(axis=(-3, -1))
    return out


def mixed_pairs(mixing: Array, key: Array, value: Array, replicas: tuple[int, ...]) -> Array:
    """sum_m,t M_nm <key_ns, key_mt> value_mt, (*R, N, S, K): the mixed rows applied to one factor.

    Args:
        mixing: M, (*R, N, N).
        key: the other factor, (*R, N, S, L); replica axes may be 1.
        value: the factor, (*R, N, S, K).
        replicas: R.
    """
    n, s = value.shape[-3:-1]
    keys = key.reshape((*key.shape[:-3], n * s, key.shape[-1]))
    values = value.reshape((*value.shape[:-3], n * s, value.shape[-1]))
    out = array_module(key).empty((*replicas, n, s, value.shape[-1]), key.dtype)
    step = _step(replicas, n, s)
    for start in range(0, n, step):
        stop = min(start + step, n)
        dots = keys[..., start * s : stop * s, :] @ keys.swapaxes(-1, -2)
        dots = dots.reshape((*dots.shape[:-2], stop - start, s, n, s))
        dots = dots * mixing[..., start:stop, None, :, None]
        mixed = dots.reshape((*replicas, (stop - start) * s, n * s)) @ values
        out[..., start:stop, :, :] = mixed.reshape((*replicas, stop - start, s, value.shape[-1]))
    return out


def _step(replicas: tuple[int, ...], n: int, s: int) -> int:
    """How many samples are paired with all others at a time."""
    return max(1, TILE_BUDGET // max(1, prod(replicas) * n * s * s))


def _central_sample(array: Array) -> Array:
    """As ``central_row``, for samples (*R, N, S, K): the whole sample (*R, 1, S, K)."""
    flat = array.reshape((*array.shape[:-2], -1))
    return central_row(flat).reshape((*array.shape[:-3], 1, *array.shape[-2:]))
