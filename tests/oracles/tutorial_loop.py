"""The robust gradient of a Linear layer as the tutorial's listing computes it: a loop over output
units, each with the rows of its own weights built and estimated.

Written from the description of Listing 4 and of the released estimator, not from their code.
"""

import numpy as np


def soft_truncated_mean(rows, delta=0.005, variance_ddof=0, variance_floor=0.001):
    """Estimate of the mean of the columns of rows (N, D) by soft truncation.

    The released program's form by default: variance with 1/N, floored at 0.001, and a batch of
    fewer than three rows summed. With ``variance_ddof=1, variance_floor=0`` it is the text's.
    """
    n = len(rows)
    if n < 3:
        return rows.sum(axis=0)
    center = rows.mean(axis=0)
    variance = np.maximum(rows.var(axis=0, ddof=variance_ddof), variance_floor)
    s = np.sqrt(n * variance / (2 * np.log(1 / delta)))
    u = (rows - center) / s
    inside = np.abs(u) <= np.sqrt(2)
    psi = np.where(inside, u - u**3 / 6, np.sign(u) * (2 * np.sqrt(2) / 3))
    return (center + s * psi.mean(axis=0)).astype(rows.dtype)


def layer_gradients(x, gy, estimator=soft_truncated_mean):
    """gW (Q, P) and gb (Q,) from inputs x (N, P) and output gradients gy (N, Q), which carry the
    1/N of a mean loss; the estimator sees the rows at that scale.
    """
    gW = np.empty((gy.shape[1], x.shape[1]), x.dtype)
    gb = np.empty(gy.shape[1], gy.dtype)
    for q in range(gy.shape[1]):
        gW[q] = estimator(gy[:, q, None] * x)
        gb[q] = estimator(gy[:, q, None])[0]
    return gW, gb
