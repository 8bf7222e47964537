"""What is done to the rows before a robustifier sees them, and how the two are joined by ``>>``."""

from __future__ import annotations

import abc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import numpy as np

from chainrob.robustifiers.errors import NonFiniteGradientError, NotDifferentiableError
from chainrob.robustifiers.estimates import Estimate, in_chunks
from chainrob.robustifiers.gram import RowNorms
from chainrob.robustifiers.parameters import describe, with_dropped
from chainrob.robustifiers.robustifier import Robustifier, as_operator
from chainrob.sample_gradients import SampleGradients
from chainrob.sample_gradients.operator_base import Array

Self = TypeVar("Self", bound="PreAggregation")

WeightsBack = Callable[[Array], Array]


@dataclass(frozen=True, repr=False)
class PreAggregation(abc.ABC):
    """Base of what turns N rows into M mixed rows, each a linear combination of the N.

    ``pre >> robustifier`` is a robustifier, ``pre >> pre`` a pre-aggregation. Only the M x N matrix
    of the combinations is computed, from the Gram matrix of the rows; the mixed rows are never
    built.

    Called by itself with an array (N, D) a pre-aggregation returns the mixed rows (M, D); with a
    ``SampleGradients`` operator, an operator.
    """

    counts_bad_rows: ClassVar[tuple[str, ...]] = ()
    """Names of the fields that count rows assumed bad."""

    def __post_init__(self) -> None:  # noqa: B027 (most have nothing to check)
        """Raise where the parameters make no sense."""

    def __call__(self, gradients: Array | SampleGradients) -> Any:
        operator = as_operator(gradients)
        name = type(self).__name__
        if operator.n_samples == 0:
            raise ValueError(f"{name}: gradients must hold at least one row, found none")
        if not operator.all_finite():
            raise NonFiniteGradientError(
                f"{name}: gradients must be finite by themselves (a robustifier behind >> drops "
                f"rows that are not), found NaN or infinity"
            )
        self.check(operator.n_samples)
        mixed = self.mix(operator)
        if operator is gradients:
            return mixed
        return mixed.materialize().astype(operator.dtype, copy=False)

    @abc.abstractmethod
    def mix(self, gradients: SampleGradients) -> SampleGradients:
        """The operator of the mixed rows."""

    @abc.abstractmethod
    def mix_watched(self, gradients: SampleGradients) -> tuple[SampleGradients, WeightsBack]:
        """``mix``, and what hands weights (*R, M) of the mixed rows, 1 in a plain mean, back to the
        N rows.
        """

    def mix_constantly(self, gradients: SampleGradients) -> SampleGradients:
        """``mix``, for steps whose mixture stays when the rows move a little.

        Raises:
            NotDifferentiableError: the mixture moves with the rows.
        """
        raise NotDifferentiableError(f"the derivative of {self!r} is not known")

    def check(self, n_samples: int) -> None:  # noqa: B027 (not all have something to check)
        """Raise ValueError where the parameters cannot work with ``n_samples`` rows."""

    def n_mixed(self, n_samples: int) -> int:
        """M for N rows."""
        return n_samples

    def with_dropped(self: Self, n_dropped: int) -> Self:
        """The pre-aggregation for what is left when so many bad rows have been dropped already."""
        return with_dropped(self, n_dropped)

    def __rshift__(self, other: Any) -> Any:
        steps = self.steps if isinstance(self, Chain) else (self,)
        if isinstance(other, Chain):
            return Chain(steps + other.steps)
        if isinstance(other, PreAggregation):
            return Chain((*steps, other))
        if isinstance(other, Pipeline):
            return Pipeline(steps + other.steps, other.robustifier)
        if isinstance(other, Robustifier):
            return Pipeline(steps, other)
        raise TypeError(
            f"{self!r} >> ... needs a Robustifier or another pre-aggregation, found {other!r}; "
            f"wrap a plain function as chainrob.robustifiers.FromFunction(function)"
        )

    def __repr__(self) -> str:
        return describe(self)


@dataclass(frozen=True, repr=False)
class Mixing(PreAggregation):
    """Base of the pre-aggregations that are one matrix: row m is sum_n A_mn g_n."""

    affine: ClassVar[bool] = True
    """Whether the rows of A add up to one."""

    @abc.abstractmethod
    def matrix(self, gradients: SampleGradients) -> Array:
        """A: (*R, M, N), or (M, N) for all replicas, float64."""

    def mix(self, gradients: SampleGradients) -> SampleGradients:
        return gradients.mix(self.matrix(gradients), affine=self.affine)

    def mix_constantly(self, gradients: SampleGradients) -> SampleGradients:
        # Averages of chosen rows: a small move of the rows does not change the choice. Clipping is
        # not affine: its factors move with the rows.
        return self.mix(gradients) if self.affine else super().mix_constantly(gradients)

    def mix_watched(self, gradients: SampleGradients) -> tuple[SampleGradients, WeightsBack]:
        matrix = self.matrix(gradients)
        scale = matrix.shape[-1] / matrix.shape[-2]

        def weights_back(weights: Array) -> Array:
            return gradients.xp.matmul(weights[..., None, :], matrix)[..., 0, :] * scale

        return gradients.mix(matrix, affine=self.affine), weights_back


