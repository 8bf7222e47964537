"""A few steps towards the mean, in which no row may pull farther than a radius."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import ldexp
from sys import float_info
from typing import Any, Literal

from chainrob.kernels import array_module
from chainrob.kernels import centered_clipping as compiled
from chainrob.robustifiers.parameters import require_choice, require_integer, require_positive
from chainrob.robustifiers.robustifier import Weighting
from chainrob.robustifiers.selection import TIE, smallest
from chainrob.robustifiers.trimming import median_derivative
from chainrob.sample_gradients.operator_base import Array, squared_distances


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
        radius: tau, in units of one sample's loss gradient; None for the median distance. With a
            radius, float64 gradients on a device are waited for: their unit is one number.
        iterations: number of steps, at least 1.
        start: ``'medoid'`` or ``'zero'``.

    Raises:
        ValueError: a radius that is no positive number, fewer than one iteration, or an unknown
            start; at the call, a radius below 2^-1022 of the typical gradient.

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

    def scaled_by(self, exponent: Any) -> CenteredClipping:
        if self.radius is None:
            return self
        exponent = int(exponent)  # on a device this waits, where gradients are float64
        if exponent == 0:
            return self
        try:
            radius = ldexp(self.radius, -exponent)
        except OverflowError:
            radius = float_info.max  # which no row is away
        if radius < float_info.min:
            raise ValueError(
                f"CenteredClipping: radius must be at least 2**-1022 of the typical sample "
                f"gradient, found radius={self.radius!r} with gradients of about 2**{exponent}"
            )
        return replace(self, radius=radius)

    def weights(self, gram: Array) -> Array:
        weights = self._first(gram)
        for _ in range(self.iterations):
            weights = self._step(gram, weights)[0]
        return weights

    def compiled_weights(self, gram: Array) -> Array | None:
        n = gram.shape[-1]
        tie = TIE if self.start == "medoid" else None
        weights = compiled(gram.reshape(-1, n, n), self.radius, self.iterations, tie)
        return None if weights is None else weights.reshape(gram.shape[:-1])

    def derivative(self, gram: Array, projections: Array) -> tuple[Array, Array | None]:
        """Reverse mode through the iterations: exact for any number of them, and at convergence
        what the implicit function theorem gives.
        """
        xp = array_module(gram)
        n = gram.shape[-1]
        path = [self._first(gram)]
        for _ in range(self.iterations):
            path.append(self._step(gram, path[-1])[0])
        of_gram = xp.zeros_like(gram)
        of_weights = projections
        for weights in reversed(path[:-1]):
            _, clip, distances, far = self._step(gram, weights)
            of_clip = (of_weights - (of_weights * weights).sum(axis=-1, keepdims=True)) / n
            of_weights = of_weights * (1.0 - clip.mean(axis=-1, keepdims=True))
            # clip = radius / distance where far, and the radius may be a median of the distances.
            safe = xp.where(distances > 0.0, distances, 1.0)
            of_distances = xp.where(far, -of_clip * clip / safe, 0.0)
            if self.radius is None:
                of_radius = xp.where(far, of_clip / safe, 0.0).sum(axis=-1, keepdims=True)
                middle = median_derivative(distances[..., None])[..., 0]
                of_distances = of_distances + of_radius * middle
            of_squares = xp.where(distances > 0.0, of_distances / (2.0 * safe), 0.0)
            total = of_squares.sum(axis=-1, keepdims=True)
            of_gram = of_gram + of_squares[..., None] * xp.eye(n)
            rest = total * weights - 2.0 * of_squares
            of_gram = of_gram + rest[..., :, None] * weights[..., None, :]
            inner = xp.matmul(gram, (total * weights - of_squares)[..., None])[..., 0]
            of_weights = of_weights + 2.0 * inner
        return path[-1], of_gram + of_gram.swapaxes(-1, -2)

    def _first(self, gram: Array) -> Array:
        """Weights of the vector that the iteration starts from."""
        if self.start == "medoid":
            return medoid(gram)
        return array_module(gram).zeros(gram.shape[:-1])

    def _step(self, gram: Array, weights: Array) -> tuple[Array, Array, Array, Array]:
        """One iteration: new weights, clipping factors, distances, and which rows are clipped."""
        xp = array_module(gram)
        norms = xp.diagonal(gram, axis1=-2, axis2=-1)
        projected = xp.matmul(gram, weights[..., None])[..., 0]
        size = (weights * projected).sum(axis=-1, keepdims=True)
        distances = xp.sqrt(xp.maximum(norms - 2.0 * projected + size, 0.0))
        if self.radius is None:
            radius = xp.median(distances, axis=-1, keepdims=True)
        else:
            radius = self.radius
        far = distances > radius
        clip = xp.where(far, radius / xp.where(far, distances, 1.0), 1.0)
        weights = weights * (1.0 - clip.mean(axis=-1, keepdims=True)) + clip / gram.shape[-1]
        return weights, clip, distances, far


def medoid(gram: Array) -> Array:
    """All weight on the row with the least median distance to the rows, shared where rows tie."""
    n = gram.shape[-1]
    distances = squared_distances(gram)
    radii = array_module(gram).partition(distances, n // 2, axis=-1)[..., n // 2]
    chosen = smallest(radii, 1, tie=TIE)
    return chosen / chosen.sum(axis=-1, keepdims=True)
