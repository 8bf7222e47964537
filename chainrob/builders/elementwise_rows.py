"""Parameters that act on each number by itself: scale, bias, and the activations PReLU and Swish.

A parameter's own axes begin at ``axis`` of x. Its rows are sums over all other axes, except the
sample axis.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from chainrob.builders.positions import along, broadcast_to_positions, position_sums
from chainrob.kernels import array_module
from chainrob.sample_gradients import Dense, SampleGradients
from chainrob.sample_gradients.operator_base import Array

Rows = dict[int, SampleGradients]
Cotangents = Mapping[int, tuple[Array, ...]]


def scale_rows(arrays: tuple[Array, ...], wanted: Sequence[int], axis: int, n_axes: int) -> Rows:
    r"""The operator of W (key 1) of y = x W, from x and gy: :math:`\sum_s g_{y_n} x_n`.

    Args:
        arrays: x and gy, (N, ...).
        wanted: 1.
        axis: the first axis of x that belongs to W.
        n_axes: number of axes of W.
    """
    x, gy = arrays
    return {1: _sums(x * gy, axis, n_axes)}


def scale_pullback(
    arrays: tuple[Array, ...], cotangents: Cotangents, axis: int
) -> tuple[Array, ...]:
    """Cotangents of x and gy."""
    x, gy = arrays
    rows = broadcast_to_positions(cotangents[1][0], axis, gy)
    return gy * rows, x * rows


def bias_rows(arrays: tuple[Array, ...], wanted: Sequence[int], axis: int, n_axes: int) -> Rows:
    r"""The operator of b (key 1) of y = x + b, from gy alone: :math:`\sum_s g_{y_n}`."""
    (gy,) = arrays
    keep = tuple(range(axis, axis + n_axes))
    return {1: position_sums(gy, keep=keep, of_signals=True)}


def bias_pullback(
    arrays: tuple[Array, ...], cotangents: Cotangents, axis: int
) -> tuple[Array, ...]:
    """The cotangent of gy."""
    (gy,) = arrays
    return (broadcast_to_positions(cotangents[1][0], axis, gy),)


def prelu_rows(arrays: tuple[Array, ...], wanted: Sequence[int], n_axes: int) -> Rows:
    r"""The operator of W (key 1) of y = max(x, 0) + W min(x, 0), from x and gy:
    :math:`\sum_s g_{y_n} \min(x_n, 0)`.
    """
    x, gy = arrays
    below = array_module(x).where(x >= 0, x.dtype.type(0), x * gy)
    return {1: _sums(below, 1, n_axes)}


def prelu_pullback(arrays: tuple[Array, ...], cotangents: Cotangents) -> tuple[Array, ...]:
    """Cotangents of x and gy."""
    x, gy = arrays
    xp, zero = array_module(x), x.dtype.type(0)
    rows = broadcast_to_positions(cotangents[1][0], 1, gy)
    return xp.where(x < 0, gy * rows, zero), xp.where(x < 0, x * rows, zero)


def swish_rows(arrays: tuple[Array, ...], wanted: Sequence[int]) -> Rows:
    r"""The operator of beta (key 1) of :math:`y = x \sigma(\beta x)`, from x, beta and gy:
    :math:`\sum_s g_{y_n} x_n^2 \sigma (1 - \sigma)`.
    """
    x, beta, gy = arrays
    gate = _gate(x, beta)
    return {1: _sums(gy * x * x * gate * (1.0 - gate), 1, beta.ndim)}


def swish_pullback(arrays: tuple[Array, ...], cotangents: Cotangents) -> tuple[Array, ...]:
    """Cotangents of x, beta and gy."""
    x, beta, gy = arrays
    rows = broadcast_to_positions(cotangents[1][0], 1, gy)
    gate = _gate(x, beta)
    slope = gate * (1.0 - gate)
    bend = slope * (1.0 - 2.0 * gate)  # the derivative of the slope
    of_x = gy * rows * (2.0 * x * slope + x * x * along(beta, 1, x.ndim) * bend)
    of_beta = gy * rows * x * x * x * bend
    others = (0, *range(1 + beta.ndim, x.ndim))
    return of_x, of_beta.sum(axis=others).reshape(beta.shape), x * x * slope * rows


def _gate(x: Array, beta: Array) -> Array:
    """The logistic function of beta x, by tanh, which does not overflow."""
    return 0.5 + 0.5 * array_module(x).tanh(0.5 * along(beta, 1, x.ndim) * x)


def _sums(values: Array, axis: int, n_axes: int) -> Dense:
    return position_sums(values, keep=tuple(range(axis, axis + n_axes)))
