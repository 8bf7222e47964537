"""Affine maps that are fitted to some rows and applied to others."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["MinMaxScaling", "PrincipalComponents"]

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class MinMaxScaling:
    r"""Map every feature of the fitted rows onto the interval [0, 1].

    .. math:: z_j = (x_j - \min_j) / (\max_j - \min_j)

    A feature that is constant over the fitted rows is only shifted (its range counts as 1).

    Args:
        minimum (array): Shape (d,).
        extent (array): Shape (d,), the maximum less the minimum.

    Example:
        >>> from chainrob.datasets import MinMaxScaling
        >>> scaling = MinMaxScaling.fit([[0.0, 5.0], [2.0, 5.0]])
        >>> scaling([[1.0, 5.0], [4.0, 6.0]]).tolist()
        [[0.5, 0.0], [2.0, 1.0]]
    """

    minimum: Array
    extent: Array

    @classmethod
    def fit(cls, x: ArrayLike) -> MinMaxScaling:
        """Fit to the rows of ``x``, shape (n, d), n at least 1."""
        rows = _rows(x, 1)
        minimum = rows.min(axis=0)
        extent = rows.max(axis=0) - minimum
        return cls(minimum, np.where(extent > 0, extent, 1.0))

    def __call__(self, x: ArrayLike) -> Array:
        """Scale rows of shape (..., d)."""
        return (np.asarray(x, dtype=np.float64) - self.minimum) / self.extent


@dataclass(frozen=True, eq=False)
class PrincipalComponents:
    r"""Project onto the leading principal components of the fitted rows.

    .. math:: z_j = v_j^\top (x - \bar x) / \sigma_j

    with v_j the j-th right singular vector of the centred rows, its largest entry positive (so
    that the sign is defined), and sigma_j the standard deviation of the fitted rows along it
    (divisor n - 1) when whitened, else 1.

    Args:
        mean (array): Shape (d,).
        directions (array): Shape (k, d), orthonormal rows.
        deviations (array): Shape (k,).

    Example:
        >>> import numpy as np
        >>> from chainrob.datasets import PrincipalComponents, load_iris
        >>> x = load_iris().x
        >>> z = PrincipalComponents.fit(x, 2)(x)
        >>> np.allclose(np.cov(z.T), np.eye(2))
        True
    """

    mean: Array
    directions: Array
    deviations: Array

    @classmethod
    def fit(cls, x: ArrayLike, components: int, whiten: bool = True) -> PrincipalComponents:
        """Fit to the rows of ``x``, shape (n, d).

        Raises:
            ValueError: If there are fewer than 2 rows, if components is not in 1 .. min(n - 1, d),
                or if whitening would divide by a deviation of zero.
        """
        rows = _rows(x, 2)
        n, d = rows.shape
        if not 1 <= components <= min(n - 1, d):
            raise ValueError(
                f"components must be between 1 and min(n - 1, d) = {min(n - 1, d)}, "
                f"found {components}"
            )
        mean = rows.mean(axis=0)
        _, singular, directions = np.linalg.svd(rows - mean, full_matrices=False)
        directions = directions[:components]
        largest = np.abs(directions).argmax(axis=1)
        signs = np.sign(directions[np.arange(components), largest])
        deviations = singular[:components] / np.sqrt(n - 1)
        if not whiten:
            deviations = np.ones(components)
        elif deviations[-1] <= np.finfo(np.float64).eps * max(n, d) * deviations[0]:
            raise ValueError(
                f"the rows vary along fewer than components={components} directions, so the last "
                "one cannot be whitened"
            )
        return cls(mean, directions * signs[:, None], deviations)

    def __call__(self, x: ArrayLike) -> Array:
        """Project rows of shape (..., d) to (..., k)."""
        centred = np.asarray(x, dtype=np.float64) - self.mean
        projected: Array = centred @ self.directions.T / self.deviations
        return projected


def _rows(x: ArrayLike, at_least: int) -> Array:
    rows = np.asarray(x, dtype=np.float64)
    if rows.ndim != 2 or rows.shape[0] < at_least or rows.shape[1] < 1:
        raise ValueError(
            f"x must have shape (n, d) with n >= {at_least} and d >= 1, found shape {rows.shape}"
        )
    if not np.isfinite(rows).all():
        raise ValueError("x must be finite, found NaN or infinity")
    return rows
