"""Which methods are better over many problems: ranks and their tests."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

__all__ = ["Ranking", "holm", "rank_methods"]

Array = NDArray[np.float64]


class Ranking(NamedTuple):
    """Average ranks of methods and what is certain about them."""

    ranks: Array
    """Average rank of each method over the problems, 1 the best."""
    p_value: float
    """Friedman's test that all methods are alike."""
    critical_difference: float
    """Nemenyi: average ranks farther apart than this differ."""
    pairwise: Array
    """(methods, methods): p-values of Wilcoxon's signed-rank test, by Holm's correction."""


def rank_methods(losses: ArrayLike, *, level: float = 0.05) -> Ranking:
    r"""Rank methods on each problem, average, and test.

    Friedman's test first asks whether there is any difference at all. Then, for single pairs,
    Nemenyi's critical difference

    .. math:: CD = \frac{q_\alpha}{\sqrt 2} \sqrt{\frac{k (k + 1)}{6 m}}

    (k methods, m problems, q the quantile of the studentized range), and Wilcoxon's signed-rank
    test with Holm's correction, which uses the sizes of the differences and does not depend on
    what other methods take part.

    Args:
        losses (array): (problems, methods), smaller is better; a problem is what the methods are
            paired by. Problems should be independent: average seeds of one problem first.
        level (float): Of Nemenyi's critical difference.

    Returns:
        Ranking: Ranks, p-values, critical difference.

    Raises:
        ValueError: If there are fewer than two problems or methods, or a loss is not finite.

    Example:
        >>> from chainrob.statistics import rank_methods
        >>> losses = [[1, 2, 3], [1, 3, 2], [1, 2, 3], [2, 3, 4], [0, 5, 6], [1, 2, 2.5]]
        >>> ranking = rank_methods(losses)
        >>> ranking.ranks.round(2).tolist(), round(ranking.p_value, 3)
        ([1.0, 2.17, 2.83], 0.006)

    References:
        J. Demsar (2006). Statistical comparisons of classifiers over multiple data sets. JMLR 7.
    """
    table = np.asarray(losses, np.float64)
    if table.ndim != 2 or min(table.shape) < 2:
        raise ValueError(
            f"losses must be (problems, methods), at least two of each, found shape {table.shape}"
        )
    if not np.isfinite(table).all():
        raise ValueError("losses must be finite")
    problems, methods = table.shape
    each = stats.rankdata(table, axis=1)
    ranks = each.mean(axis=0)
    p_value = _friedman(each)
    quantile = stats.studentized_range.ppf(1 - level, methods, np.inf) / np.sqrt(2)
    difference = quantile * np.sqrt(methods * (methods + 1) / (6 * problems))
    pairs = [(i, j) for i in range(methods) for j in range(i)]
    corrected = holm([_wilcoxon(table[:, i] - table[:, j]) for i, j in pairs])
    pairwise = np.ones((methods, methods))
    for (i, j), p in zip(pairs, corrected, strict=True):
        pairwise[i, j] = pairwise[j, i] = p
    return Ranking(ranks, p_value, float(difference), pairwise)


def holm(p_values: ArrayLike) -> Array:
    """Holm's correction of p-values for being many.

    Args:
        p_values (array): (tests,).

    Returns:
        array: Corrected p-values in the same order.

    Example:
        >>> from chainrob.statistics import holm
        >>> holm([0.01, 0.04, 0.03]).round(3).tolist()
        [0.03, 0.06, 0.06]

    References:
        S. Holm (1979). A simple sequentially rejective multiple test procedure.
    """
    p = np.asarray(p_values, np.float64)
    order = np.argsort(p, kind="stable")
    factors = np.arange(len(p), 0, -1)
    result = np.empty_like(p)
    result[order] = np.minimum(np.maximum.accumulate(p[order] * factors), 1)
    return result


def _friedman(ranks: Array) -> float:
    """Friedman's chi-square test on ranks (problems, methods), corrected for ties."""
    problems, methods = ranks.shape
    spread = ((ranks - (methods + 1) / 2) ** 2).sum()
    if spread == 0:
        return 1.0
    effect = ((ranks.mean(axis=0) - (methods + 1) / 2) ** 2).sum()
    statistic = problems**2 * (methods - 1) * effect / spread
    return float(stats.chi2.sf(statistic, methods - 1))


def _wilcoxon(differences: Array) -> float:
    if not differences.any():
        return 1.0
    sizes = np.abs(differences)
    plain = sizes.all() and len(np.unique(sizes)) == len(sizes) <= 50
    # Pratt's way keeps ties with zero in the ranking.
    method = "exact" if plain else "approx"
    return float(stats.wilcoxon(differences, zero_method="pratt", method=method).pvalue)
