"""The contract of a robustifier: N gradients in, one gradient out."""

from __future__ import annotations

import abc
import warnings
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np

from chainrob.kernels import array_module, is_array
from chainrob.robustifiers.errors import (
    ConvergenceWarning,
    NonFiniteGradientError,
    NonFiniteGradientWarning,
    NotDifferentiableError,
)
from chainrob.robustifiers.estimates import Estimate, in_chunks, together
from chainrob.robustifiers.gram import gram_matrix
from chainrob.robustifiers.parameters import describe, require_choice, with_dropped
from chainrob.sample_gradients import Dense, SampleGradients
from chainrob.sample_gradients.operator_base import AmongZeros, Array, Fused, Reduction, RowSquares

__all__ = [
    "ConvergenceWarning",
    "CoordinateWise",
    "Estimate",
    "NonFiniteGradientError",
    "NonFiniteGradientWarning",
    "NotDifferentiableError",
    "Policy",
    "Robustifier",
    "Weighting",
    "as_operator",
    "describe",
]

Policy = Literal["drop", "raise", "propagate"]
Self = TypeVar("Self", bound="Robustifier")


@dataclass(frozen=True, repr=False)
class Robustifier(abc.ABC):
    """Base of all robustifiers: ``estimate = robustifier(gradients)``.

    A subclass is a frozen dataclass; its fields are the parameters, checked in ``__post_init__`` as
    far as they can be checked without data and in ``check`` for a number of samples. Hence
    robustifiers are immutable, hashable, comparable, picklable and print as the call that makes
    them.

    Args:
        nonfinite: what becomes of rows with NaN or infinity. ``'drop'`` gives them weight 0 and
            warns: the answer is that of the other rows, and where a parameter counts bad rows, as
            ``f`` does, the dropped ones are taken off it, for they are found; a count that the
            rows left cannot fill, as ``n_blocks``, is cut down to them. ``'raise'`` raises.
            ``'propagate'`` does not look: the caller vouches for the rows, and NaN gives NaN or
            whatever arithmetic makes of it. On a device, to look is to wait for one number a call
            (more where rows are bad); ``'propagate'`` waits for none, so the host can run ahead.
    """

    nonfinite: Policy = field(default="drop", kw_only=True)

    counts_bad_rows: ClassVar[tuple[str, ...]] = ()
    """Names of the fields that count rows assumed bad."""

    def __post_init__(self) -> None:
        require_choice(self, "nonfinite", ("drop", "raise", "propagate"))

    def __call__(
        self, gradients: Array | SampleGradients | None = None, *, x: Array | None = None
    ) -> Any:
        """The robust estimate of the N rows.

        Args:
            gradients: array (N, D), NumPy or CuPy, floating point; or a ``SampleGradients``
                operator.
            x: the same by the name that it has in the tutorial's Listing 4, in place of it.

        Returns:
            array (D,) of the same dtype on the same device; for an operator, (*R, *shape) of its
            parameter.

        Raises:
            ValueError: no rows, a wrong shape, parameters that cannot work with N rows, or no
                finite row.
            TypeError: not an array of a floating point dtype; or both names, or neither.
        """
        return self.estimate(self._given(gradients, x)).value

    def _given(self, gradients: Any, x: Any) -> Any:
        """The rows, by whichever of the two names."""
        if (gradients is None) == (x is None):
            raise TypeError(f"{type(self).__name__} takes the rows once: as gradients or as x=")
        return x if gradients is None else gradients

    def estimate(self, gradients: Array | SampleGradients, watch: bool = False) -> Estimate:
        """The estimate, and with ``watch`` the samples' weights from the same pass.

        The arguments and errors of a call. A subclass outside of the two families defines
        ``_estimate``.

        Args:
            gradients: the rows, as for the call.
            watch: whether the weights are wanted.
        """
        gradients = as_operator(gradients)
        name = type(self).__name__
        n_samples = gradients.n_samples
        if n_samples == 0:
            raise ValueError(f"{name}: gradients must hold at least one row, found none")
        if self.nonfinite == "propagate":
            with np.errstate(over="ignore", invalid="ignore"):
                return self.estimate_unseen(gradients, watch)
        if gradients.all_finite():
            return self.estimate_unseen(gradients, watch)
        finite = gradients.finite_rows()
        n_bad = int((~finite).sum())
        found = f"{name}: {n_bad} of {finite.size} sample gradients hold NaN or infinity"
        if self.nonfinite == "raise":
            raise NonFiniteGradientError(f"{found} and nonfinite is 'raise'")
        if not bool(finite.any(axis=-1).all()):
            raise NonFiniteGradientError(
                f"{found}; no finite row is left (nonfinite='propagate' would let NaN through)"
            )
        if n_bad:
            warnings.warn(f"{found}; they have weight 0", NonFiniteGradientWarning, stacklevel=3)
        return self._from_finite(gradients, finite, watch)

    def estimate_unseen(self, gradients: SampleGradients, watch: bool = False) -> Estimate:
        """As ``estimate``, of an operator whose rows the caller knows to be finite."""
        self.check(gradients.n_samples)
        return self._estimate(gradients, watch)

    def sample_weights(self, gradients: Array | SampleGradients) -> Array:
        r"""How much of each sample entered the estimate: (*R, N), float64; 1 in a plain mean.

        A row that was dropped has weight 0, and low weights point at suspects.

        - A weighting robustifier's estimate is the sum of w_n g_n / N, and w_n is the weight.
        - A coordinate-wise one gives each value g_nj a weight w_nj of its own, and a plain average
          over the coordinates would hide a row that is far off in a few of many. So a row's weight
          is the share of its squared deviation from the coordinates' weighted means m_j that was
          let in (1 for a row without deviation):

          .. math:: w_n = \frac{\sum_j w_{nj} (g_{nj} - m_j)^2}{\sum_j (g_{nj} - m_j)^2}
        - Behind a pre-aggregation, the weights of the mixed rows are handed back to the rows that
          went into them.
        """
        weights = self.estimate(gradients, watch=True).weights
        if weights is None:
            raise TypeError(f"{self!r}: nobody knows the sample weights of a plain function")
        return weights

    def pullback(self, gradients: Array | SampleGradients, cotangent: Any) -> tuple[Any, ...]:
        """What double backward needs: the cotangent of the estimate taken back to the rows.

        Args:
            gradients: the rows, as for the call.
            cotangent: array of the estimate's shape; a tuple of them for joined parameters.

        Returns:
            cotangents of the operator's ingredients: ``(rows,)`` for an array or dense rows,
            ``(x, gy)`` for outer products, a tuple of such for joined parameters.

        Raises:
            NotDifferentiableError: the estimate has no derivative, none is known, or rows are not
                finite.
        """
        gradients = as_operator(gradients)
        self.check(gradients.n_samples)
        if not gradients.all_finite():
            raise NotDifferentiableError(
                f"{self!r}: there is no derivative in sample gradients that hold NaN or infinity"
            )
        return self._pullback(gradients, cotangent)

    def _pullback(self, gradients: SampleGradients, cotangent: Any) -> tuple[Any, ...]:
        raise NotDifferentiableError(f"the derivative of {self!r} is not known")

    def check(self, n_samples: int) -> None:  # noqa: B027 (most have nothing to check)
        """Raise ValueError where the parameters cannot work with ``n_samples`` rows."""

    def with_dropped(self: Self, n_dropped: int) -> Self:
        """The robustifier for what is left when so many bad rows have been dropped already."""
        return with_dropped(self, n_dropped)

    def for_rows_left(self: Self, n_samples: int) -> Self:
        """The robustifier for the ``n_samples`` rows that are left when bad rows have been dropped:
        counts that they cannot fill, of blocks or of rows to average, are cut down.
        """
        return self

    def scaled_by(self: Self, exponent: Any) -> Self:
        """The robustifier for rows that were divided by 2^exponent: what has absolute thresholds
        divides these as well.
        """
        return self

    @abc.abstractmethod
    def _estimate(self, gradients: SampleGradients, watch: bool = False) -> Estimate:
        """The estimate from finite rows, at least one; with ``watch`` and their weights."""

    def __rshift__(self, other: Any) -> Any:
        raise TypeError(
            f"{type(self).__name__} gives one gradient, so nothing can follow it; "
            f"write pre-aggregation >> robustifier"
        )

    def __repr__(self) -> str:
        return describe(self)

    def _from_finite(self, gradients: SampleGradients, finite: Array, watch: bool) -> Estimate:
        """The estimate from the finite rows; where they differ between replicas, one by one."""
        xp = gradients.xp
        n_samples = gradients.n_samples
        rows = finite.reshape(-1, n_samples)
        if not bool((rows == rows[:1]).all()):
            parts = [
                self._from_finite(gradients.replica((t,)), finite[t], watch)
                for t in range(gradients.replicas[0])
            ]
            return together(xp.stack, parts)
        kept = xp.flatnonzero(rows[0])
        left = self.with_dropped(n_samples - len(kept)).for_rows_left(len(kept))
        left.check(len(kept))
        result = left._estimate(gradients.take(kept), watch)
        if result.weights is None:
            return result
        weights = xp.zeros((*gradients.replicas, n_samples), result.weights.dtype)
        weights[..., kept] = result.weights
        return Estimate(result.value, weights)


