"""Rows that stick out along the direction of largest variance are removed."""

from __future__ import annotations

from dataclasses import dataclass, field

from chainrob.kernels import array_module
from chainrob.robustifiers.bad_rows import BadRows
from chainrob.robustifiers.caf import principal
from chainrob.robustifiers.parameters import (
    require_integer,
    require_positive,
)
from chainrob.robustifiers.robustifier import Weighting
from chainrob.robustifiers.selection import TIE
from chainrob.sample_gradients.operator_base import Array


@dataclass(frozen=True, repr=False)
class SpectralFilter(BadRows, Weighting):
    r"""Spectral filtering (the filter of Diakonikolas et al.; Sever): again and again, the rows
    farthest from the mean along the first principal component go.

    Until f rows are gone: with the mean :math:`\mu` and the largest eigenvector v of the covariance
    of the rows that are left, remove those of the largest

    .. math:: \tau_i = \langle v, g_i - \mu \rangle^2

    and answer with the mean of the rest. Eigenvectors come from the Gram matrix and are exact. One
    row goes at a time unless ``rounds`` says that the f rows are to go in fewer, equal portions
    (Sever takes 4 rounds), which is cheaper and finds fewer. The published filters remove a random
    share of the rows that stick out, until the variance is below a bound that one has to know; here
    the number of rows is what one has to know, and nothing is random. Rows that tie where a choice
    ends share it.

    Breakdown point f rows, 2f < N, with one row at a time: while any bad row is far away, the one
    of the largest score is bad. With fewer rounds, 0. Equivariant under translation, scale and
    rotation. Cost: one Gram matrix, and the largest eigenpair of an N x N matrix a round.

    Args:
        f: number of rows assumed bad.
        rounds: in how many portions they go, at least 1; None for one row at a time.

    Raises:
        ValueError: f is no integer of at least 0, rounds none of at least 1, or 2f >= N at the
            call.

    Example:
        >>> import numpy as np, chainrob
        >>> rows = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [1e9, 0.0]])
        >>> chainrob.SpectralFilter(f=1)(rows)
        array([0.5, 0.5])

    References:
        I. Diakonikolas, G. Kamath, D. M. Kane, J. Li, A. Moitra and A. Stewart, Being robust (in
        high dimensions) can be practical, ICML 2017. I. Diakonikolas, G. Kamath, D. M. Kane, J. Li,
        J. Steinhardt and A. Stewart, Sever: a robust meta-algorithm for stochastic optimization,
        ICML 2019.
    """

    rounds: int | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rounds is not None:
            require_integer(self, "rounds", 1)

    def weights(self, gram: Array) -> Array:
        kept = array_module(gram).ones(gram.shape[:-1])
        rounds = min(self.f if self.rounds is None else self.rounds, self.f)
        for turn in range(rounds):
            portion = self.f * (turn + 1) // rounds - self.f * turn // rounds
            kept = _without_farthest(gram, kept, portion)
        return kept / kept.sum(axis=-1, keepdims=True)

    def derivative(self, gram: Array, projections: Array) -> tuple[Array, Array | None]:
        # A small move of the rows does not change the choice among them.
        return self.weights(gram), None


@dataclass(frozen=True, repr=False)
class DnC(BadRows, Weighting):
    r"""Divide and conquer (DnC): the mean of the rows that stick out least along the first
    principal component.

    .. math:: \hat g = \frac{1}{\lvert S \rvert} \sum_{i \in S} g_i, \qquad
        S = \text{the } N - \lceil c f \rceil \text{ indices of least } \langle v, g_i - \bar g
        \rangle^2

    with v the largest eigenvector of the covariance of all rows. The paper finds v on random
    subsets of the coordinates, to save memory, and averages the rows that every subset keeps; from
    the Gram matrix v comes from all coordinates at once, so there is nothing to draw and nothing to
    intersect. It is ``SpectralFilter(f, rounds=1)``, with ``multiple`` rows removed for each bad
    one.

    Breakdown point 0: it looks along one direction only, and bad rows may take two (then take
    ``SpectralFilter``). What it was made for, f rows that all pull the same way, it stands at any
    size. Equivariant under translation, scale and rotation. Cost: one Gram matrix and its largest
    eigenpair.

    Args:
        f: number of rows assumed bad.
        multiple: c, how many rows are removed for each bad one; above 0.

    Raises:
        ValueError: f is no integer of at least 0, multiple is no positive number, or 2f >= N or
            c f >= N at the call.

    Example:
        >>> import numpy as np, chainrob
        >>> rows = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [1e9, 0.0]])
        >>> chainrob.DnC(f=1)(rows)
        array([0.5, 0.5])

    References:
        V. Shejwalkar and A. Houmansadr, Manipulating the Byzantine: optimizing model poisoning
        attacks and defenses for federated learning, NDSS 2021.
    """

    multiple: float = field(default=1.0, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "multiple")

    def check(self, n_samples: int) -> None:
        super().check(n_samples)
        if self._n_removed >= n_samples:
            raise ValueError(
                f"DnC: multiple * f must be below the number of samples, found "
                f"{self.multiple!r} * {self.f} with {n_samples} samples"
            )

    @property
    def _n_removed(self) -> int:
        # 1.1 * 10 must remove 11 rows although it is 11.000...2.
        return -int(-(self.multiple * self.f - 1e-9) // 1)

    def weights(self, gram: Array) -> Array:
        kept = array_module(gram).ones(gram.shape[:-1])
        if self.f:
            kept = _without_farthest(gram, kept, self._n_removed)
        return kept / kept.sum(axis=-1, keepdims=True)

    def derivative(self, gram: Array, projections: Array) -> tuple[Array, Array | None]:
        # A small move of the rows does not change the choice among them.
        return self.weights(gram), None


def _without_farthest(gram: Array, kept: Array, count: int) -> Array:
    """``kept`` (*R, N), less ``count`` of the rows farthest out along the first principal component
    of those kept; rows that tie lose the same share of themselves.
    """
    xp = array_module(gram)
    _, along = principal(gram, kept / kept.sum(axis=-1, keepdims=True))
    score = xp.where(kept > 0.0, xp.abs(along), -1.0)
    mine, other, mass = score[..., :, None], score[..., None, :], kept[..., None, :]
    farther = xp.where(other > mine * (1.0 + TIE), mass, 0.0).sum(axis=-1)
    as_far = xp.where(other >= mine * (1.0 - TIE), mass, 0.0).sum(axis=-1) - farther
    share = (count - farther) / xp.where(as_far > 0.0, as_far, 1.0)
    return kept * (1.0 - xp.clip(share, 0.0, 1.0))
