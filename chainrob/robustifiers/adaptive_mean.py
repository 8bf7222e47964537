"""The default: a mean whose weights come from what a batch says of itself, with nothing to tune."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from chainrob.kernels import array_module
from chainrob.robustifiers.base import Weighting
from chainrob.robustifiers.errors import NotDifferentiableError
from chainrob.robustifiers.gram import gram_matrix
from chainrob.robustifiers.pre_aggregation import norms_of
from chainrob.sample_gradients import Joined, OuterProducts, SampleGradients
from chainrob.sample_gradients.base import Array

Fence = tuple[float, float, float]

LEVERAGE_FENCE: Fence = 1.5, 2.0, 0.0
"""a, k and k' of the fence of the inputs."""

SIGNAL_FENCE: Fence = 4.0, 2.0, 1.6
"""The same for output gradients. Residuals of a regression have a lower quartile of half the
median, and 7 standard deviations are far. The ordinary sample of a trained classifier has next to
no signal, and those that have are no outliers: the lower quartile, then far off, says so."""

AGREEMENT = 12.0
"""Slope of the weight in the agreement."""

SUSPICION = 20.0
"""Slope, in the agreement of the batch, of the power to which large signals are weighed down."""

POWER = 0.5
"""That power in a batch that is surely contaminated."""

SHARE = 0.99
"""How much of the largest signal it takes away at power 1: not all, or it would at any power."""


@dataclass(frozen=True, repr=False)
class AdaptiveMean(Weighting):
    r"""A mean that weighs samples by leverage, signal and agreement, each against the batch itself:
    the default of ``robustify`` and of scikit-learn's estimators.

    A sample's gradient in a layer is the product of an input x and an output gradient s, and they
    tell different things. A long x is a bad input, whatever the label. A long s is a sample that is
    not fitted: one to learn from, or one with a wrong label; the other samples tell which. With
    :math:`F(u) = \mathrm{med}(u) \max(a, (\mathrm{med}(u) / q_{1/4}(u))^k)` a fence that lies
    farther out the wider the lower half of the batch spreads,

    .. math::
        \ell_n &= \min\Big(1, \frac{F(\lVert x \rVert)}{\lVert x_n \rVert}\Big)^2
            \min\Big(1, \frac{F(\lVert s \rVert)}{\lVert s_n \rVert}\Big)^2, \qquad
        r_n = \frac{\min(\lVert s_n \rVert, F)}{\max_m \min(\lVert s_m \rVert, F)}, \\
        v_n &= \frac{\sum_{m \ne n} c_{nm} \lvert c_{nm} \rvert}{\sum_{m \ne n} c_{nm}^2}, \qquad
        V = \frac{\sum_n r_n v_n}{\sum_n r_n}, \\
        \rho_n &= \big(1 - r_n\, \sigma(-12\, (v_n + V))\big)\,
            (1 - 0.99\, r_n)^{\sigma(-20 V) / 2}, \qquad
        \hat g = \frac1N \sum_n \ell_n \frac{\rho_n}{\bar\rho}\, g_n

    with c the cosines between the samples' gradients, about the batch's mean input, sigma the
    logistic function and :math:`\bar\rho` the mean of rho weighted by :math:`\ell`. So v says
    whether those whose gradients are like a sample's pull the same way or against it, and V whether
    the samples that are not fitted are on the whole opposed, as wrong labels are. A sample whose
    signal is small, or with which others agree, keeps its weight; where nothing looks wrong the
    answer is the plain mean, nearly. The constants were chosen once, on digits and generated data,
    and are no parameters.

    What it does not do: it cannot tell a wrong label that the network has already learned, and a
    contamination of half the batch and more looks ordinary to it. The rows of an array, and
    gradients that are no single outer product (convolutions, ``scope='model'``), are judged by
    their norms and cosines alone. Fewer than 3 rows: the plain mean.

    Breakdown point (N - 1) // 2 rows, in the sense that a row sent away has its influence fall to
    nothing. Equivariant under scale and rotation, not under translation: zero is the gradient that
    says nothing. Its derivative is not known. Cost: two products for N x N cosines, a quarter of a
    Linear layer's step where N is a quarter of its width.

    Example:
        >>> import numpy as np, chainrob
        >>> rows = np.array([[1.0, 0.9], [1.1, 1.0], [0.9, 1.2], [1.0, 1.1], [-1e9, 1e9]])
        >>> bool(np.linalg.norm(chainrob.AdaptiveMean()(rows) - [0.8, 0.84]) < 0.01)
        True

    References:
        The parts: C. L. Mallows, On some topics in robustness, 1975 (leverage and residual weighed
        apart); Z. Zhang and M. R. Sabuncu, Generalized cross entropy loss for training deep neural
        networks with noisy labels, NeurIPS 2018 (samples that are not fitted weigh less);
        S. P. Karimireddy, L. He and M. Jaggi, Learning from history for Byzantine robust
        optimization, ICML 2021 (clipping). Their combination is ours.
    """

    @property
    def translation_equivariant(self) -> bool:
        return False

    def weights(self, gram: Array) -> Array:
        return weigh(*_of_gram(gram))

    def _row_weights(self, gradients: SampleGradients) -> Array:
        factors = _factors(gradients)
        if factors is None:
            return super()._row_weights(gradients)
        return weigh(*_look(factors))

    def _pullback(self, gradients: SampleGradients, cotangent: Any) -> tuple[Any, ...]:
        raise NotDifferentiableError(f"the derivative of {self!r} is not known")


