"""Robust estimators of a mean, on materialized rows (N, D), straight from their papers.

Plain NumPy in float64, row by row or coordinate by coordinate, and nothing of the library. Ties are
not treated: the rows of a test that compares are in general position.
"""

from itertools import combinations, pairwise

import numpy as np
from scipy.integrate import quad
from scipy.optimize import brentq


def mean(rows):
    return sum(rows) / len(rows)


def by_coordinate(estimator):
    """An estimator of a location from one column, applied to every column."""

    def of_rows(rows, *args, **kwargs):
        return np.array([estimator(column, *args, **kwargs) for column in rows.T])

    return of_rows


def truncation(u):
    inner = np.where(np.abs(u) <= np.sqrt(2), u, 0.0)
    return np.where(inner == u, inner - inner**3 / 6, np.sign(u) * 2 * np.sqrt(2) / 3)


@by_coordinate
def soft_truncation(column, delta, pilot):
    n = len(column)
    if pilot == "mean":
        center = np.mean(column)
        sigma = np.std(column, ddof=1) if n > 1 else 0.0
    else:
        center = np.median(column)
        sigma = 1.482602218505602 * np.median(np.abs(column - center))
    s = sigma * np.sqrt(n / (2 * np.log(1 / delta)))
    if s == 0:
        return center
    return center + s * np.mean([truncation((value - center) / s) for value in column])


def _expected_share(z):
    return z**2 / (1 + z**2) * np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)


BETA = quad(_expected_share, -np.inf, np.inf, epsabs=1e-14)[0]

PSI = {
    "pseudo_huber": lambda u: u / np.sqrt(1 + u**2 / 2),
    "log_cosh": np.tanh,
    "gudermannian": lambda u: 2 * np.arctan(np.exp(np.minimum(u, 700))) - np.pi / 2,
    "catoni": lambda u: np.sign(u) * np.log(1 + np.abs(u) + u**2 / 2),
}


@by_coordinate
def multiplicative_noise(column, delta, pilot):
    """Soft truncation, its mean over the noise taken by quadrature between the kinks."""
    n = len(column)
    root = np.sqrt(n / (2 * np.log(1 / delta)))
    if pilot == "mean":
        center, s = np.mean(column), np.std(column, ddof=1) * root if n > 1 else 0.0
    else:
        center = np.median(column)
        s = 1.482602218505602 * np.median(np.abs(column - center)) * root
    if s == 0:
        return center
    noise = 1 / np.sqrt(2 * np.log(1 / delta))
    nodes, weights = np.polynomial.legendre.leggauss(60)

    def smoothed(u):
        if u == 0:
            return 0.0
        kinks = sorted((k * np.sqrt(2) / u - 1) / noise for k in (-1, 1))
        ends = [-12, *np.clip(kinks, -12, 12), 12]
        total = 0.0
        for low, high in pairwise(ends):
            for part in pairwise(np.linspace(low, high, 5)):
                z = part[0] + (nodes + 1) / 2 * (part[1] - part[0])
                density = np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi) * (part[1] - part[0]) / 2
                values = truncation(u * (1 + noise * z))
                total += np.sum(weights * density * values)
        return total

    return center + s * np.mean([smoothed((value - center) / s) for value in column])


@by_coordinate
def m_estimator(column, rho, delta=0.005, pilot="mean", scale=None):
    n = len(column)
    pivot = np.mean(column) if pilot == "mean" else np.median(column)
    largest = np.abs(column - pivot).max()
    if largest == 0:
        return pivot

    def chi(log_sigma):
        u = (column - pivot) / np.exp(log_sigma)
        return np.mean(u**2 / (1 + u**2)) - BETA

    if scale is None:
        if chi(np.log(largest) - 80) <= 0:
            return pivot
        root = brentq(chi, np.log(largest) - 80, np.log(largest) + 10, xtol=1e-15, rtol=1e-14)
        scale = np.exp(root) * np.sqrt(n / np.log(2 / delta))

    def total(theta):
        return np.sum(PSI[rho]((column - theta) / scale))

    low, high = column.min(), column.max()
    return brentq(total, low, high, xtol=1e-15 * scale, rtol=1e-14)


