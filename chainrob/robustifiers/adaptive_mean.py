"""The default: a mean whose weights come from what a batch says of itself, with nothing to tune."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod, sqrt
from typing import Any, NamedTuple

import numpy as np

from chainrob.kernels import adaptive_weights, array_module
from chainrob.robustifiers.errors import NotDifferentiableError
from chainrob.robustifiers.gram import gram_matrix
from chainrob.robustifiers.pre_aggregation import norms_of
from chainrob.robustifiers.robustifier import Weighting
from chainrob.sample_gradients import Joined, OuterProducts, SampleGradients
from chainrob.sample_gradients.operator_base import Array

Fence = tuple[float, float, float, float]

LEVERAGE_FENCE: Fence = 1 / 3, 1.65, 1.2, 2.0
"""q, a, b and k of the fence of the inputs. Long inputs of clean data are not far off. The fence
rests on the lower third, not on the lower half: a batch of 32 with 30% bad samples holds 16 of them
once in a hundred steps."""

SIGNAL_FENCE: Fence = 3 / 8, 4.13, 2.0, 6.0
"""The same for output gradients. The small residuals of a regression lie evenly between zero and
their quantile. Then the spread B is 2, and the fence lies at two standard deviations. Most samples
of a trained classifier have next to no signal, and those that have one are no outliers. Then the
spread is larger, and the fence is far off."""

AGREEMENT = 12.0
"""Slope of the weight in the agreement."""

SUSPICION = 20.0
"""Slope, in the agreement of the batch, of the power to which large signals are weighed down."""

POWER = 0.5
"""That power in a batch that is surely contaminated."""

SHARE = 0.99
"""How much of the largest signal it takes away at power 1: not all, or it would at any power."""

LEFT = 0.1
"""What is left to a sample whatever the others say: a group that the network has not found yet
looks like wrong labels, and would never be learned."""

CONSTANTS = AGREEMENT, SUSPICION, POWER, SHARE, LEFT


@dataclass(frozen=True, repr=False)
class AdaptiveMean(Weighting):
    r"""A mean that weighs samples by leverage, signal and agreement, each against the batch itself:
    the default of ``robustify`` and of scikit-learn's estimators.

    A sample's gradient in a layer is the product of an input x and an output gradient s, and they
    tell different things. A long x is a bad input, whatever the label. A long s is a sample that is
    not fitted: one to learn from, or one with a wrong label; the other samples tell which. With
    :math:`F(u) = a\, Q(u) \max(1, B(u) / b)^k` a fence. Q is a lower quantile of the batch, and B
    is Q over the mean of what lies below it: the wider the small values spread, the farther out
    the fence is.

    .. math::
        \ell_n &= \min\Big(1, \frac{F(\lVert x \rVert)}{\lVert x_n \rVert}\Big)^2
            \min\Big(1, \frac{F(\lVert s \rVert)}{\lVert s_n \rVert}\Big)^2, \qquad
        r_n = \frac{\min(\lVert s_n \rVert, F)}{\max_m \min(\lVert s_m \rVert, F)}, \\
        v_n &= \frac{\sum_{m \ne n} c_{nm} \lvert c_{nm} \rvert}{\sum_{m \ne n} c_{nm}^2}, \qquad
        V = \frac{\sum_n r_n v_n}{\sum_n r_n}, \\
        \rho_n &= \max\Big(0.1,\ \big(1 - r_n\, \sigma(-12\, (v_n + V))\big)\,
            (1 - 0.99\, r_n)^{\sigma(-20 V) / 2}\Big), \qquad
        \hat g = \frac1N \sum_n \ell_n \frac{\rho_n}{\bar\rho}\, g_n

    with c the cosines between the samples' gradients, about the batch's mean input, sigma the
    logistic function and :math:`\bar\rho` the mean of rho weighted by :math:`\ell`. So v says
    whether those whose gradients are like a sample's pull the same way or against it, and V whether
    the samples that are not fitted are on the whole opposed, as wrong labels are. A sample whose
    signal is small, or with which others agree, keeps its weight. The fences' constants are Q at
    1/3, a = 1.65, b = 1.2, k = 2 for inputs and Q at 3/8, 4.13, 2, 6 for signals: twice the
    standard deviation where the signals are normal residuals. None is a parameter. They were chosen
    by experiments on the data sets of ``chainrob compare``, two moons and generated data.

    What it does not do: it cannot tell a wrong label that the network has already learned, and a
    contamination of half the batch and more looks ordinary to it. A sample that is far less fitted
    than the others weighs less than in the plain mean even in a clean batch, and a group that few
    belong to is learned later, for at first it looks like wrong labels: clean data may want a
    larger rate. In a convolution x and s are the sample's whole input and output gradient, and the
    cosines are those of the gradients. The rows of an array, and of ``scope='model'``, are judged
    by their norms and cosines alone. Fewer than 3 rows: the plain mean.

    Breakdown point (N - 1) // 2 rows and more, in the sense that the influence of a row that is
    sent away falls to nothing. Equivariant under scale and rotation, not under translation: zero is
    the gradient that says nothing. Its derivative is not known. Cost: two products for N x N
    cosines; a training step takes 1.3 to 1.45 times the plain one's time, of networks 64-64-10 and
    784-100 with N = 64 and 784-1000 with N = 256.

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
        return weigh(_of_gram(gram))

    def _row_weights(self, gradients: SampleGradients) -> Array:
        factors = _factors(gradients)
        if factors is not None:
            return _weights_of(factors)
        gram = gram_matrix(gradients, centered=False, propagate=self.nonfinite == "propagate")
        weights = weigh(_of_gram(gram.products, _sizes(gradients)))
        if gram.bad is not None:
            weights = gradients.xp.where(gram.bad[..., None], np.nan, weights)
        return weights

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
        evidence = _of_gram(gram.products, _sizes(gradients))
    else:
        evidence = look(factors)
    size, agreement = _size_and_agreement(evidence)
    return 0.5 * size * (1.0 - agreement)


