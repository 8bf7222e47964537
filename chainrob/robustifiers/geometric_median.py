"""The point with the least sum of distances to all sample gradients."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from chainrob.kernels import array_module
from chainrob.robustifiers.base import ConvergenceWarning, Weighting
from chainrob.sample_gradients.base import Array


class WeiszfeldResult(NamedTuple):
    """How a Weiszfeld iteration ended."""

    weights: Array
    """(*R, N), non-negative, adding up to one."""
    iterations: int
    converged: bool
    residual: float
    """Length of the last step over the median distance of the rows to the iterate; the largest over
    the replicas."""


@dataclass(frozen=True, repr=False)
class GeometricMedian(Weighting):
    r"""The geometric median, by the smoothed Weiszfeld iteration on the Gram matrix.

    .. math::
        \\hat g = \\arg\\min_z \\sum_i \\lVert g_i - z \\rVert, \\qquad
        w_i \\leftarrow \\frac{1 / d_i}{\\sum_j 1 / d_j}, \\quad
        d_i = \\sqrt{\\lVert g_i - z \\rVert^2 + \\epsilon^2}

    with epsilon = ``smoothing`` times the median distance. Breakdown point (N - 1) // 2 rows.
    Equivariant under translation, scale and rotation. Cost: one Gram matrix, then O(N^2) an
    iteration.

    Args:
        tolerance: stop when a step is shorter than this share of the median distance of the rows to
            the iterate.
        max_iterations: give up after so many steps, with a ConvergenceWarning.
        smoothing: epsilon over the median distance; keeps an iterate that meets a data point
            finite.

    Example:
        >>> import numpy as np, chainrob
        >>> rows = np.array([[0.0, 0.0], [2.0, 0.0], [1.0, 1.0], [1.0, -1.0], [1e9, 1e9]])
        >>> bool(np.linalg.norm(chainrob.GeometricMedian()(rows) - [1, 0]) < 1)
        True

    References:
        E. Weiszfeld, Sur le point pour lequel la somme des distances de n points donnes est
        minimum, 1937. K. Pillutla, S. M. Kakade and Z. Harchaoui, Robust aggregation for federated
        learning, 2022 (smoothing).
    """

    tolerance: float = field(default=1e-8, kw_only=True)
    max_iterations: int = field(default=1000, kw_only=True)
    smoothing: float = field(default=1e-6, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("tolerance", "smoothing"):
            if not 0.0 < getattr(self, name) < 1.0:
                raise ValueError(
                    f"GeometricMedian: {name} must lie strictly between 0 and 1, found {getattr(self, name)!r}"
                )
        if self.max_iterations < 1:
            raise ValueError(
                f"GeometricMedian: max_iterations must be at least 1, found {self.max_iterations!r}"
            )

    def weights(self, gram: Array) -> Array:
        result = self.solve(gram)
        if not result.converged:
            warnings.warn(
                f"{self!r} stopped after {result.iterations} iterations with a step of {result.residual:.2g} of the "
                f"median distance; raise max_iterations or tolerance",
                ConvergenceWarning,
                stacklevel=2,
            )
        return result.weights

    def solve(self, gram: Array) -> WeiszfeldResult:
        """Iterate on a (centred) Gram matrix (*R, N, N) of the rows."""
        xp = array_module(gram)
        n = gram.shape[-1]
        norms = xp.diagonal(gram, axis1=-2, axis2=-1)
        weights = xp.full(gram.shape[:-1], 1.0 / n)
        residual, iteration = np.inf, 0
        for iteration in range(1, self.max_iterations + 1):
            projected = xp.matmul(gram, weights[..., None])[..., 0]
            size = (weights * projected).sum(axis=-1, keepdims=True)
            squares = xp.maximum(norms - 2.0 * projected + size, 0.0)
            middle = xp.median(squares, axis=-1, keepdims=True)
            # All rows at one point: every weighting gives that point, and the equal one is kept.
            smooth = squares + xp.where(middle > 0.0, self.smoothing**2 * middle, 1.0)
            inverse = 1.0 / xp.sqrt(smooth)
            updated = inverse / inverse.sum(axis=-1, keepdims=True)
            step = updated - weights
            moved = (step * xp.matmul(gram, step[..., None])[..., 0]).sum(axis=-1, keepdims=True)
            residual = float(
                xp.sqrt(xp.maximum(moved, 0.0) / xp.where(middle > 0.0, middle, 1.0)).max()
            )
            weights = updated
            if residual <= self.tolerance:
                return WeiszfeldResult(weights, iteration, True, residual)
        return WeiszfeldResult(weights, iteration, False, residual)
