"""The default: a mean within fences that each batch sets itself, with nothing to tune."""

from __future__ import annotations

from dataclasses import dataclass
from math import floor, inf
from typing import Any, NamedTuple

import numpy as np

from chainrob.kernels import array_module, squared_lengths
from chainrob.robustifiers.errors import NotDifferentiableError
from chainrob.robustifiers.gram import row_norms, squares_too_large
from chainrob.robustifiers.pre_aggregation import norms_of
from chainrob.robustifiers.robustifier import Weighting
from chainrob.sample_gradients import SampleGradients
from chainrob.sample_gradients.operator_base import Array

LOW_OF_INPUTS, LOW_OF_SIGNALS, HIGH = 1 / 3, 3 / 8, 0.9
"""The quantiles. The low ones lie below the median because a batch of 32 with 30% bad samples holds
16 of them once in a hundred steps."""

NEAR_INPUTS, NEAR_SIGNALS = 1.65, 4.13
"""Fences over the low quantile. Residuals of a regression are fenced in at two deviations."""

SPREAD_OF_INPUTS, SPREAD_OF_SIGNALS = (1.2, 2.0), (2.0, 6.0)
"""Usual spread of the small values, and the power by which a larger one moves the fence out."""

REACH, POWER, FAR = 4.0, 4.0, 33.0
"""Reach of the tail above which the near fence holds, the power by which a shorter reach moves it
out, and its largest distance over the low quantile."""


FEW = 5
"""With fewer norms below the low quantile their spread is not known, and taken for the usual."""

APART = 10.0
"""Ratio of median to low quantile up to which the fence does not lie below the median."""


@dataclass(frozen=True, repr=False)
class AdaptiveMean(Weighting):
    r"""A mean that shortens samples whose input or signal lies far outside their own batch: the
    default of ``robustify`` and of scikit-learn's estimators.

    A sample's gradient in a layer is the product of an input x and an output gradient s, the
    signal. Both are held against the batch, each by itself:

    .. math::
        \hat g &= \frac1N \sum_n
            \min\Big(1, \frac{F_x}{\lVert x_n \rVert}\Big)^2
            \min\Big(1, \frac{F_s}{\lVert s_n \rVert}\Big)^2 g_n \\
        F_x &= 1.65\, Q_{1/3} \max\Big(1, \frac{B}{1.2}\Big)^2, \qquad
        F_s = Q_{3/8} \max\Big(1, \frac{B}{2}\Big)^6
            \min\Big(33, \max\Big(4.13, 4.13 \big(\tfrac4U\big)^4\Big)\Big)

    Q is a lower quantile of the batch's norms, B is Q over the mean of the norms below it, and U is
    the largest norm over the upper decile. A fence moves out where the small norms spread widely
    (B), as in a network that has learned most samples. The fence of the signals also moves out
    where the largest ones do not reach far beyond the others (U): signals of a classification are
    bounded, and the large ones belong to the samples that are still to be learned. Heavy tails
    reach far, and the fence then lies at two standard deviations of normal residuals. Beyond a
    fence the influence falls as one over the norm. The constants were chosen by experiments on the
    data sets of ``chainrob compare``, two moons and generated data. None is a parameter.

    Where the signals have the form of a softmax with cross entropy, p - e, they are bounded, and
    have no fence. Rounding to 16 bits hides that form. The layers below cannot know it. With
    ``bounded=True`` you say so for all layers, and a rare class, whose signals are all large, is
    learned as in plain training. scikit-learn's classifier says it where its loss is the log loss.

    What it does: bad inputs, heavy tails and outlying responses lose their influence, and a batch
    without them has nearly its plain mean. What it does not do: a wrong label makes an ordinary
    gradient, and nothing here can tell it from a hard sample. See ``suspicion`` for these.

    In a convolution x and s are the sample's whole input and output gradient. Rows of an array, and
    of ``scope='model'`` and ``'unit'``, have no input of their own: their norms take the place of
    s. The quantiles are those of the norms that are not zero. B counts from five norms below Q on.
    Where the median is at most ten times Q, no fence lies below the median. Fewer than 3 rows give
    the plain mean.

    Breakdown point (N - 1) // 2 rows, in the sense that the influence of a row that is sent away
    falls to nothing; rows of zeros do not count. Batches below 16 make rough fences. Equivariant
    under scale, and under rotation of rows, not under translation: zero is the gradient that says
    nothing. Its derivative is not known. Cost: the norms.

    Args:
        bounded: whether the loss bounds the signals at the size of ordinary ones, as cross entropy
            and the absolute loss do. Only inputs have a fence then. Not with a squared loss, nor
            with Huber's where its delta is far above the residuals.

    Example:
        >>> import numpy as np, chainrob
        >>> rows = np.array([[1.0, 0.9], [1.1, 1.0], [0.9, 1.2], [1.0, 1.1], [-1e9, 1e9]])
        >>> bool(np.linalg.norm(chainrob.AdaptiveMean()(rows) - [0.8, 0.84]) < 0.01)
        True

    References:
        C. L. Mallows, On some topics in robustness, 1975 (leverage and residual weighed apart).
        S. P. Karimireddy, L. He and M. Jaggi, Learning from history for Byzantine robust
        optimization, ICML 2021 (clipping). The fences are ours.
    """

    bounded: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.bounded, bool):
            raise ValueError(f"AdaptiveMean: bounded must be True or False, found {self.bounded!r}")

    @property
    def translation_equivariant(self) -> bool:
        return False

    def weights(self, gram: Array) -> Array:
        norms = norms_of(gram, array_module(gram))
        return self._trust(norms, False) / norms.shape[-1]

    def _row_weights(self, gradients: SampleGradients) -> Array:
        sizes = sizes_of(gradients)
        if sizes is not None:
            trust = self._trust(sizes.signals, self.bounded or sizes.from_softmax())
            if gradients.n_samples > 2:
                trust = trust * within(sizes.inputs, fence_of_inputs(sizes.inputs))
            return trust / gradients.n_samples
        found = row_norms(gradients)
        if found.bad is not None and gradients.xp is np and self.nonfinite != "propagate":
            raise squares_too_large()
        # The rows of a bias and of an embedding are signals. Others hold inputs, so need a fence.
        bounded = self.bounded and gradients.of_signals
        weights = self._trust(found.norms, bounded) / gradients.n_samples
        if found.bad is not None:
            weights = gradients.xp.where(found.bad[..., None], np.nan, weights)
        return weights

    def _trust(self, signals: Array, bounded: Any) -> Array:
        """The squared shares (*R, N) of the signals within their fence; 1 where bounded."""
        xp = array_module(signals)
        everywhere = bounded is True or (bounded is not False and xp is np and bounded.all())
        if signals.shape[-1] < 3 or everywhere:
            return xp.ones(signals.shape)
        trust = within(signals, fence_of_signals(signals))
        return trust if bounded is False else xp.where(bounded, 1.0, trust)

    def _pullback(self, gradients: SampleGradients, cotangent: Any) -> tuple[Any, ...]:
        raise NotDifferentiableError(f"the derivative of {self!r} is not known")


