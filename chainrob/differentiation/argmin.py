"""The gradient of an argmin by the implicit function theorem."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

import chainer
import chainer.functions as F
from chainrob.differentiation._closed import as_array, closed, gradients
from chainrob.differentiation._constrained import (
    Optimum,
    minimize_constrained,
    optimum_at,
)
from chainrob.differentiation._graph import variable_nodes
from chainrob.differentiation._hessian import LinearOptions
from chainrob.differentiation._kkt import System, outer
from chainrob.differentiation._minimizers import Problem, check_solver, minimize
from chainrob.differentiation._minimum import ArgminReport, NotAMinimumError, measure, verify
from chainrob.differentiation.constraints import Constraint, standard_form

__all__ = ["ArgminReport", "NotAMinimumError", "argmin", "argmin_report"]

Variable = Any
Objective = Callable[..., Any]


def argmin(
    objective: Objective,
    x0: Any,
    parameters: Sequence[Any] | Any,
    *,
    constraints: Constraint | Sequence[Constraint] | None = None,
    batched: bool = False,
    solver: str | Callable[..., Any] = "newton",
    solver_options: Mapping[str, Any] | None = None,
    tolerance: float | None = None,
    max_iterations: int = 1000,
    linear_solver: str = "auto",
    preconditioner: str | Callable[[Any], Any] | None = None,
    linear_tolerance: float | None = None,
    damping: float = 0.0,
) -> Variable:
    r"""Minimize ``objective`` over x and return the minimizer, differentiable in the parameters.

    .. math:: x^*(\theta) = \arg\min_x f(x, \theta), \qquad
        \frac{dL}{d\theta} = -\Big(\frac{dL}{dx^*} H^{-1}\Big)
        \frac{\partial^2 f}{\partial x \, \partial \theta}, \quad
        H = \frac{\partial^2 f}{\partial x^2}

    One linear solve with H gives v. The product of v with the mixed derivative is one more reverse
    pass. So neither H^-1 nor the mixed derivative is ever formed. With constraints, the matrix of
    the KKT conditions replaces H, and gradients also flow to bounds and equations. The backward
    pass consists of differentiable nodes, so double backward is right if the objective has third
    derivatives.

    The gradient exists only at an isolated minimum; with constraints, strict complementarity must
    hold too. So the forward pass checks the point and stores the result as ``x_star.report``. At
    other points it raises an error.

    Args:
        objective: ``objective(x, *parameters)``, Chainer operations that give one number; with
            ``batched`` one per problem, (B,). Every Variable with a gradient that it depends on
            must be among the parameters. :func:`functional` turns a model into such a function.
        x0: Start, a number, array or Variable. x* has its shape, dtype and device.
        parameters: Sequence of Variables or arrays (or one of them); gradients flow to those that
            require one.
        constraints: :class:`Box`, :class:`Simplex`, :class:`LinearEqualities`, or a list of them.
        batched: The first axis of x counts B problems; number b of the objective depends only
            on x[b] (and on any parameters). They are solved and verified together.
        solver: ``'newton'`` (with constraints an interior-point method), the name of a method of
            ``scipy.optimize.minimize`` (``'L-BFGS-B'``, ``'Newton-CG'``, ``'SLSQP'``, ...; Newton's
            method then refines the last digits), or a callable ``solver(function, x0) -> x``, where
            ``function`` takes a Variable x and returns the objective's Variable.
        solver_options: ``options`` of ``scipy.optimize.minimize``.
        tolerance: Largest relative Newton step at a point that counts as stationary. Default: the
            square root of the eps of the dtype of x0.
        max_iterations: For Newton's method and SciPy's.
        linear_solver: ``'dense'`` (Hessian matrix), ``'cg'`` (conjugate gradients on
            Hessian-vector products) or ``'auto'``: dense up to 128 unknowns per problem.
        preconditioner: For conjugate gradients: None, ``'diagonal'`` (estimated with 32 products),
            or a callable that maps a vector of the shape of x to about H^-1 times it; it must be
            symmetric and positive definite.
        linear_tolerance: Relative residual that conjugate gradients aim at. Default: 10 eps.
        damping: Tikhonov term added to the Hessian in the solves of the derivative, at least 0. The
            gradient becomes an approximation that is easier to solve for. Points are verified
            without it, so it never makes a point a minimum.

    Returns:
        x* as a Variable, with the :class:`ArgminReport` in its attribute ``report``.

    Raises:
        NotAMinimumError: If the point reached is not an isolated minimum.
        ValueError: If the objective has the wrong shape, does not depend on x, mixes the problems
            of a batch, or depends on a Variable that is not among the parameters; or an option is
            not valid.

    Example:
        >>> import chainer, chainer.functions as F, numpy as np
        >>> theta = chainer.Variable(np.array([1.0, 2.0]))
        >>> x = argmin(lambda x, t: F.sum(t * (x - t) ** 2), 0.0, theta)
        >>> x.backward()
        >>> print(x.array.round(6), theta.grad.round(6), x.report.verdict)
        1.666667 [0.111111 0.777778] founded

    References:
        J. Domke, Generic methods for optimization-based modeling, AISTATS 2012. S. Gould et al.,
        On differentiating parameterized argmin and argmax problems, arXiv:1607.05447 (2016).
        B. Amos and J. Z. Kolter, OptNet, ICML 2017. M. Blondel et al., Efficient and modular
        implicit differentiation, NeurIPS 2022.
    """
    options = _options(linear_solver, preconditioner, linear_tolerance, damping)
    if isinstance(max_iterations, bool) or max_iterations < 1:
        raise ValueError(f"max_iterations must be at least 1, found {max_iterations!r}")
    check_solver(solver)
    start, tolerance, thetas = _prepared(objective, x0, parameters, tolerance, batched)
    data = standard_form(constraints, start.shape, chainer.Variable(start), batched)
    problem = Problem(objective, [theta.array for theta in thetas], options, batched)
    name = solver if isinstance(solver, str) else getattr(solver, "__name__", "callable")
    arrays = [one.array for one in data]
    found: Optimum | None = None
    if data:
        found, iterations = minimize_constrained(
            problem, start, arrays, solver, tolerance, max_iterations, solver_options
        )
        x = found.x
    else:
        x, iterations = minimize(problem, start, solver, tolerance, max_iterations, solver_options)
    report = measure(
        problem,
        x,
        tolerance=tolerance,
        solver=name,
        iterations=iterations,
        optimum=found,
        data=arrays,
    )
    verify(report)
    if batched:  # check again here: at the start, the problems may seem independent
        with chainer.force_backprop_mode():
            there = chainer.Variable(x)
            _check_apart(problem.variable(there), there)
    inputs = (*data, *thetas)
    x_star = _Argmin(problem, x, found, report).apply(inputs)[0] if inputs else chainer.Variable(x)
    x_star.report = report
    return x_star


def argmin_report(
    objective: Objective,
    x: Any,
    parameters: Sequence[Any] | Any,
    *,
    constraints: Constraint | Sequence[Constraint] | None = None,
    batched: bool = False,
    tolerance: float | None = None,
    linear_solver: str = "auto",
    preconditioner: str | Callable[[Any], Any] | None = None,
) -> ArgminReport:
    """Report how reliable the derivative of an argmin is at a point, without raising.

    Args:
        objective: As for :func:`argmin`.
        x: The point; it may come from any solver.
        parameters: As for :func:`argmin`, like all further arguments.

    Returns:
        An :class:`ArgminReport`; ``report.verdict`` is ``'founded'``, ``'weak'`` or ``'refused'``.

    Example:
        >>> import chainer.functions as F
        >>> report = argmin_report(lambda x, t: F.sum(x**4 - t * x), [0.3], [0.0])
        >>> report.verdict, report.reasons[-1][:28]
        ('refused', 'the point is not stationary:')
    """
    options = _options(linear_solver, preconditioner, None, 0.0)
    start, tolerance, thetas = _prepared(objective, x, parameters, tolerance, batched)
    data = standard_form(constraints, start.shape, chainer.Variable(start), batched)
    problem = Problem(objective, [theta.array for theta in thetas], options, batched)
    arrays = [one.array for one in data]
    found = optimum_at(problem, start, arrays, tolerance) if data else None
    return measure(
        problem,
        start,
        tolerance=tolerance,
        solver="given",
        iterations=0,
        optimum=found,
        data=arrays,
    )


class _Argmin(chainer.FunctionNode):
    """x* as a node. Inputs: lower, upper, A and b if there are constraints; then the parameters."""

    def __init__(
        self, problem: Problem, minimizer: Any, optimum: Optimum | None, report: ArgminReport
    ) -> None:
        self._objective = problem.objective
        self._minimizer = minimizer
        self._optimum = optimum
        free = None if optimum is None else optimum.free
        self._system = System(
            problem.objective, problem.options, problem.batched, free, report.solves
        )

    def forward(self, inputs: tuple[Any, ...]) -> tuple[Any]:
        self.retain_inputs(tuple(range(len(inputs))))
        self.retain_outputs((0,))
        minimizer, self._minimizer = self._minimizer, None
        return (minimizer,)

    def backward(self, indexes: tuple[int, ...], gys: tuple[Variable, ...]) -> tuple[Variable, ...]:
        retained = self.get_retained_inputs()
        (x,) = self.get_retained_outputs()
        first = 0 if self._optimum is None else 4
        thetas = retained[first:]
        matrix = retained[2] if first else None
        right = [gys[0]]
        if matrix is not None:
            right.append(chainer.Variable(x.xp.zeros(matrix.shape[:2], x.dtype)))
            right.append(chainer.Variable(x.xp.zeros_like(x.array)))
        v, *multipliers = self._system.solve(x, right, matrix, *thetas)
        of_thetas = [i - first for i in indexes if i >= first]

        def mixed_product(v: Variable, x: Variable, *thetas: Variable) -> tuple[Variable, ...]:
            """v^T d2f/dx dtheta at fixed x: the reverse pass of (df/dx) . v."""
            slope = gradients([self._objective(x, *thetas)], [x])
            return gradients(slope, [thetas[i] for i in of_thetas], [v])

        found = iter(closed(mixed_product, v, x, *thetas) if of_thetas else ())
        out = []
        for i in indexes:
            if i >= first:
                out.append(-next(found))
            else:
                out.append(self._of_constraint(i, x, v, multipliers, matrix, thetas))
        return tuple(out)

    def _of_constraint(
        self,
        index: int,
        x: Variable,
        v: Variable,
        multipliers: Sequence[Variable],
        matrix: Variable,
        thetas: Sequence[Variable],
    ) -> Variable:
        """The gradient in one part of the constraints: lower (0), upper (1), A (2) or b (3)."""
        optimum: Any = self._optimum
        problems, size = self._system.flat(x)
        if index < 2:
            held = (optimum.lower, optimum.upper)[index].astype(x.dtype)
            return F.reshape(multipliers[1], (problems, size)) * held
        if index == 3:
            return multipliers[0]
        y = self._system.equality_multipliers(x, matrix, *thetas)
        return -outer(y, v, problems, size) - outer(multipliers[0], x, problems, size)


def _options(
    linear_solver: str, preconditioner: Any, linear_tolerance: float | None, damping: float
) -> LinearOptions:
    if linear_solver not in ("auto", "dense", "cg"):
        raise ValueError(f"linear_solver must be 'auto', 'dense' or 'cg', found {linear_solver!r}")
    if not (preconditioner is None or preconditioner == "diagonal" or callable(preconditioner)):
        raise ValueError(
            f"preconditioner must be None, 'diagonal' or callable, found {preconditioner!r}"
        )
    if linear_tolerance is not None and not 0 < linear_tolerance < 1:
        raise ValueError(f"linear_tolerance must be between 0 and 1, found {linear_tolerance!r}")
    if not (math.isfinite(damping) and damping >= 0):
        raise ValueError(f"damping must be finite and not negative, found {damping!r}")
    return LinearOptions(linear_solver, damping, preconditioner, linear_tolerance)


def _prepared(
    objective: Objective, x0: Any, parameters: Any, tolerance: float | None, batched: bool
) -> tuple[Any, float, list[Variable]]:
    start = _start(x0)
    if batched and start.ndim < 1:
        raise ValueError("x0 must have the problems along its first axis, found a number")
    if tolerance is None:
        tolerance = float(np.finfo(start.dtype).eps) ** 0.5
    if not (math.isfinite(tolerance) and tolerance > 0):
        raise ValueError(f"tolerance must be positive and finite, found {tolerance!r}")
    if not isinstance(parameters, (tuple, list)):
        parameters = (parameters,)
    thetas = [chainer.as_variable(_array_like(p)) for p in parameters]
    _check_objective(objective, start, thetas, batched)
    return start, tolerance, thetas


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


def _check_objective(
    objective: Objective, start: Any, thetas: Sequence[Variable], batched: bool
) -> None:
    """Evaluate once: the numbers must depend on x, and, besides x, only on constants and thetas."""
    if not callable(objective):
        raise TypeError(f"objective must be callable, found {type(objective).__name__}")
    with chainer.force_backprop_mode():
        x = chainer.Variable(start)
        own = [x, *[chainer.Variable(theta.array) for theta in thetas]]
        value = objective(*own)
    if not isinstance(value, chainer.Variable):
        raise TypeError(f"objective must return a chainer.Variable, found {type(value).__name__}")
    if batched:
        if value.shape != (len(start),):
            raise ValueError(
                f"objective must return one number per problem, shape {(len(start),)}, "
                f"found {value.shape}"
            )
    elif value.size != 1:
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
                f"objective reads {what} itself, which is among the parameters, instead of its "
                f"argument: use the arguments inside the objective; for a model, "
                f"chainrob.differentiation.functional(model) makes such a function"
            )
        raise ValueError(
            f"objective depends on {what} that is not among the parameters, so its gradient would "
            f"be lost: pass it in parameters, or use its .array if it is a constant"
        )
    if id(x.node) not in reached:
        raise ValueError("objective must depend on x, found a constant")
    with chainer.no_backprop_mode():
        again = objective(*own).array.astype(np.float64)
    once = value.array.astype(np.float64)
    rounding = 1e3 * float(np.finfo(start.dtype).eps) * abs(once)
    if bool((abs(again - once) > rounding).any()):
        raise ValueError(
            "objective must give the same number at every call, found that it is random; "
            "chainer.using_config('train', False) switches dropout off"
        )
    if batched:
        _check_apart(value, x)


def _check_apart(values: Variable, x: Variable) -> None:
    """Refuse a batch in which the number of one problem depends on the x of another.

    All problems get equally many marks, but different ones. So for any two problems there is a mark
    that only the first one has. The gradient of all numbers with a mark must be exactly zero in the
    x of the problems without it.
    """
    count = len(x)
    marks = 0
    while math.comb(marks, marks // 2) < count:
        marks += 1
    owners = itertools.islice(itertools.combinations(range(marks), marks // 2), count)
    table = np.zeros((count, marks), bool)
    for row, mine in zip(table, owners, strict=True):
        row[list(mine)] = True
    for has in table.T:
        weight = values.xp.asarray(has, dtype=values.dtype)
        (slope,) = gradients([values], [x], [chainer.Variable(weight)])
        if bool((slope.array[values.xp.asarray(~has)] != 0).any()):
            raise ValueError(
                "objective must keep the problems of a batch apart, found that the numbers of some "
                "depend on the x of others"
            )