@by_coordinate
def median(column):
    ordered = np.sort(column)
    n = len(ordered)
    return (ordered[(n - 1) // 2] + ordered[n // 2]) / 2


@by_coordinate
def trimmed_mean(column, k):
    return np.mean(np.sort(column)[k : len(column) - k])


@by_coordinate
def winsorized_mean(column, k):
    ordered = np.sort(column)
    n = len(column)
    ordered[:k] = ordered[k]
    ordered[n - k :] = ordered[n - 1 - k]
    return np.mean(ordered)


def nearest_to(column, center, count):
    order = np.argsort(np.abs(column - center), kind="stable")
    return np.mean(column[order[:count]])


@by_coordinate
def mean_around_median(column, f):
    return nearest_to(column, np.median(column), len(column) - f)


@by_coordinate
def phocas(column, f):
    center = np.mean(np.sort(column)[f : len(column) - f])
    return nearest_to(column, center, len(column) - f)


def geometric_median(rows, steps=20000):
    """Weiszfeld's iteration from the median, until it stands still."""
    z = np.median(rows, axis=0)
    spread = np.median(np.abs(rows - z).max(axis=1))
    for _ in range(steps):
        distances = np.maximum(np.linalg.norm(rows - z, axis=1), 1e-300)
        moved = (rows / distances[:, None]).sum(axis=0) / (1 / distances).sum()
        if np.abs(moved - z).max() <= 1e-15 * spread:
            break
        z = moved
    return z


def block_means(rows, n_blocks):
    n = len(rows)
    ends = [b * n // n_blocks for b in range(n_blocks + 1)]
    return np.array([rows[i:j].mean(axis=0) for i, j in pairwise(ends)])


def squared_distances(rows):
    return np.array([np.sum((rows - a) ** 2, axis=1) for a in rows])


def krum_scores(rows, f, n_neighbors=None, squared=True):
    n = len(rows)
    n_neighbors = n - f - 2 if n_neighbors is None else n_neighbors
    distances = squared_distances(rows)
    if not squared:
        distances = np.sqrt(distances)
    scores = []
    for i in range(n):
        others = sorted(distances[i][j] for j in range(n) if j != i)
        scores.append(sum(others[:n_neighbors]))
    return np.array(scores)


def krum(rows, f, **options):
    return rows[np.argmin(krum_scores(rows, f, **options))]


def multi_krum(rows, f, m=None, **options):
    m = len(rows) - f if m is None else m
    return rows[np.argsort(krum_scores(rows, f, **options))[:m]].mean(axis=0)


def centered_clipping(rows, radius=None, iterations=5, start="medoid"):
    n = len(rows)
    if start == "zero":
        v = np.zeros(rows.shape[1])
    else:
        # The median distance counts the row itself, at 0: the (n // 2)-th of the n - 1 others.
        radii = np.array([np.sort(row)[n // 2] for row in squared_distances(rows)])
        # Where i and j are each other's median neighbor they tie, and are averaged.
        v = rows[radii <= min(radii) * (1 + 1e-12)].mean(axis=0)
    for _ in range(iterations):
        distances = np.linalg.norm(rows - v, axis=1)
        tau = np.median(distances) if radius is None else radius
        pulls = [
            (row - v) * min(1.0, tau / d if d > 0 else 1.0)
            for row, d in zip(rows, distances, strict=True)
        ]
        v = v + sum(pulls) / n
    return v


def minimum_diameter_averaging(rows, f):
    n = len(rows)
    distances = squared_distances(rows)

    def key(subset):
        block = distances[np.ix_(subset, subset)]
        return block.max(), block.sum()

    return rows[list(min(combinations(range(n), n - f), key=key))].mean(axis=0)


def smea(rows, f):
    n = len(rows)

    def largest_eigenvalue(subset):
        part = rows[list(subset)]
        part = part - part.mean(axis=0)
        return np.linalg.norm(part, 2) ** 2 / len(part)

    best = min(combinations(range(n), n - f), key=largest_eigenvalue)
    return rows[list(best)].mean(axis=0)


def caf(rows, f):
    n = len(rows)
    c = np.ones(n)
    least, best = np.inf, None
    while best is None or c.sum() > n - 2 * f:
        mu = c @ rows / c.sum()
        centered = rows - mu
        covariance = (centered * c[:, None]).T @ centered / c.sum()
        values, vectors = np.linalg.eigh(covariance)
        if values[-1] < least:
            least, best = values[-1], mu
        tau = (centered @ vectors[:, -1]) ** 2
        if tau[c > 0].max() == 0:
            break
        c = np.maximum(c * (1 - tau / tau[c > 0].max()), 0)
    return best


def adaptive_fence(sizes, share, near, usual, power):
    """The fence above the lower quantile of the norms that are not zero."""
    ordered = np.sort([one for one in sizes if one > 0])
    if len(ordered) < 2:
        return max(sizes) or 1.0
    below = min(max(1, int(round((len(ordered) - 1) * share, 6))), len(ordered) - 1)
    low, median = ordered[below], ordered[(len(ordered) - 1) // 2]
    wide = max(1.0, low / np.mean(ordered[:below]) / usual) if below >= 5 else 1.0
    fence = near * low * wide**power
    if median <= 10 * low:
        fence = max(fence, median)
    return min(fence, ordered[-1])


def adaptive_fences(inputs, signals):
    """F_x (None without inputs) and F_s from norms (N,)."""
    high = np.sort(signals)[int(round((len(signals) - 1) * 0.9, 6))]
    reach = max(signals) / high if high > 0 else 1.0
    near = min(33.0, max(4.13, 4.13 * (4 / reach) ** 4))
    of_inputs = None if inputs is None else adaptive_fence(inputs, 1 / 3, 1.65, 1.2, 2.0)
    return of_inputs, adaptive_fence(signals, 3 / 8, near, 2.0, 6.0)


def adaptive_weights(inputs, signals):
    """Sample weights from norms (N,) of inputs (or None) and signals."""
    if len(signals) < 3:
        return np.ones(len(signals))
    of_inputs, of_signals = adaptive_fences(inputs, signals)
    weights = np.array([min(1.0, of_signals / s) ** 2 if s > 0 else 1.0 for s in signals])
    if inputs is not None:
        weights *= [min(1, of_inputs / x) ** 2 if x > 0 else 1.0 for x in inputs]
    return weights


def adaptive_mean(rows):
    return adaptive_weights(None, np.linalg.norm(rows, axis=1)) @ rows / len(rows)


def adaptive_mean_of_layer(x, gy, bias=True):
    """Of a layer with inputs (N, S, P) and signals (N, S, Q): (Q, P), or (Q, P + 1) with a bias as
    the weight of one more input of one. The axis S may be missing.
    """
    x, gy = (one.reshape(len(one), -1, one.shape[-1]) for one in (x, gy))
    inputs, signals = (np.sqrt((one**2).sum(axis=(1, 2))) for one in (x, gy))
    x = np.concatenate([x, np.ones((*x.shape[:2], 1))], axis=2) if bias else x
    return np.einsum("n,nsq,nsp->qp", adaptive_weights(inputs, signals), gy, x) / len(x)


def suspicion(rows, signals):
    """Of rows (N, D), and the norms (N,) of what makes them long."""
    size = np.minimum(signals, adaptive_fences(None, signals)[1])
    found = []
    for i, row in enumerate(rows):
        others = [other for j, other in enumerate(rows) if j != i]
        c = [row @ o / np.linalg.norm(row) / np.linalg.norm(o) for o in others]
        agreement = sum(one * abs(one) for one in c) / sum(one**2 for one in c)
        found.append(size[i] / max(size) * (1 - agreement) / 2)
    return np.array(found)


def monna(rows, f, pivot=0):
    distances = np.linalg.norm(rows - rows[pivot], axis=1)
    return rows[np.argsort(distances)[: len(rows) - f]].mean(axis=0)


def spectral_filter(rows, f, portions=None):
    """Portions of rows are removed, by the singular vectors of what is left."""
    for portion in [1] * f if portions is None else portions:
        centered = rows - rows.mean(axis=0)
        direction = np.linalg.svd(centered, full_matrices=False)[2][0]
        order = np.argsort(np.abs(centered @ direction))
        rows = rows[np.sort(order[: len(rows) - portion])]
    return rows.mean(axis=0)


def bulyan(rows, f):
    left, taken = list(range(len(rows))), []
    while len(taken) < len(rows) - 2 * f:
        part = rows[left]
        count = max(len(left) - f - 2, 1)
        scores = krum_scores(part, f, n_neighbors=count)
        totals = squared_distances(part).sum(axis=1)
        tied = np.flatnonzero(scores <= scores.min() * (1 + 1e-12))
        taken.append(left.pop(tied[np.argmin(totals[tied])]))
    taken = rows[taken]
    return np.array(
        [nearest_to(column, np.median(column), len(rows) - 4 * f) for column in taken.T]
    )


def relative_clipping(rows, multiple, q=0.5, winsorized=False):
    norms = np.linalg.norm(rows, axis=1)
    length = np.sort(norms)[int(np.floor(q * (len(rows) - 1)))]
    if winsorized:
        length = np.mean([min(norm, length) for norm in norms])
    return clip_norm(rows, multiple * length)


def nearest_neighbor_mixing(rows, f):
    distances = squared_distances(rows)
    count = len(rows) - f
    return np.array([rows[np.argsort(row)[:count]].mean(axis=0) for row in distances])


def bucketing(rows, size, seed):
    order = np.random.default_rng(seed).permutation(len(rows))
    return block_means(rows[order], -(-len(rows) // size))


def clip_norm(rows, limit):
    norms = np.linalg.norm(rows, axis=1)
    return np.array(
        [
            row * min(1.0, limit / norm) if norm > 0 else row
            for row, norm in zip(rows, norms, strict=True)
        ]
    )


def adaptive_robust_clipping(rows, f):
    n = len(rows)
    k = int(np.floor(2 * (f / n) * (n - f) + 1e-12))
    falling = np.sort(np.linalg.norm(rows, axis=1))[::-1]
    return clip_norm(rows, falling[k])