class Sizes(NamedTuple):
    """Norms (*R, N), float64, of what a sample's gradients are made of."""

    inputs: Array
    signals: Array
    gy: Array | None
    """The signals themselves, (*R, N, Q), where a sample has one position."""

    def from_softmax(self) -> Array | bool:
        """Whether the signals are those of a softmax, (*R, 1); asked only where it matters."""
        return False if self.gy is None else _from_softmax(self.gy, self.signals)


def sizes_of(gradients: SampleGradients) -> Sizes | None:
    """The norms of inputs and signals of one layer, with or without a bias, else None."""
    weights, *biases = gradients.parameters
    if weights.input_and_signal is None or len(biases) > 1:
        return None
    for one in biases:  # with scope='model' it may be any other parameter of the model
        if not one.of_signals or len(one.shape) > 1 or one.weights not in (None, weights):
            return None
    x, gy = weights.input_and_signal
    flat = getattr(weights, "n_positions", 1) == 1
    return Sizes(lengths(x), lengths(gy), gy if flat else None)


def _from_softmax(gy: Array, signals: Array) -> Array | bool:
    """Whether signals (*R, N, Q) have the form p - e of a cross entropy: (*R, 1).

    Each adds up to zero and has one negative entry. The upper third of the samples is asked: in the
    others rounding may be all that there is. Behind a layer that normalizes, signals add up to zero
    too, but have many negative entries.
    """
    n, q = gy.shape[-2:]
    if q < 2 or n < 3:
        return False
    xp = array_module(gy)
    if xp is np and signals.ndim == 1:
        # One sample tells most other losses apart; on a device the answer would have to be awaited.
        far = signals.argmax()
        if abs(gy[far].sum(dtype=np.float64)) > 1e-4 * signals[far]:
            return False
    rounding = (1e-4 * signals)[..., None]
    sums = xp.abs(gy.sum(axis=-1, dtype=np.float64)) <= rounding[..., 0]
    single = (gy < -rounding).sum(axis=-1) == 1
    asked = signals >= xp.sort(signals, axis=-1)[..., _rank(n, 2 / 3), None]
    return ((sums & single) | ~asked).all(axis=-1, keepdims=True)