def suspicion(gradients: SampleGradients) -> Array:
    r"""How much a sample's gradient looks like that of a wrong label: (*R, N), from 0 to 1.

    .. math:: u_n = r_n (1 - v_n) / 2

    with r and v as in ``AdaptiveMean``: large where a sample is not fitted and the others pull
    against it. Averaged over the steps of a training (and over layers), it ranks wrong labels about
    as well as the mean loss does where they are symmetric, and better where they all lead to one
    class. It says nothing of bad inputs: for those take the sample weights.

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
    factors = _factors(gradients)
    if factors is None:
        gram = gram_matrix(gradients, centered=False, propagate=True)
        evidence = _of_gram(gram.products)
    else:
        evidence = _look(factors)
    size, agreement = _size_and_agreement(*evidence[1:])
    return 0.5 * size * (1.0 - agreement)


class Evidence(NamedTuple):
    """What the weights come from."""

    trust: Array
    """l, (*R, N)."""
    limited: Array
    """min(|s|, F), (*R, N)."""
    cosines: Array
    """c, (*R, N, N)."""


def _of_gram(gram: Array) -> Evidence:
    """From the Gram matrix of the rows alone: of what makes a row long nothing is known."""
    xp = array_module(gram)
    norms = norms_of(gram, xp)
    safe = xp.where(norms > 0.0, norms, 1.0)
    cosines = gram / safe[..., :, None] / safe[..., None, :]
    limit = fence_of(norms, SIGNAL_FENCE)
    return Evidence(within(norms, limit), xp.minimum(norms, limit), cosines)


def _look(factors: Factors) -> Evidence:
    """From inputs and output gradients, each by itself."""
    xp = array_module(factors.gy)
    inputs, signals = _Lengths(factors.x, xp), _Lengths(factors.gy, xp)
    leverages = xp.hypot(inputs.norms, 1.0) if factors.bias else inputs.norms
    near = within(leverages, fence_of(leverages, LEVERAGE_FENCE))
    limit = fence_of(signals.norms, SIGNAL_FENCE)
    roots = xp.sqrt(near)
    products = _cosines(inputs.units * (inputs.norms * roots)[..., None], roots, factors.bias)
    directions = xp.matmul(signals.units, signals.units.swapaxes(-1, -2))
    trust = near * within(signals.norms, limit)
    return Evidence(trust, xp.minimum(signals.norms, limit), products * directions)


class Factors(NamedTuple):
    """A layer whose sample gradients are outer products of one input and one output gradient."""

    x: Array
    gy: Array
    bias: bool


def _factors(gradients: SampleGradients) -> Factors | None:
    """The factors of the rows, None where they are not of this form."""
    weights, bias = gradients, False
    if isinstance(gradients, Joined) and len(gradients.parts) == 2:
        weights = gradients.parts[0]
        bias = getattr(gradients.parts[1], "weights", None) is weights
        if not bias:
            return None
    if not isinstance(weights, OuterProducts) or weights.by_unit or weights.n_positions != 1:
        return None
    return Factors(weights.x[..., 0, :], weights.gy[..., 0, :], bias)


class _Lengths:
    """Norms (*R, N) of rows (*R, N, K) of any size, in float64, and the rows over their norms."""

    def __init__(self, rows: Array, xp: Any) -> None:
        largest = xp.abs(rows).max(axis=-1, keepdims=True, initial=0.0)
        scaled = rows / xp.where(largest > 0.0, largest, 1.0).astype(rows.dtype)
        scaled = scaled.astype(np.promote_types(rows.dtype, np.float32), copy=False)
        norms = xp.sqrt(xp.einsum("...k,...k->...", scaled, scaled))[..., None]
        self.units = scaled / xp.where(norms > 0.0, norms, 1.0).astype(scaled.dtype)
        self.norms = (norms.astype(np.float64) * largest)[..., 0]


def _cosines(x: Array, constant: Array, bias: bool) -> Array:
    """Cosines between inputs (*R, N, P) about their mean, with a constant input's (*R, N) beside
    them where there is a bias.
    """
    xp = array_module(x)
    size = xp.sqrt((x * x).sum(axis=-1).max(axis=-1))[..., None, None]
    x = x / xp.where(size > 0.0, size, 1.0)
    x = x - x.mean(axis=-2, keepdims=True)
    products = xp.matmul(x, x.swapaxes(-1, -2))
    if bias:
        constant = constant[..., None] / xp.where(size > 0.0, size, 1.0)
        constant = constant - constant.mean(axis=-2, keepdims=True)
        products = products + constant * constant.swapaxes(-1, -2)
    lengths = norms_of(products, xp)
    # What rounding leaves of inputs that are all alike is no direction.
    lengths = xp.where(lengths > 1e-6, lengths, xp.inf)
    return products / lengths[..., :, None] / lengths[..., None, :]


def within(sizes: Array, limit: Array) -> Array:
    """The squared share of each size (*R, N) that lies within the limit (*R, 1)."""
    return (limit / array_module(sizes).maximum(sizes, limit)) ** 2


def fence_of(sizes: Array, fence: Fence) -> Array:
    """F of the sizes (*R, N): (*R, 1); the largest of them where the median is 0."""
    xp = array_module(sizes)
    least, power, curvature = fence
    n = sizes.shape[-1]
    ordered = xp.sort(sizes, axis=-1)
    middle, lower = ordered[..., (n - 1) // 2, None], ordered[..., (n - 1) // 4, None]
    largest = xp.where(ordered[..., -1:] > 0.0, ordered[..., -1:], 1.0)
    shares = xp.where(middle > 0.0, lower / xp.where(middle > 0.0, middle, 1.0), 0.0)
    # With bounds that are beyond every number of use.
    spread = -xp.log(xp.maximum(shares, 1e-60))
    spread = xp.exp(xp.minimum((power + curvature * spread) * spread, 300.0))
    return xp.where(middle > 0.0, xp.minimum(middle * xp.maximum(least, spread), largest), largest)


def weigh(trust: Array, limited: Array, cosines: Array) -> Array:
    """The weights (*R, N) of the estimate's sum, from l, min(|s|, F) and c."""
    xp = array_module(cosines)
    n = limited.shape[-1]
    if n < 3:
        return xp.full(limited.shape, 1.0 / n)
    size, agreement = _size_and_agreement(limited, cosines)
    mass = size.sum(axis=-1, keepdims=True)
    overall = (size * agreement).sum(axis=-1, keepdims=True) / xp.where(mass > 0.0, mass, 1.0)
    opposed = _logistic(-AGREEMENT * (agreement + overall))
    power = POWER * _logistic(-SUSPICION * overall)
    kept = (1.0 - size * opposed) * (1.0 - SHARE * size) ** power
    mean = (trust * kept).sum(axis=-1, keepdims=True) / trust.sum(axis=-1, keepdims=True)
    return trust * kept / xp.where(mean > 0.0, mean, 1.0) / n


def _size_and_agreement(limited: Array, cosines: Array) -> tuple[Array, Array]:
    """r and v, each (*R, N)."""
    xp = array_module(cosines)
    largest = limited.max(axis=-1, keepdims=True)
    size = limited / xp.where(largest > 0.0, largest, 1.0)
    cosines = cosines.astype(np.float64, copy=False)
    strengths = xp.abs(cosines)
    votes = cosines * strengths
    squares = strengths * strengths
    own = xp.arange(cosines.shape[-1])
    total = squares.sum(axis=-1) - squares[..., own, own]
    pull = votes.sum(axis=-1) - votes[..., own, own]
    agreement = pull / xp.maximum(total, 1e-30)
    return size, agreement


def _logistic(values: Array) -> Array:
    return 1.0 / (1.0 + array_module(values).exp(-values))
