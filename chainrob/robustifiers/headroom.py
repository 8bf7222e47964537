"""Room above the values for the sums that an estimate is made of."""

from __future__ import annotations

from math import ceil, log2

import numpy as np

from chainrob.kernels import array_module
from chainrob.sample_gradients.operator_base import Array


def headroom(values: Array) -> tuple[Array, Array | None]:
    """The values with some coordinates divided by a power of two, so that sums cannot overflow.

    Only coordinates that hold a value near the largest number are touched, and nothing that could
    be told beside it is rounded away.

    Args:
        values: array (*R, N, d), floating point.

    Returns:
        the values, and the exponents (*R, 1, d) that give them back by ldexp, None where every
        coordinate is as it was.
    """
    xp = array_module(values)
    n = values.shape[-2]
    limit = np.finfo(values.dtype).max / values.dtype.type(8 * n)
    largest = xp.abs(values).max(axis=-2, keepdims=True)
    near = (largest > limit) & (largest < np.inf)
    # On a device a look would have to wait for all that was queued before.
    if xp is np and not near.any():
        return values, None
    exponents = xp.where(near, ceil(log2(8 * n)), 0).astype(np.int32)
    return xp.ldexp(values, -exponents), exponents


def restored(estimate: Array, exponents: Array | None) -> Array:
    """An estimate (*R, d), or (*R, 1, d), of what ``headroom`` answered, as one of the values.

    It lies between the values, and rounding must not carry it beyond the largest number.
    """
    if exponents is None:
        return estimate
    xp = array_module(estimate)
    if estimate.ndim < exponents.ndim:
        exponents = exponents[..., 0, :]
    bound = xp.ldexp(np.finfo(estimate.dtype).max, -exponents).astype(estimate.dtype)
    inside = xp.where(exponents > 0, xp.clip(estimate, -bound, bound), estimate)
    return xp.ldexp(inside, exponents)