@dataclass(frozen=True, repr=False)
class Chain(PreAggregation):
    """Several pre-aggregations, one after the other: what ``pre >> pre`` makes."""

    steps: tuple[PreAggregation, ...]

    def mix(self, gradients: SampleGradients) -> SampleGradients:
        for step in self.steps:
            gradients = step.mix(gradients)
        return gradients

    def mix_constantly(self, gradients: SampleGradients) -> SampleGradients:
        for step in self.steps:
            gradients = step.mix_constantly(gradients)
        return gradients

    def mix_watched(self, gradients: SampleGradients) -> tuple[SampleGradients, WeightsBack]:
        back = []
        for step in self.steps:
            gradients, weights_back = step.mix_watched(gradients)
            back.append(weights_back)

        def all_weights_back(weights: Array) -> Array:
            for weights_back in reversed(back):
                weights = weights_back(weights)
            return weights

        return gradients, all_weights_back

    def check(self, n_samples: int) -> None:
        for step in self.steps:
            step.check(n_samples)
            n_samples = step.n_mixed(n_samples)

    def n_mixed(self, n_samples: int) -> int:
        for step in self.steps:
            n_samples = step.n_mixed(n_samples)
        return n_samples

    def with_dropped(self, n_dropped: int) -> Chain:
        return Chain(tuple(step.with_dropped(n_dropped) for step in self.steps))

    def __repr__(self) -> str:
        return " >> ".join(map(repr, self.steps))


@dataclass(frozen=True, repr=False, init=False)
class Pipeline(Robustifier):
    """Pre-aggregations and the robustifier behind them: what ``pre >> robustifier`` makes.

    It treats rows that are not finite as its robustifier says, before anything is mixed. The
    number of bad rows that it stands is its parts' affair: one bad row spoils all the rows that it
    is mixed into.

    Args:
        steps: pre-aggregations, at least one.
        robustifier: estimates from the mixed rows.

    Example:
        >>> import numpy as np, chainrob
        >>> robust = chainrob.NearestNeighborMixing(f=1) >> chainrob.GeometricMedian()
        >>> robust
        NearestNeighborMixing(f=1) >> GeometricMedian()
        >>> rows = np.array([[0.0], [1.0], [2.0], [3.0], [1e9]])
        >>> bool(0.0 < robust(rows)[0] < 3.0)
        True
    """

    steps: tuple[PreAggregation, ...]
    robustifier: Robustifier

    def __init__(self, steps: tuple[PreAggregation, ...], robustifier: Robustifier) -> None:
        object.__setattr__(self, "steps", tuple(steps))
        object.__setattr__(self, "robustifier", robustifier)
        object.__setattr__(self, "nonfinite", robustifier.nonfinite)

    @property
    def before(self) -> PreAggregation:
        """All the pre-aggregations as one."""
        return self.steps[0] if len(self.steps) == 1 else Chain(self.steps)

    def check(self, n_samples: int) -> None:
        self.before.check(n_samples)
        self.robustifier.check(self.before.n_mixed(n_samples))

    def with_dropped(self, n_dropped: int) -> Pipeline:
        steps = tuple(step.with_dropped(n_dropped) for step in self.steps)
        return Pipeline(steps, self.robustifier.with_dropped(n_dropped))

    def for_rows_left(self, n_samples: int) -> Pipeline:
        return Pipeline(self.steps, self.robustifier.for_rows_left(self.before.n_mixed(n_samples)))

    def _estimate(self, gradients: SampleGradients, watch: bool = False) -> Estimate:
        def answer(part: SampleGradients) -> Estimate:
            if not watch:
                return self.robustifier._estimate(self.before.mix(part))
            mixed, weights_back = self.before.mix_watched(part)
            estimate = self.robustifier._estimate(mixed, watch)
            if estimate.weights is None:
                return estimate
            return Estimate(estimate.value, weights_back(estimate.weights))

        return in_chunks(gradients, answer)

    def _pullback(self, gradients: SampleGradients, cotangent: Any) -> tuple[Any, ...]:
        return self.robustifier._pullback(self.before.mix_constantly(gradients), cotangent)

    def __repr__(self) -> str:
        return " >> ".join(map(repr, (*self.steps, self.robustifier)))


def norms_of(products: Array, xp: Any) -> Array:
    """Norms of the rows from their Gram matrix: (*R, N)."""
    diagonal = xp.diagonal(products, axis1=-2, axis2=-1)
    return xp.sqrt(xp.maximum(diagonal, 0.0))


def clipping_matrix(found: RowNorms, limit: Array | float, xp: Any) -> Array:
    """The diagonal matrices that shorten rows of these norms to a limit, NaN where rows are not
    finite: (*R, N, N).
    """
    norms = found.norms
    short = norms <= limit
    factors = xp.where(short, 1.0, limit / xp.where(short, 1.0, norms))
    matrix = factors[..., None] * xp.eye(norms.shape[-1], dtype=np.float64)
    return matrix if found.bad is None else xp.where(found.bad[..., None, None], np.nan, matrix)
