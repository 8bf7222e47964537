"""The mean over the block of samples whose mean loss is the median of all blocks'."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from chainrob.robustifiers.parameters import require_integer
from chainrob.robustifiers.robustifier import Estimate
from chainrob.robustifiers.sample_facts import AsksForFacts, fact
from chainrob.sample_gradients import SampleGradients
from chainrob.sample_gradients.operator_base import Array, block_matrix


@dataclass(frozen=True, repr=False)
class MedianOfMeansMinimization(AsksForFacts):
    r"""Median-of-means minimization (LLM): descend on the block of samples whose mean loss is the
    median.

    .. math:: \hat g = \frac{1}{\lvert B_m \rvert} \sum_{i \in B_m} g_i, \qquad
        m = \text{the block of median } \frac{1}{\lvert B_b \rvert} \sum_{i \in B_b} \ell_i

    with contiguous blocks whose sizes differ by one at most, and the lower median where their
    number is even. The median of the blocks' losses is a robust estimate of the risk, and this is
    its gradient, which no robustness of the gradients themselves comes into: the losses are told by
    ``chainrob.sample_facts(losses=...)``. Only one block's samples enter a step.

    Breakdown point (n_blocks - 1) // 2 rows, in the sense that the block chosen has a loss between
    those of good blocks; a bad row whose loss is ordinary may be in it, with any gradient. Depends
    on the order of the rows. Equivariant under translation, scale and rotation of the gradients.
    Cost: a plain mean.

    Args:
        n_blocks: number of blocks, 1 (the mean) to N. Where rows that are not finite have been
            dropped and fewer are left, each of these is a block.

    Raises:
        ValueError: fewer than one block; at the call, more blocks than samples, or no losses told
            or not one a sample.

    Example:
        >>> import numpy as np, chainrob
        >>> rows = np.array([[1.0], [3.0], [2.0], [2.0], [1e9], [0.0]])
        >>> with chainrob.sample_facts(losses=[0.1, 0.3, 0.4, 0.2, 50.0, 0.1]):
        ...     chainrob.MedianOfMeansMinimization(n_blocks=3)(rows)
        array([2.])

    References:
        G. Lecue, M. Lerasle and T. Mathieu, Robust classification via MOM minimization, Machine
        Learning 109, 2020.
    """

    n_blocks: int

    def __post_init__(self) -> None:
        super().__post_init__()
        require_integer(self, "n_blocks", 1)

    def check(self, n_samples: int) -> None:
        if self.n_blocks > n_samples:
            raise ValueError(
                f"MedianOfMeansMinimization: n_blocks must not exceed the number of samples, found "
                f"{self.n_blocks} blocks for {n_samples} samples"
            )

    def for_rows_left(self, n_samples: int) -> MedianOfMeansMinimization:
        return replace(self, n_blocks=n_samples) if self.n_blocks > n_samples else self

    def _estimate(self, gradients: SampleGradients, watch: bool = False) -> Estimate:
        weights = self._weights(gradients)
        value = gradients.weighted_sum(weights)
        return Estimate(value, weights * gradients.n_samples if watch else None)

    def _pullback(self, gradients: SampleGradients, cotangent: Any) -> tuple[Any, ...]:
        # A small move of the rows does not change the losses.
        return gradients.pullback_weights(self._weights(gradients), None, cotangent)

    def _weights(self, gradients: SampleGradients) -> Array:
        n = gradients.n_samples
        blocks = block_matrix(n, self.n_blocks)
        losses = fact(self, "losses", n).astype(np.float64)
        means = np.where(blocks > 0.0, blocks * losses, 0.0).sum(axis=-1)
        # A loss that is no number is no reason to descend on its block.
        means = np.where(np.isnan(means), np.inf, means)
        chosen = np.argsort(means, kind="stable")[(self.n_blocks - 1) // 2]
        xp = gradients.xp
        weights = xp.empty((*gradients.replicas, n))
        weights[...] = xp.asarray(blocks[chosen])
        return weights
