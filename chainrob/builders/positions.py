"""Parameters that are shared along some axes: their rows are sums over these axes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from chainrob.kernels import array_module
from chainrob.sample_gradients import Dense
from chainrob.sample_gradients.operator_base import Array


def position_sums(values: Array, keep: Sequence[int], of_signals: bool = False) -> Dense:
    """Rows of a parameter that is shared along some axes: the sum over all axes but the first and
    ``keep``.

    The sums use float32 at least, for any dtype of the values.

    Args:
        values: (N, ...).
        keep: the axes of the parameter.
        of_signals: whether the values are output gradients alone, as those of a bias.
    """
    axes = tuple(axis for axis in range(1, values.ndim) if axis not in keep)
    if not axes:
        return Dense(values, of_signals=of_signals)
    dtype = np.promote_types(values.dtype, np.float32)
    return Dense(values.sum(axis=axes, dtype=dtype), of_signals=of_signals)


def broadcast_to_positions(rows: Array, axis: int, like: Array) -> Array:
    """Rows (N, *shape) of a parameter, broadcast to the array; its axes begin at ``axis``.

    It is the pullback of ``position_sums``.
    """
    shape = rows.shape[1:]
    after = like.ndim - axis - len(shape)
    rows = rows.reshape((len(rows), *(1,) * (axis - 1), *shape, *(1,) * after))
    return array_module(rows).broadcast_to(rows, like.shape).astype(like.dtype)


def along(parameter: Array, axis: int, ndim: int) -> Array:
    """A parameter with axes of length 1 around its own, which begin at ``axis`` of ``ndim``."""
    after = ndim - axis - parameter.ndim
    return parameter.reshape((*(1,) * axis, *parameter.shape, *(1,) * after))
