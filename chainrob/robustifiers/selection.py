"""The choice of the smallest, which several robustifiers share."""

from __future__ import annotations

import numpy as np

from chainrob.kernels import array_module
from chainrob.kernels import smallest as compiled
from chainrob.sample_gradients.operator_base import Array

TIE = 1e-12
"""Distances and scores that differ by less than this share of themselves are equal: rounding must
not decide between rows that the definition cannot tell apart."""


def smallest(keys: Array, count: int, axis: int = -1, tie: float = 0.0) -> Array:
    """1 for the ``count`` smallest keys along an axis, 0 for the others.

    Keys that tie at the cut share what is left of the count, so that the choice depends neither on
    the order of the rows nor on the sorting routine.

    Args:
        keys: array, not negative where ``tie`` is not 0.
        count: how many; the result adds up to it along the axis.
        axis: the axis along which to choose.
        tie: relative difference up to which keys count as equal.
    """
    if count == 0:
        return array_module(keys).zeros(keys.shape, np.float64)
    if axis == -1:
        chosen = compiled(keys, count, tie)
        if chosen is not None:
            return chosen
    return smallest_by_arrays(keys, count, axis, tie)


def smallest_by_arrays(keys: Array, count: int, axis: int = -1, tie: float = 0.0) -> Array:
    """As ``smallest``, in array code: the definition that its compiled form meets."""
    xp = array_module(keys)
    last = xp.partition(keys, count - 1, axis=axis)
    cut = xp.take(last, count - 1, axis=axis)
    cut = xp.expand_dims(cut, axis)
    inside = keys < cut * (1.0 - tie)
    tied = (keys <= cut * (1.0 + tie)) & ~inside
    left = count - inside.sum(axis=axis, keepdims=True)
    return inside + tied * (left / xp.maximum(tied.sum(axis=axis, keepdims=True), 1))
