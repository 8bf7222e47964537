"""The soft truncation of the tutorial's released program. It differs a little from the text's."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from chainrob.robustifiers import Mean, SoftTruncation
from chainrob.robustifiers.robustifier import CoordinateWise, Estimate
from chainrob.sample_gradients import SampleGradients

__all__ = ["ReleasedSoftTruncation"]


@dataclass(frozen=True, repr=False)
class ReleasedSoftTruncation(CoordinateWise):
    r"""Soft truncation of the 1/N-scaled sample gradients, as in the released program.

    With rows h_i = g_i / N, mean m and sum of squared deviations S of one coordinate,

    .. math::
        \hat h = m + \frac{s}{N} \sum_i \psi\Big(\frac{h_i - m}{s}\Big), \qquad
        s^2 = \frac{N}{2 \log(1/\delta)} \max\Big(\frac{S}{N - \text{ddof}}, \text{floor}\Big)

    The result is :math:`\hat h` itself. It is not multiplied by N, so the layer learns at 1/N of
    the rate of the other layers. Fewer than three rows are simply summed. Each difference from
    Algorithm 2 is an argument. With ``estimate_scale='sample', variance_ddof=1, variance_floor=0,
    small_batches='estimate'`` this is ``chainrob.SoftTruncation``.

    ``chainrob.SoftTruncation`` does the computation, in the unit of one sample's gradient. In this
    unit the floor is N^2 times as large. A division by N - ddof instead of N - 1 amounts to another
    delta.

    Args:
        delta: Confidence parameter in (0, 1).
        estimate_scale: ``'batch'`` returns the estimate of the 1/N-scaled rows; ``'sample'``
            returns N times that.
        variance_ddof: ddof, 0 or 1.
        variance_floor: The least variance, in squared units of the 1/N-scaled rows.
        small_batches: ``'sum'``: the result for fewer than three rows is the sum of the 1/N-scaled
            rows, at either scale. ``'estimate'``: few rows are no exception.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> import numpy as np
        >>> from chainrob.experiments.iris import ReleasedSoftTruncation
        >>> rows = np.array([[3.0], [6.0], [9.0]])
        >>> float(ReleasedSoftTruncation()(rows)[0])  # 1/N of the mean, 6
        2.0
    """

    delta: float = 0.005
    estimate_scale: Literal["batch", "sample"] = field(default="batch", kw_only=True)
    variance_ddof: int = field(default=0, kw_only=True)
    variance_floor: float = field(default=0.001, kw_only=True)
    small_batches: Literal["sum", "estimate"] = field(default="sum", kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        SoftTruncation(self.delta, min_variance=self.variance_floor)  # checks these two
        if self.estimate_scale not in ("batch", "sample"):
            raise ValueError(
                f"estimate_scale must be 'batch' or 'sample', found {self.estimate_scale!r}"
            )
        if self.variance_ddof not in (0, 1):
            raise ValueError(f"variance_ddof must be 0 or 1, found {self.variance_ddof!r}")
        if self.small_batches not in ("sum", "estimate"):
            raise ValueError(
                f"small_batches must be 'sum' or 'estimate', found {self.small_batches!r}"
            )

    def _estimate(self, gradients: SampleGradients, watch: bool = False) -> Estimate:
        n = gradients.n_samples
        return self._inner(n)._estimate(gradients, watch).times(self._factor(n))

    def reduce(self, values: Any) -> Any:
        """Reduce the sample axis: values (*R, N, d) to (*R, d)."""
        n = values.shape[-2]
        inner = self._inner(n)
        if isinstance(inner, Mean):
            return values.mean(axis=-2) * self._factor(n)
        return inner.reduce(values) * self._factor(n)

    def coordinate_weights(self, values: Any) -> Any:
        """The weight of each value in its coordinate's estimate, 1 for a plain mean."""
        n = values.shape[-2]
        inner = self._inner(n)
        if isinstance(inner, Mean):
            return values * 0 + 1
        return inner.coordinate_weights(values)

    def _summed(self, n: int) -> bool:
        return n < 3 and self.small_batches == "sum"

    def _factor(self, n: int) -> float:
        """The factor of the result. A plain sum of the 1/N-scaled rows is the mean already."""
        return 1.0 if self.estimate_scale == "sample" or self._summed(n) else 1.0 / n

    def _inner(self, n: int) -> SoftTruncation | Mean:
        if self._summed(n) or n == 1:
            return Mean(nonfinite="propagate")
        # max(S / (n - ddof), floor) = c max(S / (n - 1), floor / c), and c goes into log(1/delta).
        c = (n - 1) / (n - self.variance_ddof)
        return SoftTruncation(
            self.delta ** (1 / c),
            min_variance=self.variance_floor * n**2 / c,
            nonfinite="propagate",
        )
