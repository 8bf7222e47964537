"""Layer and group normalization: gamma and beta, whose rows are sums over a channel's positions.

Both normalize within a sample, so each sample has its own gradient. Layer normalization is the case
of one group. Batch normalization mixes the samples and has no rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from chainrob.builders.positions import broadcast_to_positions, position_sums
from chainrob.kernels import array_module
from chainrob.sample_gradients import SampleGradients
from chainrob.sample_gradients.operator_base import Array


def normalization_rows(
    arrays: tuple[Array, ...], wanted: Sequence[int], groups: int, eps: float, n_axes: int = 1
) -> dict[int, SampleGradients]:
    r"""The operators of gamma (key 1) and beta (key 2).

    .. math::
        g_{\gamma,n} = \sum_s g_{y_{n,\cdot,s}} \hat x_{n,\cdot,s}, \qquad
        g_{\beta,n} = \sum_s g_{y_{n,\cdot,s}}

    Args:
        arrays: x and gy, (N, C, ...). In general, axes 1 to ``n_axes`` are those of gamma, and the
            axes after them are positions.
        wanted: 1, 2 or both.
        groups: number of groups of channels; each group is normalized separately.
        eps: added to the variance.
        n_axes: number of axes of gamma.
    """
    x, gy = arrays
    keep = tuple(range(1, 1 + n_axes))
    operators: dict[int, SampleGradients] = {}
    if 1 in wanted:
        unit, _ = _normalized(x, groups, eps)
        operators[1] = position_sums(unit.reshape(x.shape) * gy, keep=keep)
    if 2 in wanted:
        operators[2] = position_sums(gy, keep=keep, of_signals=True)
    return operators


def normalization_pullback(
    arrays: tuple[Array, ...],
    cotangents: Mapping[int, tuple[Array, ...]],
    groups: int,
    eps: float,
) -> tuple[Array, ...]:
    """Cotangents of x and gy from those of the rows; arguments as for ``normalization_rows``."""
    x, gy = arrays
    of_x, of_gy = array_module(x).zeros_like(x), array_module(gy).zeros_like(gy)
    if 1 in cotangents and x.size:
        unit, deviation = _normalized(x, groups, eps)
        rows = broadcast_to_positions(cotangents[1][0], 1, gy)
        of_gy = (unit.reshape(x.shape) * rows).astype(gy.dtype, copy=False)
        of_unit = (gy * rows).reshape(unit.shape)
        along = (of_unit * unit).mean(axis=1, keepdims=True)
        of_x = of_unit - of_unit.mean(axis=1, keepdims=True) - unit * along
        of_x = (of_x / deviation).reshape(x.shape).astype(x.dtype, copy=False)
    if 2 in cotangents:
        of_gy = of_gy + broadcast_to_positions(cotangents[2][0], 1, gy)
    return of_x, of_gy


def _normalized(x: Array, groups: int, eps: float) -> tuple[Array, Array]:
    """x with mean 0 and variance 1 over each group of each sample, (N * groups, K), and the
    standard deviations (N * groups, 1); in float32 at least.
    """
    x = x.astype(np.promote_types(x.dtype, np.float32), copy=False)
    n_rows = len(x) * groups
    rows = x.reshape((n_rows, x.size // n_rows if n_rows else 0))
    if not rows.size:
        return rows, array_module(x).ones((n_rows, 1), x.dtype)
    rows = rows - rows.mean(axis=1, keepdims=True)
    deviation = array_module(x).sqrt((rows * rows).mean(axis=1, keepdims=True) + eps)
    return rows / deviation, deviation
