"""Adversarial gradients of f corrupted senders that know the honest gradients.

All have the form ``attack(honest, f, ...) -> rows``. They take the honest gradients (H, D) and
return f rows (f, D) of the same dtype. Stack the two in any order. A robustifier of the stack
should be near the honest mean.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from chainrob.datasets.contamination.result import Seed

__all__ = [
    "ATTACKS",
    "a_little_is_enough",
    "gaussian",
    "infinity",
    "inner_product_manipulation",
    "mimic",
    "sign_flip",
]

Rows = NDArray[Any]


def sign_flip(honest: ArrayLike, f: int, *, scale: float = 1.0, seed: Seed = 0) -> Rows:
    r"""Every attacker computes an honest gradient and sends its negative.

    .. math:: a_j = -c\, g_{i_j}

    Args:
        honest: Honest gradients, (H, D), floating point; not changed.
        f: Number of attackers, at least 0.
        scale: c, positive.
        seed: Which honest gradients i_j are flipped.

    Returns:
        array: (f, D), dtype of honest.

    Raises:
        ValueError: If f is negative, honest is empty or not (H, D), or scale is not positive.
        TypeError: If honest is not floating point, or f is not an integer.

    Example:
        >>> from chainrob.datasets.contamination import sign_flip
        >>> sign_flip([[1.0, 2.0]], 2).tolist()
        [[-1.0, -2.0], [-1.0, -2.0]]

    References:
        L. Li, W. Xu, T. Chen, G. B. Giannakis and Q. Ling (2019). RSA: Byzantine-robust stochastic
        aggregation methods for distributed learning from heterogeneous datasets. AAAI.
    """
    rows = _honest(honest, f)
    if not (np.isfinite(scale) and scale > 0):
        raise ValueError(f"scale must be positive and finite, found {scale!r}")
    rng = np.random.default_rng(seed)
    # If there are more attackers than honest gradients, each gradient is used about equally often.
    chosen = rng.permutation(max(f, len(rows)))[:f] % len(rows)
    flipped: Rows = -rows[chosen] * rows.dtype.type(scale)
    return flipped


def inner_product_manipulation(honest: ArrayLike, f: int, *, epsilon: float = 0.5) -> Rows:
    r"""All attackers send the honest mean, reversed and scaled.

    .. math:: a_j = -\epsilon\, \frac1H \sum_i g_i

    With a small epsilon the rows hide among the honest gradients. The aim is an estimate with a
    negative inner product with the honest mean.

    Args:
        honest: Honest gradients, (H, D), floating point; not changed.
        f: Number of attackers, at least 0.
        epsilon: Positive and finite.

    Returns:
        array: (f, D), dtype of honest.

    Raises:
        ValueError: If f is negative, honest is empty or not (H, D), or epsilon is not positive.
        TypeError: If honest is not floating point, or f is not an integer.

    Example:
        >>> from chainrob.datasets.contamination import inner_product_manipulation
        >>> inner_product_manipulation([[1.0], [3.0]], 1, epsilon=0.5).tolist()
        [[-1.0]]

    References:
        C. Xie, O. Koyejo and I. Gupta (2019). Fall of empires: breaking Byzantine-tolerant SGD by
        inner product manipulation. UAI.
    """
    rows = _honest(honest, f)
    if not (np.isfinite(epsilon) and epsilon > 0):
        raise ValueError(f"epsilon must be positive and finite, found {epsilon!r}")
    return _copies(-epsilon * rows.mean(axis=0, dtype=np.float64), f, rows.dtype)


def a_little_is_enough(honest: ArrayLike, f: int, *, z: float | None = None) -> Rows:
    r"""ALIE: shift every coordinate by as many standard deviations as remain unnoticed.

    .. math::
        a_j = \mu - z\, \sigma, \qquad
        z = \Phi^{-1}\!\left(\frac{n - f - s}{n - f}\right), \quad
        s = \left\lfloor \frac n2 + 1 \right\rfloor - f

    mu and sigma (divisor H) are the coordinate-wise mean and standard deviation of the honest
    gradients, and n = H + f. The attackers and the honest gradients that lie further out than
    they do form a majority, so a coordinate-wise median follows them.

    Args:
        honest: Honest gradients, (H, D), floating point; not changed.
        f: Number of attackers, at least 0.
        z: Another number of standard deviations; None is the formula, which needs
            f below half of n.

    Returns:
        array: (f, D), dtype of honest.

    Raises:
        ValueError: If f is negative or, without z, not below half; if honest is empty or not
            (H, D); or if z is not finite.
        TypeError: If honest is not floating point, or f is not an integer.

    Example:
        >>> from chainrob.datasets.contamination import a_little_is_enough
        >>> a_little_is_enough([[0.0], [2.0]], 1, z=1.5).tolist()
        [[-0.5]]

    References:
        G. Baruch, M. Baruch and Y. Goldberg (2019). A little is enough: circumventing defenses for
        distributed learning. NeurIPS.
    """
    rows = _honest(honest, f)
    if z is None:
        n = len(rows) + f
        needed = n // 2 + 1 - f
        if needed < 1:
            raise ValueError(
                f"f must be below half of all {n} gradients unless z is given, found {f}"
            )
        share = (n - f - needed) / (n - f)
        z = NormalDist().inv_cdf(share) if 0 < share < 1 else 0.0
    if not np.isfinite(z):
        raise ValueError(f"z must be finite, found {z!r}")
    mean = rows.mean(axis=0, dtype=np.float64)
    return _copies(mean - z * rows.std(axis=0, dtype=np.float64), f, rows.dtype)


def mimic(honest: ArrayLike, f: int, *, target: int | None = None) -> Rows:
    r"""All attackers copy one honest gradient, so that it is over-represented.

    .. math:: a_j = g_{i^*}, \qquad i^* = \arg\max_i |v^\top (g_i - \mu)|

    v is the first principal component of the honest gradients. The copied row tilts the mean most
    along the direction of largest variation. Such a row is no outlier in any respect.

    Args:
        honest: Honest gradients, (H, D), floating point; not changed.
        f: Number of attackers, at least 0.
        target: Copy this row instead, 0 .. H - 1.

    Returns:
        array: (f, D), dtype of honest.

    Raises:
        ValueError: If f is negative, honest is empty, not (H, D) or not finite, or target is out of
            range.
        TypeError: If honest is not floating point, or f or target is not an integer.

    Example:
        >>> from chainrob.datasets.contamination import mimic
        >>> mimic([[0.0], [1.0], [9.0]], 2).tolist()
        [[9.0], [9.0]]

    References:
        S. P. Karimireddy, L. He and M. Jaggi (2022). Byzantine-robust learning on heterogeneous
        datasets via bucketing. ICLR.
    """
    rows = _honest(honest, f)
    if target is None:
        if not np.isfinite(rows).all():
            raise ValueError("honest must be finite to choose a target, found NaN or infinity")
        centered = rows - rows.mean(axis=0, dtype=np.float64)
        # Coordinates along the first principal component, from the small Gram matrix.
        _, vectors = np.linalg.eigh(centered @ centered.T)
        target = int(np.abs(vectors[:, -1]).argmax())
    if isinstance(target, bool) or not isinstance(target, int | np.integer):
        raise TypeError(f"target must be an integer or None, found {target!r}")
    if not 0 <= target < len(rows):
        raise ValueError(f"target must lie between 0 and H - 1 = {len(rows) - 1}, found {target}")
    return _copies(rows[target], f, rows.dtype)


def infinity(honest: ArrayLike, f: int, *, value: float = np.inf) -> Rows:
    r"""All attackers send one absurd number in all coordinates: infinity, NaN or a huge number.

    .. math:: a_{jk} = v

    Args:
        honest: Honest gradients, (H, D), floating point; only shape and dtype matter.
        f: Number of attackers, at least 0.
        value: v.

    Returns:
        array: (f, D), dtype of honest.

    Raises:
        ValueError: If f is negative, or honest is empty or not (H, D).
        TypeError: If honest is not floating point, or f is not an integer.

    Example:
        >>> from chainrob.datasets.contamination import infinity
        >>> infinity([[0.0, 1.0]], 1).tolist()
        [[inf, inf]]

    References:
        P. Blanchard, E. M. El Mhamdi, R. Guerraoui and J. Stainer (2017). Machine learning with
        adversaries: Byzantine tolerant gradient descent. NeurIPS (one such row carries the mean
        anywhere).
    """
    rows = _honest(honest, f)
    return np.full((f, rows.shape[1]), value, rows.dtype)


def gaussian(
    honest: ArrayLike, f: int, *, mean: float = 0.0, deviation: float = 200.0, seed: Seed = 0
) -> Rows:
    r"""Every attacker sends independent noise.

    .. math:: a_{jk} \sim \mathcal N(\mu, \sigma^2)

    Args:
        honest: Honest gradients, (H, D), floating point; only shape and dtype matter.
        f: Number of attackers, at least 0.
        mean: mu, finite.
        deviation: sigma, positive and finite; the default is the paper's, and far from
            every honest gradient.
        seed: The same seed gives the same noise.

    Returns:
        array: (f, D), dtype of honest.

    Raises:
        ValueError: If f is negative, honest is empty or not (H, D), mean is not finite, or
            deviation is not positive.
        TypeError: If honest is not floating point, or f is not an integer.

    Example:
        >>> from chainrob.datasets.contamination import gaussian
        >>> gaussian([[1.0, 2.0]], 3, deviation=0.1, seed=1).shape
        (3, 2)

    References:
        P. Blanchard, E. M. El Mhamdi, R. Guerraoui and J. Stainer (2017). Machine learning with
        adversaries: Byzantine tolerant gradient descent. NeurIPS, section 5.
    """
    rows = _honest(honest, f)
    if not np.isfinite(mean):
        raise ValueError(f"mean must be finite, found {mean!r}")
    if not (np.isfinite(deviation) and deviation > 0):
        raise ValueError(f"deviation must be positive and finite, found {deviation!r}")
    noise = np.random.default_rng(seed).normal(mean, deviation, (f, rows.shape[1]))
    limit = np.finfo(rows.dtype).max
    return noise.clip(-limit, limit).astype(rows.dtype)


ATTACKS: dict[str, Callable[..., Rows]] = {
    attack.__name__: attack
    for attack in (
        sign_flip,
        inner_product_manipulation,
        a_little_is_enough,
        mimic,
        infinity,
        gaussian,
    )
}
"""All attacks by name, for tests and command lines."""


def _honest(honest: ArrayLike, f: int) -> Rows:
    rows = np.asarray(honest)
    if rows.dtype.kind != "f":
        raise TypeError(f"honest must have a floating point dtype, found {rows.dtype}")
    if rows.ndim != 2 or rows.size == 0:
        raise ValueError(f"honest must have shape (H, D) and not be empty, found {rows.shape}")
    if isinstance(f, bool) or not isinstance(f, int | np.integer):
        raise TypeError(f"f must be an integer, found {f!r}")
    if f < 0:
        raise ValueError(f"f must be at least 0, found {f}")
    return rows


def _copies(row: Rows, f: int, dtype: Any) -> Rows:
    return np.tile(row.astype(dtype), (f, 1))