def lengths(rows: Array) -> Array:
    """Norms (*R, N), float64, of rows (*R, N, K) of any size."""
    xp = array_module(rows)
    if rows.dtype.itemsize < 8:  # squares of float32 fit into float64
        return xp.sqrt(squared_lengths(rows))
    largest = xp.abs(rows).max(axis=-1, initial=0.0)
    rows = rows / xp.where(largest > 0.0, largest, 1.0)[..., None]
    return xp.sqrt(squared_lengths(rows)) * largest


def fence_of_inputs(norms: Array) -> Any:
    """F_x (*R, 1) of norms (*R, N), a number of norms (N,); the largest norm where that is less, or
    where Q is 0.
    """
    ordered = array_module(norms).sort(norms, axis=-1)
    return _fence(ordered, LOW_OF_INPUTS, NEAR_INPUTS, SPREAD_OF_INPUTS)


def fence_of_signals(norms: Array) -> Any:
    """F_s (*R, 1), likewise."""
    ordered = array_module(norms).sort(norms, axis=-1)
    maths, last = _maths(ordered), ordered.shape[-1] - 1
    high, largest = _ranked(ordered, _rank(last + 1, HIGH)), _ranked(ordered, last)
    reach = maths.where(high > 0.0, largest / maths.where(high > 0.0, high, 1.0), 1.0)
    least = NEAR_SIGNALS * (REACH / reach) ** POWER
    least = maths.minimum(maths.maximum(least, NEAR_SIGNALS), FAR)
    return _fence(ordered, LOW_OF_SIGNALS, least, SPREAD_OF_SIGNALS)


def within(norms: Array, fence: Array) -> Array:
    """The squared share of each norm (*R, N) that lies within the fence (*R, 1)."""
    return (fence / array_module(norms).maximum(norms, fence)) ** 2


def _fence(ordered: Array, share: float, near: Any, spread: tuple[float, float]) -> Any:
    maths, n = _maths(ordered), ordered.shape[-1]
    # A norm of zero says nothing of what is usual: quantiles are those of the others.
    zeros = _zeros(ordered)
    below = maths.maximum(1, maths.floor((n - zeros - 1) * share + 1e-9))
    at = maths.minimum(zeros + below, n - 1)
    low, median = _ranked(ordered, at), _ranked(ordered, zeros + (n - zeros - 1) // 2)
    safe = maths.where(low > 0.0, low, 1.0)
    mean = _ranked((ordered / safe).cumsum(axis=-1), at - 1) / below
    usual, power = spread
    # Bounds keep the quotients finite; what they cut off is beyond every number of use.
    wide = maths.maximum(1.0 / (usual * maths.maximum(mean, 1e-30)), 1.0)
    wide = maths.where(below < FEW, 1.0, wide)
    fence = maths.where(low > 0.0, low * (near * wide**power), inf)
    # A third of small norms is no reason to cut off the rest, unless it is far away.
    fence = maths.where(median <= APART * low, maths.maximum(fence, median), fence)
    largest = _ranked(ordered, n - 1)
    return maths.minimum(fence, maths.where(largest > 0.0, largest, 1.0))


class _Numbers:
    """The functions of arrays that a fence needs, for plain numbers: a tenth of the time."""

    maximum, minimum, floor = staticmethod(max), staticmethod(min), staticmethod(floor)

    @staticmethod
    def where(condition: bool, yes: float, no: float) -> float:
        return yes if condition else no


def _maths(ordered: Array) -> Any:
    return _Numbers if ordered.ndim == 1 and type(ordered) is np.ndarray else array_module(ordered)


def _zeros(ordered: Array) -> Any:
    """How many of ordered numbers (*R, N) are zero, (*R, 1); a number for (N,)."""
    if _maths(ordered) is _Numbers:
        return int(ordered.searchsorted(0.0, side="right"))
    return (ordered == 0.0).sum(axis=-1, keepdims=True)


def _ranked(ordered: Array, at: Any) -> Any:
    """The entries at the places (*R, 1) of ordered numbers (*R, N); for (N,) a number."""
    if isinstance(at, int):
        return ordered.item(at) if _maths(ordered) is _Numbers else ordered[..., at, None]
    xp = array_module(ordered)
    return xp.take_along_axis(ordered, at.astype(np.int64), axis=-1)


def _rank(n: int, share: float) -> int:
    return int((n - 1) * share + 1e-9)
