"""Scope: which sample gradients form one row, in the estimate and in its derivative."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from chainrob.aggregation.layer_options import Scope
from chainrob.robustifiers.errors import NotDifferentiableError
from chainrob.robustifiers.from_function import FromFunction
from chainrob.robustifiers.mean import Mean
from chainrob.robustifiers.robustifier import CoordinateWise, Estimate, Robustifier
from chainrob.sample_gradients import Joined, SampleGradients
from chainrob.sample_gradients.operator_base import Array

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
    return estimate_watched(robustifier, gradients, scope, watch=False)[0]


def estimate_watched(
    robustifier: Callable[[Any], Any],
    gradients: Sequence[SampleGradients],
    scope: Scope = "layer",
    *,
    watch: bool = True,
) -> tuple[list[Array], Array | None]:
    """As ``estimate``, and the weights that the samples had in it, from the same pass.

    Returns:
        one array (*R, *shape) for each parameter, and the weights (*R, N), float64. Where a sample
        has one weight a unit or a parameter, they are averaged over the coordinates. None where
        nobody watches, and for a plain callable, whose weights nobody knows.
    """
    if not gradients:
        return [], None
    if gradients[0].n_samples == 0 and not spans_ranks(robustifier):
        # An empty batch has a loss of nothing, and the stock gradient of that is zero.
        return [one.zeros() for one in gradients], _of_nothing(gradients[0]) if watch else None
    if not isinstance(robustifier, Robustifier):
        robustifier = FromFunction(robustifier)
    same = isinstance(robustifier, JOINT_OR_APART)
    if same or scope in ("layer", "model"):
        whole = gradients[0] if len(gradients) == 1 else Joined(gradients)
        if not same or robustifier.nonfinite == "propagate":
            value, weights = robustifier.estimate(whole, watch)
        elif whole.all_finite():
            value, weights = robustifier.estimate_unseen(whole, watch)
        else:  # rows are dropped parameter by parameter, or unit by unit
            values = [_of_parameter(robustifier, one, scope, False).value for one in gradients]
            return values, robustifier.sample_weights(whole) if watch else None
        return [value] if len(gradients) == 1 else list(value), weights
    values = []
    total, count = None, 0
    for one in gradients:
        value, weights = _of_parameter(robustifier, one, scope, watch)
        values.append(value)
        # What no sample touched says nothing about any sample.
        if weights is not None and (size := one.touched().size):
            share = weights * size
            total, count = share if total is None else total + share, count + size
    if not watch or isinstance(robustifier, FromFunction):
        return values, None
    return values, _of_nothing(gradients[0]) if total is None else total / count


def _of_parameter(
    robustifier: Robustifier, gradients: SampleGradients, scope: Scope, watch: bool
) -> Estimate:
    """The estimate of one parameter by itself, with ``'unit'`` that of each output unit; then the
    weights are averaged over the units.
    """
    if scope != "unit" or not gradients.shape:  # a single number is its own unit
        return robustifier.estimate(gradients, watch)
    value, weights = robustifier.estimate(gradients.units(), watch)
    value = gradients.join_units(value)
    return Estimate(value, None if weights is None else weights.mean(axis=-2))


def _of_nothing(gradients: SampleGradients) -> Array:
    """The weights where there is nothing to weigh."""
    return gradients.xp.ones((*gradients.replicas, 0))


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