@dataclass(frozen=True, repr=False)
class CoordinateWise(Robustifier):
    """A robustifier that looks at one coordinate at a time, and is therefore the same in every
    scope.
    """

    def _estimate(self, gradients: SampleGradients, watch: bool = False) -> Estimate:
        reduction = self.reduction(gradients.n_samples)
        if not watch:
            return Estimate(gradients.reduce(reduction))
        squares = RowSquares.of(gradients)
        value = gradients.reduce(reduction, squares=squares)
        return Estimate(value, squares.weights())

    def reduction(self, n_samples: int) -> Reduction:
        """``reduce`` with its weights and its compiled form, for N rows."""
        return Reduction(
            self.reduce,
            self.coordinate_weights,
            self.fused(n_samples),
            among_zeros=self.among_zeros,
        )

    def fused(self, n_samples: int) -> Fused | None:
        """The compiled form of ``reduce`` for outer products, None where there is none."""
        return None

    def among_zeros(self, n_samples: int) -> AmongZeros:
        """What is known of coordinates that are zero in most samples, as in an embedding."""
        return AmongZeros()

    @abc.abstractmethod
    def reduce(self, values: Array) -> Array:
        """Reduce the sample axis: values (*R, N, d), float32 or float64, to (*R, d).

        This is the definition; a fused kernel, where there is one, must agree with it.
        """

    def derivative(self, values: Array) -> Array:
        """Derivative of each coordinate's estimate in each value, (*R, N, d), almost everywhere."""
        raise NotDifferentiableError(f"the derivative of {self!r} is not known")

    def _pullback(self, gradients: SampleGradients, cotangent: Any) -> tuple[Any, ...]:
        return gradients.pullback_coordinates(self.derivative, cotangent)

    @abc.abstractmethod
    def coordinate_weights(self, values: Array) -> Array:
        """The weight of each value in its coordinate's estimate, 1 for a plain mean: (*R, N, d)."""