class Evidence(NamedTuple):
    """What the weights come from."""

    trust: Array
    """l, (*R, N)."""
    limited: Array
    """min(|s|, F), (*R, N)."""
    cosines: Array
    """c, (*R, N, N), with zeros for a sample with itself."""


class Sizes(NamedTuple):
    """Norms (*R, N) of what a sample's gradients are made of."""

    leverages: Array
    signals: Array


def _sizes(gradients: SampleGradients) -> Sizes | None:
    """The norms of inputs and output gradients of one layer with or without a bias, else None."""
    parts = gradients.parts if isinstance(gradients, Joined) else (gradients,)
    pair, n_biases = parts[0].input_and_signal, len(parts) - 1
    if pair is None or n_biases > 1 or any(len(part.shape) > 1 for part in parts[1:]):
        return None
    xp = gradients.xp
    leverages, signals = (_Lengths(array, xp).norms for array in pair)
    if n_biases:  # one more input that is 1, at every position
        leverages = xp.hypot(leverages, sqrt(parts[0].n_positions))
    return Sizes(leverages, signals)


def _of_gram(gram: Array, sizes: Sizes | None = None) -> Evidence:
    """From the Gram matrix of the rows, and from what makes a row long where that is known."""
    xp = array_module(gram)
    norms = norms_of(gram, xp)
    safe = xp.where(norms > 0.0, norms, 1.0)
    cosines = _without_own(gram / safe[..., :, None] / safe[..., None, :])
    signals = norms if sizes is None else sizes.signals
    limit = fence_of(signals, SIGNAL_FENCE)
    trust = within(signals, limit)
    if sizes is not None:
        trust = trust * within(sizes.leverages, fence_of(sizes.leverages, LEVERAGE_FENCE))
    return Evidence(trust, xp.minimum(signals, limit), cosines)


