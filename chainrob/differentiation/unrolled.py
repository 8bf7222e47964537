"""The derivative of an argmin through the iterations of gradient descent."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import chainer
from chainrob.differentiation._closed import as_array, closed, gradients
from chainrob.differentiation.argmin import (
    ArgminReport,
    argmin,
    argmin_report,
)
from chainrob.differentiation.modes import hessian_vector_product

__all__ = ["DerivativeComparison", "compare_derivatives", "unrolled_argmin"]

Array = Any
Variable = Any


def unrolled_argmin(
    objective: Callable[..., Any],
    x0: Any,
    parameters: Sequence[Any] | Any,
    *,
    steps: int,
    rate: float,
    momentum: float = 0.0,
    truncation: int | None = None,
) -> Variable:
    r"""Run gradient descent and return its last point, differentiable through its iterations.

    .. math:: x_{k+1} = x_k - \alpha \nabla_x f(x_k, \theta) + \beta (x_k - x_{k-1})

    At an isolated minimum its derivative tends to that of :func:`argmin`. Its error shrinks at the
    rate of the iteration, by about 1 - rate * (smallest curvature) per step. Elsewhere it is only
    the derivative of this iteration, from this start with this rate, and it changes with every
    step. Nothing is verified here; see :func:`compare_derivatives`.

    Memory grows by a copy of x for each differentiated step. ``truncation`` differentiates only the
    last K steps. The derivative is then the implicit one, with K terms of the Neumann series in
    place of the inverse of the Hessian,

    .. math:: H^{-1} \approx \alpha \sum_{k<K} (I - \alpha H)^k.

    Args:
        objective: As for :func:`argmin`.
        x0: Start; gradients flow to it if it is a Variable (zero if ``truncation < steps``).
        parameters: Sequence of Variables or arrays, or one of them.
        steps: Number of iterations.
        rate: alpha, positive; gradient descent converges below 2 / (largest curvature).
        momentum: beta in [0, 1).
        truncation: K, or None to differentiate all steps.

    Returns:
        x after ``steps`` iterations, a Variable.

    Raises:
        ValueError: If an option is not valid, or the iteration becomes infinite or NaN.

    Example:
        >>> import chainer, chainer.functions as F, numpy as np
        >>> t = chainer.Variable(np.array([2.0]))
        >>> x = unrolled_argmin(lambda x, t: F.sum((x - t) ** 2) / 2, [0.0], t, steps=3, rate=0.5)
        >>> F.sum(x).backward()
        >>> print(x.array, t.grad)
        [1.75] [0.875]

    References:
        A. Shaban, C.-A. Cheng, N. Hatch and B. Boots, Truncated back-propagation for bilevel
        optimization, AISTATS 2019. J. Lorraine, P. Vicol and D. Duvenaud, Optimizing millions of
        hyperparameters by implicit differentiation, AISTATS 2020.
    """
    if isinstance(steps, bool) or steps < 0:
        raise ValueError(f"steps must not be negative, found {steps!r}")
    if not (np.isfinite(rate) and rate > 0):
        raise ValueError(f"rate must be positive and finite, found {rate!r}")
    if not 0 <= momentum < 1:
        raise ValueError(f"momentum must be at least 0 and below 1, found {momentum!r}")
    if truncation is not None and (isinstance(truncation, bool) or truncation < 0):
        raise ValueError(f"truncation must be None or not negative, found {truncation!r}")
    if not isinstance(parameters, (tuple, list)):
        parameters = (parameters,)
    thetas = [chainer.as_variable(as_array(p)) for p in parameters]
    x = x0 if isinstance(x0, chainer.Variable) else chainer.Variable(as_array(x0).copy())
    if x.dtype.kind != "f":
        x = chainer.Variable(x.array.astype(np.float64))
    previous = x
    forgotten = 0 if truncation is None else max(0, steps - truncation)

    def slope(x: Variable, *thetas: Variable) -> tuple[Variable, ...]:
        return gradients([objective(x, *thetas)], [x])

    with chainer.force_backprop_mode():
        for k in range(steps):
            # One node per step. Its graph is not stored but built again in the backward pass.
            (down,) = closed(slope, x, *thetas)
            x, previous = x - rate * down + momentum * (x - previous), x
            if k < forgotten:
                x, previous = chainer.Variable(x.array), chainer.Variable(previous.array)
            if not bool(x.xp.isfinite(x.array).all()):
                raise ValueError(
                    f"the iteration must stay finite, found infinity or NaN at step {k + 1}: "
                    f"choose a smaller rate than {rate!r}"
                )
    return x


@dataclasses.dataclass(frozen=True)
class DerivativeComparison:
    """Derivatives of one argmin in several ways. Each is the gradient of ``sum(cotangent * x)``.

    Attributes:
        report: How reliable the implicit derivative is at the point (:class:`ArgminReport`).
        implicit: By the implicit function theorem, one array per parameter; None if refused.
        unverified: The same formula without any check, with the least-squares solution of
            H v = cotangent. Packages without checks return this.
        unrolled: Mapping from numbers of steps to the gradients through these iterations.
        points: Mapping from numbers of steps to the point reached.
    """

    report: ArgminReport
    implicit: tuple[Array, ...] | None
    unverified: tuple[Array, ...]
    unrolled: dict[int, tuple[Array, ...]]
    points: dict[int, Array]

    def distance(self, steps: int) -> float:
        """Relative distance of the unrolled gradients from the implicit (or unverified) ones."""
        other = self.unverified if self.implicit is None else self.implicit
        pairs = zip(self.unrolled[steps], other, strict=True)
        gap = sum(float(((a - b) ** 2).sum()) for a, b in pairs)
        size = sum(float((b**2).sum()) for b in other)
        return (gap / size) ** 0.5 if size > 0 else gap**0.5

    def __str__(self) -> str:
        lines = [
            f"implicit: {self.report.verdict}"
            + (f" ({'; '.join(self.report.reasons)})" if self.report.reasons else "")
        ]
        for steps in self.unrolled:
            lines.append(
                f"unrolled, {steps} steps: {self.distance(steps):.2g} away, relative to the "
                f"{'unverified' if self.implicit is None else 'implicit'} gradient"
            )
        return "\n".join(lines)


def compare_derivatives(
    objective: Callable[..., Any],
    x0: Any,
    parameters: Sequence[Any] | Any,
    *,
    steps: Sequence[int],
    rate: float,
    momentum: float = 0.0,
    truncation: int | None = None,
    cotangent: Any = None,
    at: Any = None,
    tolerance: float | None = None,
) -> DerivativeComparison:
    """Compare the implicit and the unrolled derivative of an argmin.

    At an isolated minimum they agree, to more digits with more steps. If they keep differing, the
    derivative does not exist. Packages that still return one give different results, which depend
    on their solver, start and regularization.

    Args:
        objective: As for :func:`argmin`; in float64, few enough unknowns for a Hessian matrix.
        x0: Start of both methods.
        parameters: Sequence of Variables or arrays, or one of them.
        steps: Numbers of iterations to compare.
        rate: As for :func:`unrolled_argmin`, like the next two.
        momentum: As there.
        truncation: As there.
        cotangent: Weights of the entries of x. Default: ones.
        at: The point of the implicit derivative. Default: where :func:`argmin` ends, or, if that
            refuses, the last unrolled point.
        tolerance: Tolerance of the verification.

    Returns:
        A :class:`DerivativeComparison`.

    Example:
        >>> import chainer.functions as F
        >>> found = compare_derivatives(
        ...     lambda x, t: F.sum((x - t) ** 2) / 2, [0.0], [2.0], steps=[1, 10], rate=0.5)
        >>> print(found)
        implicit: founded
        unrolled, 1 steps: 0.5 away, relative to the implicit gradient
        unrolled, 10 steps: 0.00098 away, relative to the implicit gradient
    """
    if not steps:
        raise ValueError("steps must hold at least one number, found none")
    if not isinstance(parameters, (tuple, list)):
        parameters = (parameters,)
    arrays = [np.array(getattr(p, "array", p), np.float64) for p in parameters]
    start = np.array(getattr(x0, "array", x0), np.float64)
    weights = np.ones_like(start) if cotangent is None else np.asarray(cotangent, np.float64)
    if weights.shape != start.shape:
        raise ValueError(
            f"cotangent must have the shape {start.shape} of x0, found {weights.shape}"
        )

    unrolled, points = {}, {}
    for count in steps:
        thetas = [chainer.Variable(one) for one in arrays]
        x = unrolled_argmin(
            objective, start, thetas, steps=count, rate=rate, momentum=momentum,
            truncation=truncation,
        )  # fmt: skip
        points[count] = x.array
        unrolled[count] = _slopes(x, thetas, weights)

    implicit: tuple[Array, ...] | None = None
    place = None if at is None else np.array(getattr(at, "array", at), np.float64)
    try:
        thetas = [chainer.Variable(one) for one in arrays]
        options: dict[str, Any] = {} if place is None else {"solver": lambda f, x: x}
        origin = start if place is None else place
        x = argmin(objective, origin, thetas, tolerance=tolerance, **options)
        place, report = x.array, x.report
        implicit = _slopes(x, thetas, weights)
    except ArithmeticError as error:
        report = getattr(error, "report", None)
        place = points[max(steps)] if place is None else place
        if at is not None or report is None:
            report = argmin_report(objective, place, arrays, tolerance=tolerance)
    return DerivativeComparison(
        report, implicit, _unverified(objective, place, arrays, weights), unrolled, points
    )


def _unverified(
    objective: Callable[..., Any], place: Array, arrays: Sequence[Array], weights: Array
) -> tuple[Array, ...]:
    """-f_theta,x H^+ c, without a check of the point."""
    units = np.eye(place.size).reshape(place.size, *place.shape)

    def of_x(x: Variable) -> Variable:
        return objective(x, *[chainer.Variable(one) for one in arrays])

    rows = [hessian_vector_product(of_x, place, unit).ravel() for unit in units]
    v = np.linalg.lstsq(np.stack(rows), weights.ravel(), rcond=None)[0].reshape(place.shape)
    x, thetas = chainer.Variable(place), [chainer.Variable(one) for one in arrays]
    slope = gradients([objective(x, *thetas)], [x])
    return tuple(-one.array for one in gradients(slope, thetas, [chainer.Variable(v)]))


def _slopes(x: Variable, thetas: Sequence[Variable], weights: Array) -> tuple[Array, ...]:
    """Gradients of sum(weights * x); zeros for parameters without influence."""
    found: Sequence[Any] = [None] * len(thetas)
    if x.creator_node is not None:
        found = chainer.grad([x], thetas, [chainer.Variable(weights)])
    pairs = zip(thetas, found, strict=True)
    return tuple(np.zeros(one.shape) if g is None else g.array for one, g in pairs)
