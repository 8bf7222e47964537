"""From the sample gradients of a layer's parameters to their robust estimates: scope and scale in
one place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

from chainrob.robustifiers.base import CoordinateWise, Robustifier
from chainrob.robustifiers.errors import NotDifferentiableError
from chainrob.robustifiers.from_function import FromFunction
from chainrob.robustifiers.mean import Mean
from chainrob.sample_gradients import Dense, EmbeddingGradients, Joined, SampleGradients, Tiled
from chainrob.sample_gradients.base import Array

Scope = Literal["unit", "parameter", "layer", "model"]
Reduction = Literal["mean", "sum"]
SCOPES = ("unit", "parameter", "layer", "model")
REDUCTIONS = ("mean", "sum")

JOINT_OR_APART = (CoordinateWise, Mean)
"""Robustifiers to which it is the same whether parameters are estimated together or one by one."""


def check_options(robustifier: Any, loss_reduction: str, scope: str) -> None:
    """Raise where the keyword arguments that all robust functions and links share make no sense."""
    if robustifier is not None and not callable(robustifier):
        raise TypeError(
            f"robustifier must be None, a Robustifier or a callable (N, D) -> (D,), "
            f"found {robustifier!r}"
        )
    if isinstance(robustifier, type):
        raise TypeError(f"robustifier must be an instance, found the class {robustifier.__name__}")
    if loss_reduction not in REDUCTIONS:
        raise ValueError(f"loss_reduction must be one of {REDUCTIONS}, found {loss_reduction!r}")
    if scope not in SCOPES:
        raise ValueError(f"scope must be one of {SCOPES}, found {scope!r}")


def estimate(
    robustifier: Callable[[Any], Any], gradients: Sequence[SampleGradients], scope: Scope = "layer"
) -> list[Array]:
    """One robust gradient for each parameter.

    Args:
        robustifier: a Robustifier, or any callable (N, D) -> (D,).
        gradients: the parameters of one layer, with the same N.
        scope: which gradients form one row: of one output unit, of one parameter, or of all of them
            together.

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
    if gradients and gradients[0].n_samples == 0 and not _spans_ranks(robustifier):
        # An empty batch has a loss of nothing, and the stock gradient of that is zero.
        zeros = [one.xp.zeros((*one.replicas, *one.shape), one.dtype) for one in gradients]
        return zeros, gradients[0].xp.ones((*gradients[0].replicas, 0)) if watch else None
    if not isinstance(robustifier, Robustifier):
        robustifier = FromFunction(robustifier)
    same = isinstance(robustifier, JOINT_OR_APART)
    if len(gradients) > 1 and (watch if same else scope == "layer"):
        joined = Joined(gradients)
        # Rows that are not finite are dropped parameter by parameter where these are apart.
        if not same or robustifier.nonfinite == "propagate" or joined.all_finite():
            values, weights = robustifier.estimate(joined, watch)
            return list(values), weights
        return [robustifier(one) for one in gradients], robustifier.sample_weights(joined)
    found = [_apart(robustifier, one, scope, watch) for one in gradients]
    total, count = None, 0
    for one, (_, weights) in zip(gradients, found, strict=True):
        if weights is not None and one.size:
            # Rows of an embedding that no sample touched say nothing about any sample.
            size = one.touched().size if isinstance(one, EmbeddingGradients) else one.size
            share = weights * size
            total, count = share if total is None else total + share, count + size
    values = [value for value, _ in found]
    if total is not None:
        return values, total / max(count, 1)
    known = watch and gradients and not isinstance(robustifier, FromFunction)
    return values, gradients[0].xp.ones((*gradients[0].replicas, 0)) if known else None


def _apart(
    robustifier: Robustifier, gradients: SampleGradients, scope: Scope, watch: bool
) -> tuple[Array, Array | None]:
    """The estimate of one parameter in its own shape, and the weights in it."""
    same = watch and isinstance(robustifier, JOINT_OR_APART)
    if scope != "unit" or not gradients.shape or same:  # a single number is its own unit
        return robustifier.estimate(gradients, watch)
    # Every output unit is a problem of its own.
    estimate, weights = robustifier.estimate(gradients.units(), watch)
    if isinstance(gradients, Tiled):
        estimate = gradients.join_units(estimate)
    else:
        estimate = estimate.reshape((*gradients.replicas, *gradients.shape))
    return estimate, None if weights is None else weights.mean(axis=-2)


def count_samples(robustifier: Callable[[Any], Any], n_samples: int) -> int:
    """N: the samples at hand, or those of all ranks where the robustifier is distributed."""
    if not _spans_ranks(robustifier):
        return n_samples
    return robustifier.count_samples(n_samples)  # type: ignore[attr-defined]


def plain_mean(robustifier: Callable[[Any], Any], gradients: SampleGradients) -> Array:
    """The plain mean of the rows that the robustifier would see: those of all ranks, if it does."""
    mean: Any = Mean(nonfinite="propagate")
    if _spans_ranks(robustifier):
        mean = robustifier.of(mean)  # type: ignore[attr-defined]
    return mean(gradients)


def _spans_ranks(robustifier: Any) -> bool:
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
    pulled = robustifier.pullback(gradients.units(), cotangent)
    if isinstance(gradients, Dense):
        # Its units have the unit's axis before the samples; the rows have it behind them.
        axis = len(gradients.replicas)
        return tuple(gradients.xp.moveaxis(one, axis, axis + 1) for one in pulled)
    return pulled
