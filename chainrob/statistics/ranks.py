"""Which methods are better over many problems: ranks and their tests."""

from __future__ import annotations

from typing import Any, NamedTuple

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
    """(methods, methods): p-values of single pairs, corrected for their number."""


def rank_methods(
    losses: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    level: float = 0.05,
    permutations: int = 9999,
    seed: int = 0,
) -> Ranking:
    r"""Rank methods on each problem, average, and test.

    Friedman's test first asks whether there is any difference at all. Then, for single pairs,
    Nemenyi's critical difference

    .. math:: CD = \frac{q_\alpha}{\sqrt 2} \sqrt{\frac{k (k + 1)}{6 m}}

    (k methods, m problems, q the quantile of the studentized range), and Wilcoxon's signed-rank
    test with Holm's correction, which uses the sizes of the differences and does not depend on
    what other methods take part.

    All this is for independent problems. Where some belong together, such as contaminations of one
    data set, ``groups`` says which, and the tests permute instead: were the methods alike, each
    group could have had its methods' ranks in any other order, the same one for all its problems.
    Friedman's statistic, and the largest difference between two average ranks, are compared with
    theirs under such permutations; the critical difference is a quantile of the latter, and a
    pair's p-value how rarely any two methods differ as much. Groups count, not problems: of one
    alone nothing follows.

    Args:
        losses (array): (problems, methods), smaller is better; a problem is what the methods are
            paired by. Average the seeds of one problem first.
        groups (array or None): The group of each problem, (problems,); None if all are independent.
        level (float): Of the critical difference.
        permutations (int): How many are drawn, with ``groups``.
        seed (int): Of the permutations.

    Returns:
        Ranking: Ranks, p-values, critical difference.

    Raises:
        ValueError: If there are fewer than two problems or methods, a loss is not finite, or
            ``groups`` has not one entry a problem.

    Example:
        >>> from chainrob.statistics import rank_methods
        >>> losses = [[1, 2, 3], [1, 3, 2], [1, 2, 3], [2, 3, 4], [0, 5, 6], [1, 2, 2.5]]
        >>> ranking = rank_methods(losses)
        >>> ranking.ranks.round(2).tolist(), round(ranking.p_value, 3)
        ([1.0, 2.17, 2.83], 0.006)

    References:
        J. Demsar (2006). Statistical comparisons of classifiers over multiple data sets. JMLR 7.
        P. H. Westfall and S. S. Young (1993). Resampling-based multiple testing.
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
    if groups is not None:
        return _by_permutation(each, np.asarray(groups), level, permutations, seed)
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


def _by_permutation(
    each: Array, groups: NDArray[Any], level: float, permutations: int, seed: int
) -> Ranking:
    problems, methods = each.shape
    if groups.shape != (problems,):
        raise ValueError(f"groups must have shape ({problems},), found {groups.shape}")
    rng = np.random.default_rng(seed)
    drawn = np.zeros((permutations, methods))
    for group in np.unique(groups):
        total = each[groups == group].sum(axis=0)
        drawn += rng.permuted(np.broadcast_to(total, drawn.shape), axis=1)
    drawn /= problems
    ranks = each.mean(axis=0)

    def p_value(found: Any, under_permutation: Array) -> Any:
        as_large = under_permutation >= np.asarray(found)[..., None] - 1e-9
        return (1 + as_large.sum(axis=-1)) / (1 + permutations)

    middle = (methods + 1) / 2
    widths = np.ptp(drawn, axis=1)
    pairwise = p_value(np.abs(ranks[:, None] - ranks), widths)
    overall = p_value(((ranks - middle) ** 2).sum(), ((drawn - middle) ** 2).sum(axis=1))
    return Ranking(ranks, float(overall), float(np.quantile(widths, 1 - level)), pairwise)


def _wilcoxon(differences: Array) -> float:
    if not differences.any():
        return 1.0
    sizes = np.abs(differences)
    plain = sizes.all() and len(np.unique(sizes)) == len(sizes) <= 50
    # Pratt's way keeps ties with zero in the ranking.
    method = "exact" if plain else "approx"
    return float(stats.wilcoxon(differences, zero_method="pratt", method=method).pvalue)
