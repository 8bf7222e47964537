"""Which samples look like wrong labels: not fitted, and opposed by those that are like them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from chainrob.kernels import array_module
from chainrob.robustifiers.adaptive_mean import fence_of_inputs, fence_of_signals, lengths, sizes_of
from chainrob.robustifiers.gram import gram_matrix
from chainrob.robustifiers.pre_aggregation import norms_of
from chainrob.sample_gradients import OuterProducts, SampleGradients
from chainrob.sample_gradients.operator_base import Array


def suspicion(gradients: SampleGradients) -> Array:
    r"""How much a sample's gradient looks like that of a wrong label: (*R, N), from 0 to 1.

    .. math::
        u_n = \frac{r_n (1 - v_n)}{2}, \qquad
        r_n = \frac{\min(\lVert s_n \rVert, F)}{\max_m \min(\lVert s_m \rVert, F)}, \qquad
        v_n = \frac{\sum_{m \ne n} c_{nm} \lvert c_{nm} \rvert}{\sum_{m \ne n} c_{nm}^2}

    with s the output gradient (the row itself where there is none), F the fence of ``AdaptiveMean``
    and c the cosines between the samples' gradients; in a Linear layer the inputs are shortened to
    their fence and taken about their mean. So u is large where a sample is not fitted (r) and the
    samples whose gradients are like its own pull against it (v). Averaged over the steps of a
    training and over the layers, it ranks wrong labels about as well as the mean loss does where
    they are symmetric, and better where they all lead to one class. It says nothing of bad inputs:
    take the sample weights there. A row that is not finite has 1, and fewer than 3 rows have 0. It
    costs an N x N Gram matrix.

    Args:
        gradients: the operator of one layer, as an ``Observation`` has them.

    Example:
        >>> import numpy as np, chainrob
        >>> from chainrob.robustifiers import suspicion
        >>> from chainrob.sample_gradients import Dense
        >>> rows = np.array([[0.1, 0.1], [0.2, 0.1], [0.1, 0.2], [-1.0, -1.0]])
        >>> int(suspicion(Dense(rows)).argmax())
        3
    """
    xp, n = gradients.xp, gradients.n_samples
    if n < 3:  # nobody to compare with
        return xp.zeros((*gradients.replicas, n))
    factors = _factors(gradients)
    if xp is np and not gradients.replicas and not gradients.all_finite():
        rows = np.flatnonzero(gradients.finite_rows())
        part = gradients if factors is None else OuterProducts(*(one[:, None] for one in factors))
        found = np.ones(n)
        found[rows] = suspicion(part.take(rows))
        return found
    if factors is None:
        products = gram_matrix(gradients, centered=False, propagate=True).products
        norms = norms_of(products, xp)
        cosines = _over(products, norms)
        sizes = sizes_of(gradients)
        signals = norms if sizes is None else sizes.signals
    else:
        cosines, signals = _cosines(factors), lengths(factors.gy)
    size = xp.minimum(signals, fence_of_signals(signals))
    largest = size.max(axis=-1, keepdims=True)
    size = size / xp.where(largest > 0.0, largest, 1.0)
    cosines = xp.where(np.eye(cosines.shape[-1], dtype=bool), 0.0, cosines.astype(np.float64))
    total = (cosines * cosines).sum(axis=-1)
    agreement = (cosines * xp.abs(cosines)).sum(axis=-1) / xp.maximum(total, 1e-30)
    return 0.5 * size * (1.0 - agreement)


class Factors(NamedTuple):
    """A layer whose sample gradients are outer products of one input and one output gradient."""

    x: Array
    gy: Array


def _factors(gradients: SampleGradients) -> Factors | None:
    """The factors of the rows, None where they are not of this form."""
    parts = gradients.parameters
    weights = parts[0]
    if weights.outer_factors is None or weights.outer_factors[0].shape[-2] != 1:
        return None
    if len(parts) > 2 or (len(parts) == 2 and getattr(parts[1], "weights", None) is not weights):
        return None
    x, gy = weights.outer_factors
    return Factors(x[..., 0, :], gy[..., 0, :])


def _cosines(factors: Factors) -> Array:
    """Cosines (*R, N, N) between gradients, with the inputs about their mean.

    A bias is an input that is 1 in all samples, so nothing of it is left about the mean.
    """
    x, gy = factors
    xp = array_module(gy)
    norms = lengths(x)
    fence = fence_of_inputs(norms)
    x = x * (1.0 / xp.maximum(norms, fence))[..., None]
    x = (x - x.mean(axis=-2, keepdims=True)).astype(np.promote_types(x.dtype, np.float32))
    around = lengths(x)
    # What rounding leaves of inputs that are all alike is no direction.
    around = xp.where(around > 1e-6, around, xp.inf)
    signals = lengths(gy)
    units = gy / xp.where(signals > 0.0, signals, 1.0)[..., None]
    units = units.astype(x.dtype)
    alike = _over(xp.matmul(x, x.swapaxes(-1, -2)), around)
    return alike * xp.matmul(units, units.swapaxes(-1, -2))


def _over(products: Array, norms: Array) -> Array:
    """Products (*R, N, N) over the norms (*R, N) of both sides."""
    xp = array_module(products)
    safe = xp.where(norms > 0.0, norms, 1.0)
    return products / safe[..., :, None] / safe[..., None, :]
