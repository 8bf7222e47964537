"""The gradient of an argmin by the implicit function theorem."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import chainer
from chainrob.differentiation._closed import as_array, closed, gradients
from chainrob.differentiation._graph import variable_nodes
from chainrob.differentiation._hessian import solve_hessian
from chainrob.differentiation._minimisers import Problem, check_solver, minimise
from chainrob.differentiation._minimum import ArgminReport, NotAMinimumError, measure, verify

__all__ = ["ArgminReport", "NotAMinimumError", "argmin"]

Variable = Any
Objective = Callable[..., Any]


def argmin(
    objective: Objective,
    x0: Any,
    parameters: Sequence[Any] | Any,
    *,
    solver: str | Callable[..., Any] = "newton",
    tolerance: float | None = None,
    linear_solver: str = "auto",
    damping: float = 0.0,
    max_iterations: int = 1000,
) -> Variable:
    r"""Minimise ``objective`` over x and return the minimiser, differentiable in the parameters.

    .. math:: x^*(\theta) = \arg\min_x f(x, \theta), \qquad
        \frac{dL}{d\theta} = -\Big(\frac{dL}{dx^*} H^{-1}\Big)
        \frac{\partial^2 f}{\partial x \, \partial \theta}, \quad
        H = \frac{\partial^2 f}{\partial x^2}

    One linear solve with H gives v; then the product of v with the mixed derivative is one more
    reverse pass, so neither H^-1 nor the mixed derivative is ever formed. The backward is made of
    nodes that are differentiable themselves: double backward is right where the objective has
    third derivatives.

    The gradient exists at an isolated minimum only. So the forward pass measures how stationary
    and how curved the point is, keeps that as ``x_star.report`` and refuses the rest.

    Args:
        objective: ``objective(x, *parameters)``, Chainer operations that give one number. All it
            depends on with a gradient must be among the parameters.
        x0: Start, a number, array or Variable; x* takes its shape, dtype and device.
        parameters: Sequence of Variables or arrays (or one of them); gradients flow to those that
            require one.
        solver: ``'newton'``, the name of a method of ``scipy.optimize.minimize`` that uses
            gradients (``'BFGS'``, ``'L-BFGS-B'``, ``'Newton-CG'``, ...; Newton's method takes the
            last digits), or a callable ``solver(function, x0) -> x``, where ``function`` takes a
            Variable x and returns the objective's Variable.
        tolerance: Largest relative Newton step at a point that counts as stationary. Default: the
            square root of the eps of the dtype of x0.
        linear_solver: ``'dense'`` (Hessian matrix), ``'cg'`` (conjugate gradients on
            Hessian-vector products) or ``'auto'``: dense up to 128 unknowns.
        damping: Tikhonov term added to the Hessian in the linear solve, at least 0. With it the
            gradient is an approximation.
        max_iterations: For Newton's method and SciPy's.

    Returns:
        x* as a Variable, with the :class:`ArgminReport` in its attribute ``report``.

    Raises:
        NotAMinimumError: If the point reached is not an isolated minimum.
        ValueError: If the objective is not scalar, does not depend on x, or depends on a Variable
            that is not among the parameters; or an option is no good.

    Example:
        >>> import chainer, chainer.functions as F, numpy as np
        >>> theta = chainer.Variable(np.array([1.0, 2.0]))
        >>> x = argmin(lambda x, t: F.sum(t * (x - t) ** 2), 0.0, theta)
        >>> x.backward()
        >>> print(x.array.round(6), theta.grad.round(6))
        1.666667 [0.111111 0.777778]

    References:
        J. Domke, Generic methods for optimization-based modeling, AISTATS 2012. S. Gould et al.,
        On differentiating parameterized argmin and argmax problems, arXiv:1607.05447 (2016).
    """
    if linear_solver not in ("auto", "dense", "cg"):
        raise ValueError(f"linear_solver must be 'auto', 'dense' or 'cg', found {linear_solver!r}")
    if not (math.isfinite(damping) and damping >= 0):
        raise ValueError(f"damping must be finite and not negative, found {damping!r}")
    if isinstance(max_iterations, bool) or max_iterations < 1:
        raise ValueError(f"max_iterations must be at least 1, found {max_iterations!r}")
    check_solver(solver)
    start = _start(x0)
    if tolerance is None:
        tolerance = float(np.finfo(start.dtype).eps) ** 0.5
    if not (math.isfinite(tolerance) and tolerance > 0):
        raise ValueError(f"tolerance must be positive and finite, found {tolerance!r}")
    if not isinstance(parameters, (tuple, list)):
        parameters = (parameters,)
    thetas = [chainer.as_variable(_array_like(p)) for p in parameters]
    _check_objective(objective, start, thetas)

    problem = Problem(objective, [theta.array for theta in thetas])
    name = solver if isinstance(solver, str) else getattr(solver, "__name__", "callable")
    found, iterations = minimise(problem, start, solver, tolerance, linear_solver, max_iterations)
    report = measure(
        problem,
        found,
        linear_solver=linear_solver,
        damping=damping,
        tolerance=tolerance,
        solver=name,
        iterations=iterations,
    )
    verify(report, found)
    node = _Argmin(objective, found, report)
    x_star = node.apply(thetas)[0] if thetas else chainer.Variable(found)
    x_star.report = report
    return x_star


class _Argmin(chainer.FunctionNode):
    def __init__(self, objective: Objective, minimiser: Any, report: ArgminReport) -> None:
        self._objective = objective
        self._minimiser = minimiser
        self._report = report

    def forward(self, inputs: tuple[Any, ...]) -> tuple[Any]:
        self.retain_inputs(tuple(range(len(inputs))))
        self.retain_outputs((0,))
        minimiser, self._minimiser = self._minimiser, None
        return (minimiser,)

    def backward(self, indexes: tuple[int, ...], gys: tuple[Variable, ...]) -> tuple[Variable, ...]:
        objective, report = self._objective, self._report
        thetas = self.get_retained_inputs()
        (x,) = self.get_retained_outputs()
        v = solve_hessian(objective, report.linear_solver, report.damping, x, gys[0], thetas)

        def mixed_product(v: Variable, x: Variable, *thetas: Variable) -> tuple[Variable, ...]:
            """v^T d2f/dx dtheta at fixed x: the reverse pass of (df/dx) . v."""
            slope = gradients([objective(x, *thetas)], [x])
            return gradients(slope, [thetas[i] for i in indexes], [v])

        return tuple(-g for g in closed(mixed_product, v, x, *thetas))


def _start(x0: Any) -> Any:
    x0 = _array_like(x0)
    start = x0.array if isinstance(x0, chainer.Variable) else x0
    if start.dtype.kind != "f":
        raise TypeError(f"x0 must be real, found dtype {start.dtype}")
    xp = chainer.backend.get_array_module(start)
    if start.size == 0 or not bool(xp.isfinite(start).all()):
        raise ValueError(f"x0 must be finite and not empty, found {x0!r}")
    return start.copy()


def _array_like(value: Any) -> Any:
    if not isinstance(value, chainer.Variable):
        value = as_array(value)
    return value.astype(np.float64) if value.dtype.kind in "iu" else value


def _check_objective(objective: Objective, start: Any, thetas: Sequence[Variable]) -> None:
    """One evaluation: a number, that depends on x, and on nothing with a gradient but thetas."""
    if not callable(objective):
        raise TypeError(f"objective must be callable, found {type(objective).__name__}")
    with chainer.force_backprop_mode():
        x = chainer.Variable(start)
        own = [x, *[chainer.Variable(theta.array) for theta in thetas]]
        value = objective(*own)
    if not isinstance(value, chainer.Variable):
        raise TypeError(f"objective must return a chainer.Variable, found {type(value).__name__}")
    if value.size != 1:
        raise ValueError(f"objective must return one number, found shape {value.shape}")
    nodes = {id(variable.node) for variable in own}
    passed = {id(theta.node) for theta in thetas}
    reached = variable_nodes(value)
    for key, node in reached.items():
        if node.creator_node is not None or key in nodes:
            continue
        what = f"a Variable of shape {node.shape} (name {node.name!r})"
        if key in passed:
            raise ValueError(
                f"objective reads {what} itself, which is among the parameters, and not its "
                f"argument: write it with its arguments; a model is made a function of its "
                f"parameters by chainrob.differentiation.functional(model)"
            )
        raise ValueError(
            f"objective depends on {what} that is not among the parameters, so its gradient would "
            f"be lost: pass it in parameters, or use its .array if it is a constant"
        )
    if id(x.node) not in reached:
        raise ValueError("objective must depend on x, found that it does not")
