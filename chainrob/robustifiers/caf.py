"""Rows that stick out along the direction of largest variance are weighed down, again and again."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from chainrob.kernels import array_module, largest_eigenpair
from chainrob.robustifiers.bad_rows import BadRows
from chainrob.robustifiers.robustifier import Weighting
from chainrob.sample_gradients.operator_base import Array


@dataclass(frozen=True, repr=False)
class CAF(BadRows, Weighting):
    r"""Covariance-bound agnostic filter (CAF).

    From weights c_i = 1, repeat until they add up to at most N - 2f: take the weighted mean
    :math:`\mu`, the largest eigenvalue :math:`\lambda` and its eigenvector v of the weighted
    covariance, and

    .. math:: c_i \leftarrow c_i \Big(1 - \frac{\tau_i}{\max_{j: c_j > 0} \tau_j}\Big), \qquad
        \tau_i = \langle v, g_i - \mu \rangle^2

    The estimate is the mean with the least :math:`\lambda` met. Eigenvectors come from the Gram
    matrix and are exact. The published package (byzfl) takes one step of a power iteration from a
    random vector in their place, and its maximum runs over removed rows too, where the filter can
    come to a stop. Every pass removes one row at least.

    Breakdown point f rows, 2f < N. Equivariant under translation, scale and rotation. Cost: one
    Gram matrix and the largest eigenpairs of at most 2f + 1 matrices N x N (as a rule far fewer),
    on a device whole eigendecompositions, each of which waits for it.

    Args:
        f: number of rows assumed bad.

    Raises:
        ValueError: f is no integer of at least 0, or 2f >= N at the call.

    Example:
        >>> import numpy as np, chainrob
        >>> rows = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [1e9, 0.0]])
        >>> chainrob.CAF(f=1)(rows)
        array([0.5, 0.5])

    References:
        Y. Allouah, R. Guerraoui and J. Stephan, Towards trustworthy federated learning with
        untrusted participants, ICML 2025.
    """

    def weights(self, gram: Array) -> Array:
        xp = array_module(gram)
        n = gram.shape[-1]
        counts = xp.ones(gram.shape[:-1])
        best = counts / n
        least = xp.full(gram.shape[:-2], np.inf)
        # A replica that is done goes on idly with the others and is not looked at again.
        for _ in range(n):
            total = counts.sum(axis=-1, keepdims=True)
            active = (total[..., 0] > n - 2 * self.f) | xp.isinf(least)
            if not bool(active.any()):
                break
            shares = counts / xp.where(total > 0.0, total, 1.0)
            value, projections = principal(gram, shares)
            better = active & (value < least)
            best = xp.where(better[..., None], shares, best)
            least = xp.where(better, value, least)
            squares = xp.where(counts > 0.0, projections**2, 0.0)
            largest = squares.max(axis=-1, keepdims=True)
            # No variance is left: there is nothing to remove, and nothing better to find.
            kept = xp.where(
                largest > 0.0, 1.0 - squares / xp.where(largest > 0.0, largest, 1.0), 0.0
            )
            counts = counts * kept
        return best


def principal(gram: Array, shares: Array) -> tuple[Array, Array]:
    """Largest eigenvalue of the weighted covariance, and the rows' projections on its eigenvector.

    With K the Gram matrix of the centered rows X and C = diag(shares), the covariance X^T C X and
    C^1/2 K C^1/2 have the same eigenvalues, and the projections X v are K C^1/2 u / sqrt(lambda).
    """
    xp = array_module(gram)
    projected = xp.matmul(gram, shares[..., None])
    size = xp.matmul(shares[..., None, :], projected)
    centered = gram - projected - projected.swapaxes(-1, -2) + size
    roots = xp.sqrt(shares)
    n = gram.shape[-1]
    weighted = roots[..., :, None] * centered * roots[..., None, :]
    values, vectors = largest_eigenpair(weighted.reshape(-1, n, n))
    value = xp.maximum(values.reshape(gram.shape[:-2]), 0.0)
    along = xp.matmul(centered, (roots * vectors.reshape(shares.shape))[..., None])[..., 0]
    scale = xp.sqrt(xp.where(value > 0.0, value, 1.0))[..., None]
    return value, xp.where(value[..., None] > 0.0, along / scale, 0.0)