@dataclass(frozen=True, repr=False)
class Weighting(Robustifier):
    """A robustifier that answers with N sample weights, found from the Gram matrix of the rows
    alone.
    """

    @property
    def translation_equivariant(self) -> bool:
        """Whether the weights stay when a common vector is added to all rows; then a centered Gram
        matrix is used.
        """
        return True

    def _estimate(self, gradients: SampleGradients, watch: bool = False) -> Estimate:
        weights = in_chunks(gradients, self._row_weights)
        value = gradients.weighted_sum(weights)
        return Estimate(value, weights * gradients.n_samples if watch else None)

    @abc.abstractmethod
    def weights(self, gram: Array) -> Array:
        """Weights (*R, N) from a Gram matrix (*R, N, N), float64: the estimate is sum_i w_i g_i.

        The unit of the Gram matrix is whatever keeps its entries ordinary; a robustifier with
        absolute thresholds is asked for its form in that unit first (``scaled_by``).
        """

    def compiled_weights(self, gram: Array) -> Array | None:
        """``weights`` as a compiled form gives them, None where there is none.

        ``weights`` is the definition, which the compiled form has to meet.
        """
        return None

    def derivative(self, gram: Array, projections: Array) -> tuple[Array, Array | None]:
        """The cotangent of row n as w_n v + sum_m M_nm g_m, for a cotangent v of the estimate.

        Args:
            gram: the Gram matrix (*R, N, N) of the rows, about the estimate where the robustifier
                is translation-equivariant.
            projections: inner products (*R, N) of the same rows with v.

        Returns:
            w, (*R, N), and M, (*R, N, N), for the same rows; None stands for M = 0.
        """
        raise NotDifferentiableError(f"the derivative of {self!r} is not known")

    def _pullback(self, gradients: SampleGradients, cotangent: Any) -> tuple[Any, ...]:
        xp = gradients.xp
        gram = gram_matrix(gradients, centered=self.translation_equivariant)
        scaled = self.scaled_by(gram.exponent)
        products, along = gram.products, gradients.projections(cotangent)[..., None]
        if self.translation_equivariant:
            # About the estimate itself: a point that is known by its weights, and an ordinary one.
            weights = scaled.weights(products)[..., None]
            shift = xp.eye(gradients.n_samples) - weights.swapaxes(-1, -2)
            products, along = _about(products, shift), xp.matmul(shift, along)
        weights, mixing = scaled.derivative(products, along[..., 0])
        if mixing is not None:
            # The rows that M mixes are scaled by 2^-exponent and, if centered, less the estimate.
            mixing = xp.ldexp(mixing, -2 * gram.exponent)
            if self.translation_equivariant:
                mixing = xp.matmul(mixing, shift)
        return gradients.pullback_weights(weights, mixing, cotangent)

    def _row_weights(self, gradients: SampleGradients) -> Array:
        gram = gram_matrix(
            gradients,
            centered=self.translation_equivariant,
            propagate=self.nonfinite == "propagate",
        )
        scaled = self.scaled_by(gram.exponent)
        weights = scaled.compiled_weights(gram.products)
        if weights is None:
            weights = scaled.weights(gram.products)
        if gram.bad is not None:
            weights = gradients.xp.where(gram.bad[..., None], np.nan, weights)
        return weights


def _about(gram: Array, shift: Array) -> Array:
    """The Gram matrix with the rows shifted; rows within rounding of zero are made zero."""
    xp = array_module(gram)
    norms = xp.diagonal(gram, axis1=-2, axis2=-1)
    shifted = xp.matmul(xp.matmul(shift, gram), shift.swapaxes(-1, -2))
    noise = 1e-13 * xp.median(norms, axis=-1, keepdims=True)
    there = xp.diagonal(shifted, axis1=-2, axis2=-1) > noise
    return xp.where(there[..., :, None] & there[..., None, :], shifted, 0.0)


def as_operator(gradients: Array | SampleGradients) -> SampleGradients:
    """An operator as it is; an array (N, D) as a dense one."""
    if isinstance(gradients, SampleGradients):
        return gradients
    if not is_array(gradients):
        raise TypeError(
            f"gradients must be a NumPy or CuPy array (N, D) or a SampleGradients operator, found "
            f"{type(gradients).__name__}"
        )
    if gradients.dtype.kind != "f":
        raise TypeError(f"gradients must have a floating point dtype, found {gradients.dtype}")
    if gradients.ndim != 2:
        raise ValueError(f"gradients must have two axes (N, D), found shape {gradients.shape}")
    return Dense(gradients)
