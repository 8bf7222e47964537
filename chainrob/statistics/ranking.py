"""Which methods are better over many data sets: ranks and their tests."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

__all__ = ["Ranking", "rank_methods"]

Array = NDArray[np.float64]


class Ranking(NamedTuple):
    """Average ranks of methods, with tests."""

    ranks: Array
    """Average rank of each method over the problems, 1 the best."""
    p_value: float
    """p-value of the hypothesis that all methods are alike (Friedman's statistic)."""
    critical_difference: float
    """The critical difference: average ranks farther apart than this differ."""
    pairwise: Array
    """(methods, methods): p-values of single pairs, corrected for their number."""


def rank_methods(
    losses: ArrayLike,
    groups: ArrayLike,
    *,
    level: float = 0.05,
    permutations: int = 9999,
    seed: int = 0,
) -> Ranking:
    r"""Rank methods on each problem, average the ranks, and test by permuting whole groups.

    Problems of one group belong together, such as the contaminations of one data set. If the
    methods are alike, then within a group the ranks of the methods can be permuted, in the same way
    for all its problems. Two statistics are compared with their values under such permutations:
    Friedman's statistic :math:`\sum_j (\bar r_j - (k + 1) / 2)^2` over k methods, and the largest
    difference between two average ranks. The critical difference is a quantile of the second. A
    pair's p-value is the share of permutations in which any two methods differ as much, which
    corrects for the number of pairs. The number of groups counts, not that of problems: one group
    alone proves nothing. If every problem is its own group, this is Friedman's test with Nemenyi's
    comparisons (``scipy.stats.friedmanchisquare``), without their approximation for many problems.

    Args:
        losses: (problems, methods), smaller is better. Average the seeds of one problem first.
        groups: The group of each problem, (problems,).
        level: Level of the critical difference.
        permutations: Number of permutations drawn.
        seed: Seed of the permutations.

    Returns:
        Ranking: Ranks, p-values, critical difference.

    Raises:
        ValueError: If there are fewer than two problems or methods, a loss is not finite, or
            ``groups`` does not have one entry per problem.

    Example:
        >>> from chainrob.statistics import rank_methods
        >>> losses = [[1, 2, 3], [1, 3, 2], [1, 2, 3], [2, 3, 4], [0, 5, 6], [1, 2, 2.5]]
        >>> ranking = rank_methods(losses, groups=range(6))
        >>> ranking.ranks.round(2).tolist(), ranking.p_value < 0.01
        ([1.0, 2.17, 2.83], True)

    References:
        J. Demsar (2006). Statistical comparisons of classifiers over multiple data sets. JMLR 7.
        P. H. Westfall and S. S. Young (1993). Resampling-based multiple testing.
    """
    table, chosen = np.asarray(losses, np.float64), np.asarray(groups)
    if table.ndim != 2 or min(table.shape) < 2:
        raise ValueError(
            f"losses must be (problems, methods), at least two of each, found shape {table.shape}"
        )
    if not np.isfinite(table).all():
        raise ValueError("losses must be finite")
    if chosen.shape != (len(table),):
        raise ValueError(f"groups must have shape ({len(table)},), found {chosen.shape}")
    each = stats.rankdata(table, axis=1)
    problems, methods = each.shape
    rng = np.random.default_rng(seed)
    drawn = np.zeros((permutations, methods))
    for group in np.unique(chosen):
        total = each[chosen == group].sum(axis=0)
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
