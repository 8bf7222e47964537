"""Rows are shuffled into buckets, and every bucket becomes its mean."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from chainrob.robustifiers.parameters import require_integer
from chainrob.robustifiers.pre_aggregation import Mixing
from chainrob.sample_gradients import SampleGradients
from chainrob.sample_gradients.operator_base import Array, block_matrix


@dataclass(frozen=True, repr=False)
class Bucketing(Mixing):
    r"""Bucketing: shuffle the rows, cut them into buckets of ``size``, average each bucket.

    .. math:: y_b = \frac{1}{\lvert B_b \rvert} \sum_{i \in B_b} g_i, \qquad
        b = 1, \dots, M = \lceil N / \text{size} \rceil

    Where ``size`` does not divide N the buckets hold floor(N / M) or ceil(N / M) <= ``size`` rows.
    (The paper's program fills all buckets but the last, which may then be a single row, with
    ``size`` times the variance of the others and ``size`` times the weight of any other row. With
    even buckets, as many of them, both ratios are at most 2, and near 1 for large buckets.)

    Breakdown: f bad rows spoil f buckets at most, so the robustifier behind must stand f of M
    (several bad rows may share a bucket; none is in two).

    The permutation depends on the seed and on N alone: the same in every call, while the samples of
    a shuffled mini-batch differ (the paper draws it anew each round). The result depends on the
    order of the rows. Equivariant under translation, scale and rotation. Cost: one product with an
    M x N matrix.

    Args:
        size: the most rows in a bucket, at least 1 (which only shuffles).
        seed: of the permutation.

    Raises:
        ValueError: size or seed is no integer in range.

    Example:
        >>> import numpy as np, chainrob
        >>> chainrob.Bucketing(size=2, seed=0)(np.arange(6.0)[:, None])[:, 0]
        array([2.5, 4.5, 0.5])
        >>> chainrob.Bucketing(size=3, seed=0)(np.arange(4.0)[:, None])[:, 0]
        array([1., 2.])

    References:
        S. P. Karimireddy, L. He and M. Jaggi, Byzantine-robust learning on heterogeneous datasets
        via bucketing, ICLR 2022.
    """

    size: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        require_integer(self, "size", 1)
        require_integer(self, "seed")

    def n_mixed(self, n_samples: int) -> int:
        return -(-n_samples // self.size)

    def matrix(self, gradients: SampleGradients) -> Array:
        n = gradients.n_samples
        order = np.random.default_rng(self.seed).permutation(n)
        matrix = np.empty((self.n_mixed(n), n))
        matrix[:, order] = block_matrix(n, self.n_mixed(n))
        return gradients.xp.asarray(matrix)
