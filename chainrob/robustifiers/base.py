"""The contract of a robustifier: N gradients in, one gradient out."""

from __future__ import annotations

import abc
import warnings
from collections.abc import Callable
from dataclasses import MISSING, dataclass, field, fields
from math import prod
from typing import Any, Literal

import numpy as np

from chainrob.kernels import is_array
from chainrob.sample_gradients import Dense, SampleGradients
from chainrob.sample_gradients.base import TILE_BUDGET, Array, Fused

Policy = Literal["drop", "raise", "propagate"]


class NonFiniteGradientWarning(RuntimeWarning):
    """Some sample gradients held NaN or infinity and were given weight zero."""


class NonFiniteGradientError(ValueError):
    """Sample gradients hold NaN or infinity, and the robustifier may not (or cannot) drop them."""


class ConvergenceWarning(RuntimeWarning):
    """An iterative robustifier stopped before it met its tolerance."""


@dataclass(frozen=True, repr=False)
class Robustifier(abc.ABC):
    """Base of all robustifiers: ``estimate = robustifier(gradients)``.

    A subclass is a frozen dataclass; its fields are the parameters, checked in ``__post_init__`` as
    far as they can be checked without data and in ``check`` for a number of samples. Hence
    robustifiers are immutable, hashable, comparable, picklable and print as the call that makes
    them.

    Args:
        nonfinite: what becomes of rows with NaN or infinity: ``'drop'`` gives them weight 0 and
            warns, ``'raise'`` raises, ``'propagate'`` does not look.
    """

    nonfinite: Policy = field(default="drop", kw_only=True)

    def __post_init__(self) -> None:
        if self.nonfinite not in ("drop", "raise", "propagate"):
            raise ValueError(
                f"{type(self).__name__}: nonfinite must be 'drop', 'raise' or 'propagate', found {self.nonfinite!r}"
            )

    def __call__(self, gradients: Array | SampleGradients) -> Any:
        """The robust estimate of the N rows.

        Args:
            gradients: array (N, D), NumPy or CuPy, floating point; or a ``SampleGradients``
                operator.

        Returns:
            array (D,) of the same dtype on the same device; for an operator, (*R, *shape) of its
            parameter.

        Raises:
            ValueError: no rows, a wrong shape, parameters that cannot work with N rows, or no
                finite row.
            TypeError: not an array of a floating point dtype.
        """
        return self._guarded(as_operator(gradients), self._estimate)

    def sample_weights(self, gradients: Array | SampleGradients) -> Array:
        """The effective weight that each sample has in the estimate: (*R, N), float64, 1 for a
        plain mean.

        A dropped row has weight 0.
        """
        return self._guarded(as_operator(gradients), self._sample_weights, spread=True)

    def check(self, n_samples: int) -> None:
        """Raise ValueError where the parameters cannot work with ``n_samples`` rows."""

    @abc.abstractmethod
    def _estimate(self, gradients: SampleGradients) -> Any:
        """The estimate from finite rows, at least one."""

    @abc.abstractmethod
    def _sample_weights(self, gradients: SampleGradients) -> Array:
        """The effective weights from finite rows, at least one."""

    def __rshift__(self, other: Any) -> Any:
        raise TypeError(
            f"{type(self).__name__} gives one gradient, so nothing can follow it; write pre-aggregation >> robustifier"
        )

    def __repr__(self) -> str:
        return describe(self)

    # -- rows that are not finite

    def _guarded(
        self,
        gradients: SampleGradients,
        answer: Callable[[SampleGradients], Any],
        *,
        spread: bool = False,
    ) -> Any:
        if gradients.n_samples == 0:
            raise ValueError(
                f"{type(self).__name__}: gradients must hold at least one row, found none"
            )
        if self.nonfinite == "propagate" or gradients.all_finite():
            self.check(gradients.n_samples)
            return answer(gradients)
        finite = gradients.finite_rows()
        n_bad = int((~finite).sum())
        if self.nonfinite == "raise" or not bool(finite.any(axis=-1).all()):
            raise NonFiniteGradientError(
                f"{type(self).__name__}: {n_bad} of {finite.size} sample gradients hold NaN or infinity"
                + (
                    ' and nonfinite is "raise"'
                    if self.nonfinite == "raise"
                    else "; no finite row is left"
                )
            )
        warnings.warn(
            f"{type(self).__name__}: {n_bad} of {finite.size} sample gradients hold NaN or infinity; "
            f"they have weight 0",
            NonFiniteGradientWarning,
            stacklevel=4,
        )
        return self._over_replicas(gradients, finite, answer, spread)

    def _over_replicas(
        self,
        gradients: SampleGradients,
        finite: Array,
        answer: Callable[[SampleGradients], Any],
        spread: bool,
    ) -> Any:
        """Answer from the finite rows; their number may differ between replicas, so each is taken
        by itself.
        """
        xp = gradients.xp
        if gradients.replicas:
            parts = [
                self._over_replicas(gradients.replica((t,)), finite[t], answer, spread)
                for t in range(gradients.replicas[0])
            ]
            if isinstance(parts[0], tuple):
                return tuple(xp.stack(column) for column in zip(*parts, strict=True))
            return xp.stack(parts)
        kept = xp.flatnonzero(finite)
        self.check(len(kept))
        result = answer(gradients.take(kept))
        if not spread:
            return result
        weights = xp.zeros(gradients.n_samples, result.dtype)
        weights[kept] = result
        return weights


