"""Heavy-tailed noise on inputs: Student's t, log-normal and Pareto."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from chainrob.datasets.contamination.choice import choose_rows
from chainrob.datasets.contamination.result import (
    Contaminated,
    Seed,
    draws_apart,
    floating,
    positive,
)

__all__ = ["add_heavy_tailed_noise"]

Distribution = Literal["student_t", "lognormal", "pareto"]


def add_heavy_tailed_noise(
    x: ArrayLike,
    share: float = 1.0,
    *,
    distribution: Distribution = "student_t",
    tail: float = 2.0,
    scale: float = 1.0,
    symmetric: bool = True,
    seed: Seed,
) -> Contaminated:
    r"""Add heavy-tailed noise to some rows of x.

    .. math:: \tilde x_{ij} = x_{ij} + c\, \sigma_j\, \varepsilon_{ij}

    sigma_j is the standard deviation of feature j over all rows before the noise (set to 1 if it is
    0), and c is ``scale``. The epsilon_ij are independent draws from one of these distributions:

    - ``'student_t'``: Student's t with ``tail`` degrees of freedom. Moments below ``tail`` exist.
    - ``'lognormal'``: exp(tail * z), z standard normal. All moments exist. A larger ``tail`` gives
      a heavier tail.
    - ``'pareto'``: u^(-1 / tail) - 1, u uniform: Lomax, the Pareto distribution that starts at 0.
      Moments below ``tail`` exist.

    Args:
        x: Inputs, shape (n, ...); not changed.
        share: Share of the rows that get noise, 0 to 1.
        distribution: One of the three above.
        tail: Tail parameter, positive.
        scale: Size of the noise in standard deviations of the feature, positive.
        symmetric: Give the draws of the one-sided distributions a random sign, so that the
            noise has median 0. Otherwise the noise is also a bias.
        seed: The same seed gives the same noise.

    Returns:
        Contaminated: ``data`` as x, floating point, and ``rows``.

    Raises:
        ValueError: If the distribution is unknown, tail or scale is not positive, the share is
            outside [0, 1], or x is empty or not finite.
        TypeError: If x does not hold real numbers.

    Example:
        >>> import numpy as np
        >>> from chainrob.datasets.contamination import add_heavy_tailed_noise
        >>> noisy = add_heavy_tailed_noise(np.eye(10), 0.2, distribution="pareto", tail=1.1, seed=0)
        >>> noisy.data.shape, noisy.rows.shape
        ((10, 10), (2,))

    References:
        C. Brownlees, E. Joly and G. Lugosi (2015). Empirical risk minimization for heavy-tailed
        losses. Annals of Statistics 43(6), 2507-2536. M. J. Holland and K. Ikeda (2019). Better
        generalization with less data using robust gradient descent. ICML.
    """
    if distribution not in ("student_t", "lognormal", "pareto"):
        raise ValueError(
            "distribution must be one of 'student_t', 'lognormal', 'pareto', "
            f"found {distribution!r}"
        )
    tail, scale = positive("tail", tail), positive("scale", scale)
    data = floating("x", x)
    sequence, rng = draws_apart(seed)
    rows = choose_rows(len(data), share, sequence)
    deviation = data.std(axis=0, dtype=np.float64)
    noise = _draws(rng, distribution, tail, symmetric, (len(rows), *data.shape[1:]))
    noise *= scale * np.where(deviation > 0, deviation, 1.0)
    with np.errstate(over="ignore"):
        data[rows] = (data[rows] + noise).astype(data.dtype)
    # Values that a narrow dtype cannot hold become its largest number. Noise is never infinite.
    limit = np.finfo(data.dtype).max
    np.clip(data, -limit, limit, out=data)
    return Contaminated(data, rows)


def _draws(
    rng: np.random.Generator,
    distribution: Distribution,
    tail: float,
    symmetric: bool,
    shape: tuple[int, ...],
) -> NDArray[np.float64]:
    if distribution == "student_t":
        return rng.standard_t(tail, shape)
    with np.errstate(over="ignore"):
        draws = rng.lognormal(0.0, tail, shape) if distribution == "lognormal" else None
        if draws is None:
            draws = rng.pareto(tail, shape)
    draws = np.minimum(draws, np.finfo(np.float64).max)
    return draws * rng.choice([-1.0, 1.0], shape) if symmetric else draws
