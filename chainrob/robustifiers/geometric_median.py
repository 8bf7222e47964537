"""The point with the least sum of distances to all sample gradients."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from chainrob.kernels import array_module, geometric_median
from chainrob.robustifiers.convergence import report
from chainrob.robustifiers.parameters import require_integer, require_open_unit
from chainrob.robustifiers.robustifier import ConvergenceWarning, NotDifferentiableError, Weighting
from chainrob.sample_gradients.operator_base import Array, squared_distances

SAME = 16.0 * float(np.finfo(np.float64).eps)
"""Rows whose squared distance is below this share of their squared sizes are the same row."""


def geometric_median_by_arrays(
    gram: Array, tolerance: float, max_iterations: int, smoothing: float
) -> Array:
    """The weights (*R, N) of geometric medians, in array code: the definition that the compiled
    forms meet, which take Newton steps besides and stop sooner.

    Weiszfeld's iteration from the mean of the rows. Where the unit vectors from a row to all others
    add up to less than one, that row is the minimum itself (Vardi and Zhang); equal rows share it.

    Args:
        gram: inner products (*R, N, N) of the rows, about a point of the size of their differences.
        tolerance, max_iterations, smoothing: those of ``GeometricMedian``.
    """
    xp = array_module(gram)
    n = gram.shape[-1]
    weights = xp.full(gram.shape[:-1], 1.0 / n)
    if n <= 2:  # of all points between two rows the middle is taken
        return weights
    squares = squared_distances(gram)
    medians = xp.partition(squares, n // 2, axis=-1)[..., n // 2]
    unit = xp.sqrt(medians.min(axis=-1, keepdims=True))
    norms = xp.diagonal(gram, axis1=-2, axis2=-1)
    apart = squares > SAME * (norms[..., :, None] + norms[..., None, :])
    inverse = xp.where(apart, 1.0 / xp.sqrt(xp.where(apart, squares, 1.0)), 0.0)
    # Row k of this holds the coefficients of the sum of the unit vectors from row k to the others.
    sums = inverse - inverse.sum(axis=-1, keepdims=True) * xp.eye(n)
    pulls = xp.sqrt(xp.maximum((xp.matmul(sums, gram) * sums).sum(axis=-1), 0.0))
    at_row = pulls < (n - apart.sum(axis=-1)) * (1.0 - 1e-12)
    for _ in range(max_iterations):
        # |g_i - z|^2 of the point z = sum_j w_j g_j, from the distances between the rows.
        to_rows = xp.matmul(squares, weights[..., None])[..., 0]
        scatter = 0.5 * (weights * to_rows).sum(axis=-1, keepdims=True)
        distances = xp.sqrt(xp.maximum(to_rows - scatter, 0.0) + (smoothing * unit) ** 2)
        nearer = 1.0 / xp.where(distances > 0.0, distances, 1.0)
        step = nearer / nearer.sum(axis=-1, keepdims=True) - weights
        weights = weights + step
        length = -0.5 * (step * xp.matmul(squares, step[..., None])[..., 0]).sum(axis=-1)
        if not bool((xp.sqrt(xp.maximum(length, 0.0)) > tolerance * unit[..., 0]).any()):
            break
    shared = at_row / xp.maximum(at_row.sum(axis=-1, keepdims=True), 1)
    return xp.where(at_row.any(axis=-1, keepdims=True), shared, weights)


class WeiszfeldResult(NamedTuple):
    """How a Weiszfeld iteration ended."""

    weights: Array
    """(*R, N), non-negative, adding up to one."""
    iterations: Any
    converged: Any
    residual: Any
    """Length of the last Newton step over the median distance of the rows to the most central one;
    the largest over the replicas."""


@dataclass(frozen=True, repr=False)
class GeometricMedian(Weighting):
    r"""The geometric median, by Weiszfeld and Newton steps on the Gram matrix.

    .. math::
        \hat g = \arg\min_z \sum_i \lVert g_i - z \rVert, \qquad
        w_i \leftarrow \frac{1 / d_i}{\sum_j 1 / d_j}, \quad
        d_i = \sqrt{\lVert g_i - z \rVert^2 + \epsilon^2}

    with epsilon = ``smoothing`` times the median distance of the rows to the most central one, the
    unit of ``tolerance`` too. Each Weiszfeld step is followed by a Newton step with a line search,
    so a handful of iterations gives all digits where Weiszfeld's alone would take thousands. Where
    the minimum is one of the rows, that row is the answer, exactly.

    Breakdown point (N - 1) // 2 rows. Equivariant under translation, scale and rotation. Cost: one
    Gram matrix, then O(N^2) an iteration.

    Args:
        tolerance: stop when a Newton step is shorter than this share of the unit; what is left is
            of the order of its square.
        max_iterations: give up after so many steps of either kind, with a ConvergenceWarning.
        smoothing: epsilon over the unit; keeps an iterate that meets a row finite.

    Example:
        >>> import numpy as np, chainrob
        >>> rows = np.array([[0.0, 0.0], [2.0, 0.0], [1.0, 1.0], [1.0, -1.0], [1e9, 1e9]])
        >>> bool(np.linalg.norm(chainrob.GeometricMedian()(rows) - [1, 0]) < 1)
        True

    References:
        E. Weiszfeld, Sur le point pour lequel la somme des distances de n points donnes est
        minimum, 1937. Y. Vardi and C.-H. Zhang, The multivariate L1-median and associated data
        depth, PNAS 2000 (a row as the minimum). K. Pillutla, S. M. Kakade and Z. Harchaoui, Robust
        aggregation for federated learning, 2022 (smoothing).
    """

    tolerance: float = field(default=1e-8, kw_only=True)
    max_iterations: int = field(default=1000, kw_only=True)
    smoothing: float = field(default=1e-9, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("tolerance", "smoothing"):
            require_open_unit(self, name)
        require_integer(self, "max_iterations", 1)

    def weights(self, gram: Array) -> Array:
        result = self.solve(gram)
        if array_module(gram) is not np:
            report(self, (~result.converged).astype(np.int32))
        elif not result.converged:
            warnings.warn(
                f"{self!r} stopped after {result.iterations} iterations with a step of "
                f"{result.residual:.2g} of the median distance; raise max_iterations or tolerance",
                ConvergenceWarning,
                stacklevel=2,
            )
        return result.weights

    def derivative(self, gram: Array, projections: Array) -> tuple[Array, Array | None]:
        """By the implicit function theorem at the minimum z, where sum_i r_i / d_i = 0.

        With r_i = g_i - z and the Hessian H = sum_i (I / d_i - r_i r_i^T / d_i^3), the cotangent of
        row n is (I / d_n - r_n r_n^T / d_n^3) u, H u = v. Since u lies in the span of v and the
        rows, H is inverted there, as an N x N matrix (Woodbury). Where the minimum is one of the
        rows, it moves with that row and no other; equal rows share this.
        """
        xp = array_module(gram)
        n = gram.shape[-1]
        if n == 1:  # the row itself
            return xp.ones(gram.shape[:-1]), None
        along = projections[..., None]
        squares = xp.maximum(xp.diagonal(gram, axis1=-2, axis2=-1), 0.0)
        middle = xp.median(squares, axis=-1, keepdims=True)
        if bool((middle == 0.0).any()):
            raise NotDifferentiableError(
                f"{self!r}: more than half of the rows coincide, and the geometric median is their "
                f"common point, where it has no derivative"
            )
        at_row = _sits_at(gram, squares, (100.0 * self.smoothing) ** 2 * middle)
        any_at_row = at_row.any(axis=-1, keepdims=True)
        smooth = xp.where(any_at_row, middle, squares + self.smoothing**2 * middle)
        distances = xp.sqrt(smooth)[..., None]
        inverse = 1.0 / distances
        total = inverse.sum(axis=-2, keepdims=True)
        cubes = distances**3
        matrix = cubes * xp.eye(n) - xp.where(any_at_row[..., None], 0.0, gram / total)
        self._require_unique(matrix, cubes, any_at_row)
        solved = xp.linalg.solve(matrix, along) / total**2
        turned = along / total + xp.matmul(gram, solved)
        mixing = inverse * solved.swapaxes(-1, -2) - (turned / cubes) * xp.eye(n)
        share = at_row / xp.maximum(at_row.sum(axis=-1, keepdims=True), 1)
        mixing = xp.where(any_at_row[..., None], 0.0, mixing)
        return xp.where(any_at_row, share, (inverse / total)[..., 0]), mixing

    def _require_unique(self, matrix: Array, cubes: Array, at_row: Array) -> None:
        """Refuse where the Hessian is singular: rows on a line, with a whole stretch of minima."""
        xp = array_module(matrix)
        roots = xp.sqrt(cubes)
        smallest = xp.linalg.eigvalsh(matrix / roots / roots.swapaxes(-1, -2))[..., :1]
        if bool(((smallest < 1e-6) & ~at_row).any()):
            raise NotDifferentiableError(
                f"{self!r}: the rows lie on one line (a single coordinate, say), where an even "
                f"number of them has no unique geometric median and the estimate no derivative; "
                f"join more coordinates (scope='layer'), or use CoordinateMedian"
            )

    def solve(self, gram: Array) -> WeiszfeldResult:
        """Iterate on a (centered) Gram matrix (*R, N, N) of the rows.

        On a device the whole result stays there, arrays without axes in place of numbers.
        """
        xp = array_module(gram)
        n = gram.shape[-1]
        weights, iterations, residuals = geometric_median(
            gram.reshape(-1, n, n), self.tolerance, self.max_iterations, self.smoothing
        )
        weights = weights.reshape(gram.shape[:-1])
        if not len(residuals):
            return WeiszfeldResult(weights, 0, True, 0.0)
        if xp is np:
            residual, iteration = max(residuals.tolist()), max(iterations.tolist())
        else:
            residual, iteration = residuals.max(), iterations.max()
        converged = (residual <= self.tolerance) | (iteration < self.max_iterations)
        return WeiszfeldResult(weights, iteration, converged, residual)


def _sits_at(about: Array, squares: Array, near: Array) -> Array:
    """The rows, (*R, N) booleans, that the minimum lies on; none where it lies between rows.

    It lies on rows whose number is at least the length of the sum of the unit vectors towards all
    others.

    Args:
        about: Gram matrix of the rows relative to the minimum.
        squares: its diagonal.
        near: squared distance up to which a row is a candidate, (*R, 1).
    """
    xp = array_module(about)
    candidates = squares <= near
    pulls = xp.where(candidates, 0.0, 1.0 / xp.sqrt(xp.where(candidates, 1.0, squares)))
    pull = (pulls * xp.matmul(about, pulls[..., None])[..., 0]).sum(axis=-1, keepdims=True)
    return candidates & (pull <= candidates.sum(axis=-1, keepdims=True) ** 2)
