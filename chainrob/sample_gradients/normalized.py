"""Sample gradients brought to ordinary size by powers of two, so that squares neither overflow nor
vanish.

Products of float32 numbers are at home in float64, where every Gram matrix is formed, so only
float64 gradients need this. A power of two costs no digit.
"""

from __future__ import annotations

from functools import reduce, singledispatch
from typing import Any

import numpy as np

from chainrob.kernels import array_module
from chainrob.sample_gradients.base import Array, SampleGradients
from chainrob.sample_gradients.dense import Dense
from chainrob.sample_gradients.joined import Joined
from chainrob.sample_gradients.mixed import Mixed
from chainrob.sample_gradients.outer_product import OuterProducts
from chainrob.sample_gradients.output_units import OutputUnits

HEADROOM = 200
"""How far, in powers of two, the typical row may be pushed below 1 to make room for the largest."""


def normalized(gradients: SampleGradients) -> tuple[SampleGradients, Any]:
    """The operator 2^-e G and e, with e such that its Gram matrix fits into float64.

    It does where the largest row is less than about 1e200 times the median one. float16 and
    float32 gradients are returned as they are, with e = 0. Exponents are numbers, but for arrays on
    a device they stay there, arrays without axes, so that nothing waits for them.
    """
    if gradients.compute_dtype != np.float64:
        return gradients, 0
    exponent = magnitude(gradients)
    return scaled_down(gradients, exponent), exponent


@singledispatch
def magnitude(gradients: SampleGradients) -> Any:
    """The exponent e for which rows of 2^-e G have ordinary size; 0 for an unknown operator."""
    return 0


@singledispatch
def scaled_down(gradients: SampleGradients, exponent: Any) -> SampleGradients:
    """The operator 2^-exponent G; an unknown operator as it is, whose magnitude is 0."""
    return gradients


@magnitude.register
def _(gradients: Dense) -> Any:
    return _typical_exponent(gradients.flat)


@scaled_down.register
def _(gradients: Dense, exponent: Any) -> SampleGradients:
    return Dense(gradients.xp.ldexp(gradients.rows, -exponent), len(gradients.replicas))


@magnitude.register
def _(gradients: OuterProducts) -> Any:
    return sum(_typical_exponent(_joined_tail(array)) for array in (gradients.x, gradients.gy))


@scaled_down.register
def _(gradients: OuterProducts, exponent: Any) -> SampleGradients:
    # Each factor gets ordinary size by itself: 1e200 times 1e-200 is an ordinary row.
    of_x = _typical_exponent(_joined_tail(gradients.x))
    x = gradients.xp.ldexp(gradients.x, -of_x)
    return type(gradients)(x, gradients.xp.ldexp(gradients.gy, of_x - exponent))


@magnitude.register
def _(gradients: OutputUnits) -> Any:
    return magnitude(gradients.base)


@scaled_down.register
def _(gradients: OutputUnits, exponent: Any) -> SampleGradients:
    base = scaled_down(gradients.base, exponent)
    assert isinstance(base, OuterProducts)
    return OutputUnits(base)


@magnitude.register
def _(gradients: Joined) -> Any:
    return larger(*(magnitude(part) for part in gradients.parts))


@scaled_down.register
def _(gradients: Joined, exponent: Any) -> SampleGradients:
    return Joined([scaled_down(part, exponent) for part in gradients.parts])


@magnitude.register
def _(gradients: Mixed) -> Any:
    return magnitude(gradients.base)


@scaled_down.register
def _(gradients: Mixed, exponent: Any) -> SampleGradients:
    return Mixed(scaled_down(gradients.base, exponent), gradients.matrix, affine=gradients.affine)


def _typical_exponent(rows: Array) -> Any:
    """Of rows (..., K): the median's exponent, raised for the sake of a far larger maximum."""
    xp = array_module(rows)
    if rows.size == 0:
        return 0
    norms = xp.abs(rows).max(axis=-1).astype(np.float64, copy=False).ravel()
    # Rows that are zero or not finite have no say: they are sorted to the end, and not counted.
    ordinary = xp.isfinite(norms) & (norms > 0.0)
    ranked = xp.sort(xp.where(ordinary, norms, np.inf))
    last = xp.maximum(ordinary.sum() - 1, 0)
    typical = xp.take(ranked, xp.stack([last // 2, last]))
    sizes = xp.log2(xp.where(ordinary.any(), typical, 1.0))  # inf - inf where no row has a say
    exponent = sizes[0] + xp.minimum((sizes[1] - sizes[0]) / 2.0, HEADROOM)
    if xp is np:
        return int(exponent) if ordinary.any() else 0
    return xp.where(ordinary.any(), exponent, 0.0).astype(np.int32)


def larger(*exponents: Any) -> Any:
    """The largest of several exponents."""
    if all(isinstance(one, int) for one in exponents):
        return max(exponents)
    return reduce(array_module(*exponents).maximum, exponents)


def _joined_tail(array: Array) -> Array:
    """(..., S, K) as (..., S * K)."""
    return array.reshape((*array.shape[:-2], -1))
