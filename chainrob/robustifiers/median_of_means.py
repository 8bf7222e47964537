"""Averages of blocks of samples, and a median of the averages."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, Literal

from chainrob.robustifiers.coordinate_median import CoordinateMedian
from chainrob.robustifiers.geometric_median import GeometricMedian
from chainrob.robustifiers.parameters import require_choice, require_integer
from chainrob.robustifiers.robustifier import Estimate, Policy, Robustifier
from chainrob.sample_gradients import SampleGradients
from chainrob.sample_gradients.operator_base import block_matrix


@cache
def _median(center: str, nonfinite: Policy) -> Robustifier:
    """The robustifier of the block means."""
    kinds = {"geometric": GeometricMedian, "coordinate": CoordinateMedian}
    return kinds[center](nonfinite=nonfinite)


@dataclass(frozen=True, repr=False)
class MedianOfMeans(Robustifier):
    r"""Median of the means of ``n_blocks`` contiguous blocks of samples.

    .. math:: \hat g = \mathrm{med}(y_1, \dots, y_B), \qquad
        y_b = \frac{1}{\lvert B_b \rvert} \sum_{i \in B_b} g_i

    ``center='geometric'`` is the robust gradient estimator of Prasad et al. and the tutorial's
    second estimator: the geometric median of the block means. ``center='coordinate'`` takes their
    coordinate-wise median.

    Blocks are runs of consecutive rows whose sizes differ by one at most, so the result depends on
    the order of the rows; a shuffled mini-batch makes them random. Breakdown point (n_blocks - 1)
    // 2 rows. Translation- and scale-equivariant. Cost: that of the median, for n_blocks rows.

    Args:
        n_blocks: number of blocks, 1 (the mean) to N (the median). Where rows that are not finite
            have been dropped and fewer than n_blocks are left, each of these is a block.
        center: ``'geometric'`` or ``'coordinate'``.

    Raises:
        ValueError: fewer than one block, or more blocks than samples at the call.

    Example:
        >>> import numpy as np, chainrob
        >>> rows = np.array([[1.0], [3.0], [2.0], [2.0], [1e9], [0.0]])
        >>> chainrob.MedianOfMeans(n_blocks=3, center='coordinate')(rows)
        array([2.])

    References:
        A. Prasad, A. S. Suggala, S. Balakrishnan and P. Ravikumar, Robust estimation via robust
        gradient estimation, JRSS B 2020. S. Minsker, Geometric median and robust estimation in
        Banach spaces, 2015.
    """

    n_blocks: int
    center: Literal["geometric", "coordinate"] = field(default="geometric", kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        require_integer(self, "n_blocks", 1)
        require_choice(self, "center", ("geometric", "coordinate"))

    def check(self, n_samples: int) -> None:
        if self.n_blocks > n_samples:
            raise ValueError(
                f"MedianOfMeans: n_blocks must not exceed the number of samples, found "
                f"{self.n_blocks} blocks for {n_samples} samples"
            )

    def for_rows_left(self, n_samples: int) -> MedianOfMeans:
        return replace(self, n_blocks=n_samples) if self.n_blocks > n_samples else self

    @property
    def median(self) -> Robustifier:
        """The robustifier of the block means."""
        return _median(self.center, self.nonfinite)

    def _estimate(self, gradients: SampleGradients, watch: bool = False) -> Estimate:
        # What is not finite has been dealt with, so the median need not look again.
        estimate = self.median._estimate(gradients.block_means(self.n_blocks), watch)
        if estimate.weights is None:
            return estimate
        # A block's weight is shared by its rows; the block means' weights average to one, and so do
        # these.
        xp, n_samples = gradients.xp, gradients.n_samples
        matrix = block_matrix(n_samples, self.n_blocks, xp)
        weights = xp.matmul(estimate.weights[..., None, :], matrix)[..., 0, :]
        return Estimate(estimate.value, weights * (n_samples / self.n_blocks))

    def _pullback(self, gradients: SampleGradients, cotangent: Any) -> tuple[Any, ...]:
        return self.median.pullback(gradients.block_means(self.n_blocks), cotangent)