def _weights_of(factors: Factors) -> Array:
    """The weights of a layer's samples: compiled, or by the array code that defines them."""
    x, gy, bias = factors
    xp, n = array_module(gy), gy.shape[-2]
    if n < 3:
        return weigh(look(factors))
    lead = np.broadcast_shapes(x.shape[:-2], gy.shape[:-2]) if x.ndim + gy.ndim > 4 else ()
    if gy.shape[:-2] != lead:
        gy = xp.broadcast_to(gy, (*lead, *gy.shape[-2:]))
    if x.shape[:-2] != lead and prod(x.shape[:-2]) > 1:
        x = xp.broadcast_to(x, (*lead, *x.shape[-2:]))
    weights = adaptive_weights(
        x.reshape((prod(x.shape[:-2]), n, x.shape[-1])),
        gy.reshape((prod(lead), n, gy.shape[-1])),
        bias,
        LEVERAGE_FENCE,
        SIGNAL_FENCE,
        CONSTANTS,
    )
    return weigh(look(factors)) if weights is None else weights.reshape((*lead, n))


def look(factors: Factors) -> Evidence:
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
    return Evidence(trust, xp.minimum(signals.norms, limit), _without_own(products * directions))


def _without_own(cosines: Array) -> Array:
    """Zeros in place of what a sample has with itself."""
    return array_module(cosines).where(np.eye(cosines.shape[-1], dtype=bool), 0.0, cosines)


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
    """F of the sizes (*R, N): (*R, 1); never beyond the largest, and that where Q is 0."""
    xp = array_module(sizes)
    share, least, spread, power = fence
    below = count_below(sizes.shape[-1], share)
    ordered = xp.sort(sizes, axis=-1)
    quantile, largest = ordered[..., below, None], ordered[..., -1:]
    lower = ordered[..., :below] / xp.where(quantile > 0.0, quantile, 1.0)
    lower = xp.maximum(lower.sum(axis=-1, keepdims=True), 1e-30)
    wide = xp.maximum(below / (spread * lower), 1.0)
    limit = xp.where(quantile > 0.0, quantile * least * wide**power, xp.inf)
    return xp.minimum(limit, xp.where(largest > 0.0, largest, 1.0))


def count_below(n: int, share: float) -> int:
    """How many of n values lie below the fence's quantile; one at least."""
    return max(1, min(n - 1, int((n - 1) * share + 1e-9)))


def weigh(evidence: Evidence) -> Array:
    """The weights (*R, N) of the estimate's sum."""
    trust = evidence.trust
    xp, n = array_module(trust), trust.shape[-1]
    if n < 3:
        return xp.full(trust.shape, 1.0 / n)
    size, agreement = _size_and_agreement(evidence)
    mass = size.sum(axis=-1, keepdims=True)
    overall = (size * agreement).sum(axis=-1, keepdims=True) / xp.where(mass > 0.0, mass, 1.0)
    opposed = _logistic(-AGREEMENT * (agreement + overall))
    power = POWER * _logistic(-SUSPICION * overall)
    kept = xp.maximum((1.0 - size * opposed) * (1.0 - SHARE * size) ** power, LEFT)
    mean = (trust * kept).sum(axis=-1, keepdims=True) / trust.sum(axis=-1, keepdims=True)
    return trust * kept / mean / n


def _size_and_agreement(evidence: Evidence) -> tuple[Array, Array]:
    """r and v, each (*R, N)."""
    limited, cosines = evidence.limited, evidence.cosines
    xp = array_module(cosines)
    largest = limited.max(axis=-1, keepdims=True)
    size = limited / xp.where(largest > 0.0, largest, 1.0)
    cosines = cosines.astype(np.float64, copy=False)
    total = (cosines * cosines).sum(axis=-1)
    pull = (cosines * xp.abs(cosines)).sum(axis=-1)
    return size, pull / xp.maximum(total, 1e-30)


def _logistic(values: Array) -> Array:
    return 1.0 / (1.0 + array_module(values).exp(-values))
