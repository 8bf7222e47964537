"""A few steps towards the mean, in which no row may pull farther than a radius."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import ldexp
from typing import Literal

from chainrob.kernels import array_module
from chainrob.robustifiers.base import Weighting
from chainrob.robustifiers.parameters import require_choice, require_integer, require_positive
from chainrob.robustifiers.selection import TIE, smallest
from chainrob.sample_gradients.base import Array, squared_distances


@dataclass(frozen=True, repr=False)
class CenteredClipping(Weighting):
    r"""Centered clipping: v moves to the mean of the rows, each clipped to a ball around v.

    .. math:: v \leftarrow v + \frac1N \sum_i (g_i - v)
        \min\Big(1, \frac{\tau}{\lVert g_i - v \rVert}\Big)

    for a fixed number of iterations. In the paper v starts at the last round's aggregate; a
    robustifier has no memory, so v starts at the row with the least median distance to the others
    (``start='medoid'``; rows that tie are averaged), or at the origin (``start='zero'``), where
    clipping is that of norms.

    Breakdown point (N - 1) // 2 rows: the start lies within the good rows' diameter of one of them,
    and a bad row pulls by tau / N at most in each iteration. With ``radius=None`` tau is the median
    distance of the rows to v, anew in each iteration, and the estimator is scale-equivariant.
    Equivariant under translation (not with ``start='zero'``) and rotation. Cost: one Gram matrix,
    then O(N^2) an iteration.

    Args:
        radius: tau, in units of one sample's loss gradient; None for the median distance.
        iterations: number of steps, at least 1.
        start: ``'medoid'`` or ``'zero'``.

    Raises:
        ValueError: a radius that is no positive number, fewer than one iteration, or an unknown
            start.

    Example:
        >>> import numpy as np, chainrob
        >>> rows = np.array([[0.0], [1.0], [2.0], [3.0], [1e9]])
        >>> bool(abs(chainrob.CenteredClipping()(rows)[0] - 1.5) < 1)
        True

    References:
        S. P. Karimireddy, L. He and M. Jaggi, Learning from history for Byzantine robust
        optimization, ICML 2021.
    """

    radius: float | None = None
    iterations: int = field(default=5, kw_only=True)
    start: Literal["medoid", "zero"] = field(default="medoid", kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.radius is not None:
            require_positive(self, "radius")
        require_integer(self, "iterations", 1)
        require_choice(self, "start", ("medoid", "zero"))

    @property
    def translation_equivariant(self) -> bool:
        return self.start != "zero"

    def in_units(self, exponent: int) -> CenteredClipping:
        if self.radius is None or exponent == 0:
            return self
        return replace(self, radius=ldexp(self.radius, -exponent))

    def weights(self, gram: Array) -> Array:
        xp = array_module(gram)
        n = gram.shape[-1]
        norms = xp.diagonal(gram, axis1=-2, axis2=-1)
        weights = medoid(gram) if self.start == "medoid" else xp.zeros(gram.shape[:-1])
        for _ in range(self.iterations):
            projected = xp.matmul(gram, weights[..., None])[..., 0]
            size = (weights * projected).sum(axis=-1, keepdims=True)
            distances = xp.sqrt(xp.maximum(norms - 2.0 * projected + size, 0.0))
            if self.radius is None:
                radius = xp.median(distances, axis=-1, keepdims=True)
            else:
                radius = self.radius
            near = distances <= radius
            clip = xp.where(near, 1.0, radius / xp.where(near, 1.0, distances))
            weights = weights * (1.0 - clip.mean(axis=-1, keepdims=True)) + clip / n
        return weights


def medoid(gram: Array) -> Array:
    """All weight on the row with the least median distance to the rows, shared where rows tie."""
    n = gram.shape[-1]
    distances = squared_distances(gram)
    radii = array_module(gram).partition(distances, n // 2, axis=-1)[..., n // 2]
    chosen = smallest(radii, 1, tie=TIE)
    return chosen / chosen.sum(axis=-1, keepdims=True)
