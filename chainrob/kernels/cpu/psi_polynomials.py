"""psi of the M-estimators: its values, and polynomials that give them in kernels."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

REACH = 2.0
"""Largest |u| for which psi is taken from a polynomial."""

TERMS = {4: 8, 8: 24}
"""Coefficients of a polynomial by the bytes of a number: psi is right to 2e-5 and 1e-14."""

RHO = {"pseudo_huber": 0, "log_cosh": 1, "gudermannian": 2, "catoni": 3}
CATONI = RHO["catoni"]


def influence(kind: int, size: float) -> float:
    """psi of a value that is not negative."""
    if kind == 0:
        return size / math.sqrt(1.0 + 0.5 * size * size)
    if kind == 1:
        return math.tanh(size)
    if kind == 2:
        return 2.0 * math.atan(math.tanh(0.5 * size))
    return math.log1p(size) + math.log1p(0.5 * size * (size / (1.0 + size)))


def slope(kind: int, size: float) -> float:
    """psi' of a value that is not negative."""
    if kind == 0:
        return (1.0 + 0.5 * size * size) ** -1.5
    if kind == 1:
        return 1.0 - math.tanh(size) ** 2
    if kind == 2:
        half = math.tanh(0.5 * size)
        return (1.0 - half * half) / (1.0 + half * half)
    return 1.0 / (1.0 + 0.5 * size * (size / (1.0 + size)))


@lru_cache(maxsize=8)
def polynomials(rho: str, dtype: np.dtype) -> np.ndarray:
    """How k = 1 - psi(u) / u and 1 - psi'(u) are computed on [0, REACH].

    Coefficients of k / u^2 in u^2, for Catoni's in |u|, the highest first; those of k and k^2 in
    1 - psi'(u); then what they say of the two at REACH. The many terms of float64 need a variable
    in [-1, 1]: u^2 / 2 - 1, for Catoni's |u| - 1.
    """
    top = REACH if rho == "catoni" else REACH**2
    nodes = 0.5 * top * (1.0 - np.cos(np.pi * (np.arange(200) + 0.5) / 200))
    sizes = nodes if rho == "catoni" else np.sqrt(nodes)
    # Near 0 the deficits have no digits left, and the polynomial needs none of those nodes.
    kept = sizes > 0.05
    nodes, sizes = nodes[kept], sizes[kept]
    ends = [0.0, top]
    if dtype == np.float64:
        nodes, ends = 2.0 * nodes / top - 1.0, [-1.0, 1.0]

    deficits = np.array([1.0 - influence(RHO[rho], size) / size for size in sizes])
    bends = np.array([1.0 - slope(RHO[rho], size) for size in sizes])
    series = np.polynomial.Chebyshev.fit(
        nodes, deficits / sizes**2, TERMS[dtype.itemsize] - 1, domain=ends, w=sizes**2 / deficits
    )
    monomials = series.convert(kind=np.polynomial.Polynomial).coef
    # Of the slope less is asked: it turns an excess into a step.
    shares = np.stack([deficits / bends, deficits**2 / bends], axis=1)
    first, second = np.linalg.lstsq(shares, np.ones(len(bends)), rcond=None)[0]
    deficit = series(ends[1]) * REACH**2
    bend = first * deficit + second * deficit**2
    return np.array([*monomials[::-1], first, second, deficit, bend], dtype)