@dataclass(frozen=True, repr=False)
class CoordinateWise(Robustifier):
    """A robustifier that looks at one coordinate at a time, and is therefore the same in every
    scope.
    """

    def _estimate(self, gradients: SampleGradients) -> Any:
        return gradients.reduce(self.reduce, fused=self.fused())

    def fused(self) -> Fused | None:
        """The compiled form of ``reduce`` for outer products, None where there is none."""
        return None

    @abc.abstractmethod
    def reduce(self, values: Array) -> Array:
        """Reduce the sample axis: values (*R, N, d), float32 or float64, to (*R, d).

        This is the definition; a fused kernel, where there is one, must agree with it.
        """

    @abc.abstractmethod
    def coordinate_weights(self, values: Array) -> Array:
        """The weight of each value in its coordinate's estimate, 1 for a plain mean: (*R, N, d)."""

    def _sample_weights(self, gradients: SampleGradients) -> Array:
        xp = gradients.xp
        total = xp.zeros((*gradients.replicas, gradients.n_samples), np.float64)
        for _, values in gradients.tiles():
            total += self.coordinate_weights(values).sum(axis=-1, dtype=np.float64)
        return total / max(gradients.size, 1)


@dataclass(frozen=True, repr=False)
class Weighting(Robustifier):
    """A robustifier that answers with N sample weights, found from the Gram matrix of the rows
    alone.
    """

    translation_equivariant = True
    """Whether the weights stay when a common vector is added to all rows; then a centred Gram
    matrix is used."""

    def _estimate(self, gradients: SampleGradients) -> Any:
        return gradients.weighted_sum(self._row_weights(gradients))

    @abc.abstractmethod
    def weights(self, gram: Array) -> Array:
        """Weights (*R, N) from a Gram matrix (*R, N, N), float64: the estimate is sum_i w_i g_i."""

    def _sample_weights(self, gradients: SampleGradients) -> Array:
        return self._row_weights(gradients) * gradients.n_samples

    def _row_weights(self, gradients: SampleGradients) -> Array:
        n = gradients.n_samples
        replicas = gradients.replicas
        if replicas and prod(replicas) * n * n > TILE_BUDGET and replicas[0] > 1:
            step = max(1, TILE_BUDGET // (prod(replicas[1:]) * n * n))
            chunks = [
                self._row_weights_of(gradients.replica((slice(start, start + step),)))
                for start in range(0, replicas[0], step)
            ]
            return gradients.xp.concatenate(chunks, axis=0)
        return self._row_weights_of(gradients)

    def _row_weights_of(self, gradients: SampleGradients) -> Array:
        return self.weights(
            gradients.centered_gram() if self.translation_equivariant else gradients.gram()
        )


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


def describe(value: Any) -> str:
    """The call that makes a dataclass: positional fields always, keyword-only ones where they
    differ from the default.
    """
    shown = []
    for item in fields(value):
        content = getattr(value, item.name)
        if item.kw_only and item.default is not MISSING and content == item.default:
            continue
        shown.append(f"{item.name}={content!r}")
    return f"{type(value).__name__}({', '.join(shown)})"
