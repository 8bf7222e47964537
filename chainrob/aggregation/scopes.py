"""Scope: which sample gradients form one row, in the estimate and in its derivative."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from chainrob.aggregation.layer_options import Scope
from chainrob.robustifiers.base import CoordinateWise, Robustifier
from chainrob.robustifiers.errors import NotDifferentiableError
from chainrob.robustifiers.from_function import FromFunction
from chainrob.robustifiers.mean import Mean
from chainrob.sample_gradients import Joined, SampleGradients
from chainrob.sample_gradients.base import Array

JOINT_OR_APART = (CoordinateWise, Mean)
"""Robustifiers to which it is the same whether parameters are estimated together or one by one."""


def estimate(
    robustifier: Callable[[Any], Any], gradients: Sequence[SampleGradients], scope: Scope = "layer"
) -> list[Array]:
    """One robust gradient for each parameter.

    Args:
        robustifier: a Robustifier, or any callable (N, D) -> (D,).
        gradients: the parameters of one layer, or of a model, with the same N.
        scope: which gradients form one row: of one output unit, of one parameter, or of all of them
            together (``'layer'`` and ``'model'``).

    Returns:
        one array (*R, *shape) for each parameter, in its dtype.
    """
    if gradients and gradients[0].n_samples == 0 and not spans_ranks(robustifier):
        # An empty batch has a loss of nothing, and the stock gradient of that is zero.
        return [one.zeros() for one in gradients]
    if not isinstance(robustifier, Robustifier):
        robustifier = FromFunction(robustifier)
    joined = scope in ("layer", "model") and len(gradients) > 1
    if joined and not isinstance(robustifier, JOINT_OR_APART):
        return list(robustifier(Joined(gradients)))
    if scope == "unit":
        return [_by_unit(robustifier, one) for one in gradients]
    return [robustifier(one) for one in gradients]


def count_samples(robustifier: Callable[[Any], Any], n_samples: int) -> int:
    """N: the samples at hand, or those of all ranks where the robustifier is distributed."""
    if not spans_ranks(robustifier):
        return n_samples
    return robustifier.count_samples(n_samples)  # type: ignore[attr-defined]


def plain_mean(robustifier: Callable[[Any], Any], gradients: SampleGradients) -> Array:
    """The plain mean of the rows that the robustifier would see: those of all ranks, if it does."""
    mean: Any = Mean(nonfinite="propagate")
    if spans_ranks(robustifier):
        mean = robustifier.of(mean)  # type: ignore[attr-defined]
    return mean(gradients)


def spans_ranks(robustifier: Any) -> bool:
    """Whether it estimates from the samples of several ranks."""
    return hasattr(robustifier, "count_samples")


def _by_unit(robustifier: Robustifier, gradients: SampleGradients) -> Array:
    """Every output unit a problem of its own; the estimate in the parameter's own shape."""
    if not gradients.shape:  # a single number is its own unit
        return robustifier(gradients)
    estimate = robustifier(gradients.units())
    return gradients.join_units(estimate)


def pullback(
    robustifier: Callable[[Any], Any],
    gradients: Sequence[SampleGradients],
    cotangents: Sequence[Array],
    scope: Scope = "layer",
) -> list[tuple[Array, ...]]:
    """The derivative of ``estimate``, taken from cotangents of the estimates back to the rows.

    Args:
        robustifier, gradients, scope: as for ``estimate``.
        cotangents: one array (*R, *shape) for each parameter.

    Returns:
        for each parameter, the cotangents of its operator's ingredients, see
        ``Robustifier.pullback``.

    Raises:
        NotDifferentiableError: a plain callable, or a robustifier without a known derivative.
    """
    if not isinstance(robustifier, Robustifier):
        raise NotDifferentiableError(
            f"the derivative of the plain callable {robustifier!r} is not known; a subclass of "
            f"chainrob.Robustifier can define one"
        )
    joined = scope == "layer" and len(gradients) > 1
    if joined and not isinstance(robustifier, JOINT_OR_APART):
        return list(robustifier.pullback(Joined(gradients), tuple(cotangents)))
    pairs = zip(gradients, cotangents, strict=True)
    if scope == "unit" and not isinstance(robustifier, JOINT_OR_APART):
        return [_pullback_by_unit(robustifier, one, cotangent) for one, cotangent in pairs]
    return [robustifier.pullback(one, cotangent) for one, cotangent in pairs]


def _pullback_by_unit(
    robustifier: Robustifier, gradients: SampleGradients, cotangent: Array
) -> tuple[Array, ...]:
    return gradients.pulled_units(robustifier.pullback(gradients.units(), cotangent))
