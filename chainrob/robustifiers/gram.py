"""The rows' inner products as robustifiers get them: scaled, and finite or refused."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from chainrob.robustifiers.errors import NonFiniteGradientError
from chainrob.sample_gradients import SampleGradients
from chainrob.sample_gradients.normalized import normalized
from chainrob.sample_gradients.operator_base import Array


class GramMatrix(NamedTuple):
    """Inner products of the rows of 2^-exponent G."""

    products: Array
    """(*R, N, N), float64; zero in replicas that are not finite."""
    exponent: Any
    """A number; on a device an array () that stays there."""
    bad: Array | None
    """(*R,) booleans, the replicas with NaN or infinity (only where they may propagate)."""


def gram_matrix(
    gradients: SampleGradients, *, centered: bool, propagate: bool = False
) -> GramMatrix:
    """The Gram matrix of rows brought to ordinary size.

    Args:
        gradients: the rows.
        centered: whether any one vector may be subtracted from all rows first.
        propagate: whether NaN and infinity are reported rather than refused.

    Raises:
        NonFiniteGradientError: squares of the rows do not fit into float64 (the largest row is more
            than about 1e200 times the median one), or, without ``propagate``, rows are not finite.
            On a device nobody waits to see that, and such replicas are reported as bad.
    """
    if not propagate and gradients.compute_dtype == np.float32:
        # Products of finite float32 numbers always fit into float64.
        return GramMatrix(gradients.centered_gram() if centered else gradients.gram(), 0, None)
    xp = gradients.xp
    with np.errstate(over="ignore", invalid="ignore"):
        scaled, exponent = normalized(gradients)
        products = scaled.centered_gram() if centered else scaled.gram()
    if xp is np and np.isfinite(products).all():
        return GramMatrix(products, exponent, None)
    bad = ~xp.isfinite(products).all(axis=(-2, -1))
    if xp is np and not propagate:
        raise squares_too_large()
    return GramMatrix(xp.where(bad[..., None, None], 0.0, products), exponent, bad)


def squares_too_large() -> NonFiniteGradientError:
    """The error where the square of a finite row does not fit into float64."""
    return NonFiniteGradientError(
        "the largest sample gradient is so much larger than the others that its square does "
        "not fit into float64 (more than about 1e200 times the median one); mend the data or "
        "put a coordinate-wise robustifier in its place"
    )


class RowNorms(NamedTuple):
    """Norms of the rows of 2^-exponent G."""

    norms: Array
    """(*R, N), float64."""
    exponent: Any
    """A number; on a device an array () that stays there."""
    bad: Array | None
    """(*R,) booleans, the replicas with NaN or infinity; None where there is none."""


def row_norms(gradients: SampleGradients) -> RowNorms:
    """The norms of rows brought to ordinary size, without their Gram matrix.

    Rows that are not finite are reported, for the caller to propagate.
    """
    xp = gradients.xp
    with np.errstate(over="ignore", invalid="ignore"):
        scaled, exponent = normalized(gradients)
        squares = scaled.squared_norms()
        norms = xp.sqrt(xp.maximum(squares, 0.0))
    finite = xp.isfinite(norms).all(axis=-1)
    return RowNorms(norms, exponent, None if xp is np and finite.all() else ~finite)
