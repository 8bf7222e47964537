"""Argmins of many unknowns and many problems: conjugate gradients, batches, SciPy's solvers."""

import numpy as np
import pytest

import chainer
from chainrob.differentiation import NotAMinimumError, argmin, argmin_report, check_argmin
from chainrob.differentiation._conjugate_gradients import (
    NegativeCurvatureError,
    conjugate_gradients,
)

F = chainer.functions


def spectrum(n, condition, seed=0):
    """A positive definite matrix with eigenvalues from 1 to the condition number."""
    rng = np.random.default_rng(seed)
    vectors, _ = np.linalg.qr(rng.normal(size=(n, n)))
    values = np.geomspace(1, condition, n)
    return (vectors * values) @ vectors.T, rng.normal(size=n)


@pytest.mark.parametrize("condition", [1.0, 1e2, 1e6])
def test_conjugate_gradients_report_what_is_true(condition):
    matrix, target = spectrum(60, condition)
    z, record = conjugate_gradients(lambda v: matrix @ v, target)
    residual = np.linalg.norm(matrix @ z - target) / np.linalg.norm(target)
    assert record.residual == pytest.approx(residual, rel=0.5, abs=1e-15)
    assert residual < 1e-8
    assert record.condition_number == pytest.approx(condition, rel=0.05)
    assert 0 < record.iterations <= 620
    np.testing.assert_allclose(z, np.linalg.solve(matrix, target), rtol=1e-6)


def test_restarts_gain_digits_that_the_recursion_lost():
    matrix, target = spectrum(80, 1e8)
    z, record = conjugate_gradients(
        lambda v: matrix @ v, target, tolerance=1e-13, max_iterations=5000
    )
    assert record.restarts >= 1
    assert np.linalg.norm(matrix @ z - target) / np.linalg.norm(target) < 1e-9


def test_a_preconditioner_saves_iterations_not_digits():
    rng = np.random.default_rng(0)
    scales = np.geomspace(1, 1e6, 300)
    noise = rng.normal(size=(300, 300)) / 300**0.5
    close = np.eye(300) + 0.02 * (noise + noise.T)
    matrix = np.sqrt(scales)[:, None] * close * np.sqrt(scales)
    target = rng.normal(size=300)
    plain = conjugate_gradients(lambda v: matrix @ v, target, max_iterations=20000)
    lifted = conjugate_gradients(lambda v: matrix @ v, target, precondition=lambda v: v / scales)
    assert lifted[1].iterations * 10 < plain[1].iterations
    assert lifted[1].condition_number < 10
    np.testing.assert_allclose(lifted[0], np.linalg.solve(matrix, target), rtol=1e-7, atol=1e-13)


def test_what_conjugate_gradients_cannot_do_is_said():
    with pytest.raises(NegativeCurvatureError, match="curvature -1"):
        conjugate_gradients(lambda v: -v, np.ones(3))
    matrix, target = spectrum(60, 1e12)
    with pytest.raises(ArithmeticError, match="relative residual"):
        conjugate_gradients(lambda v: matrix @ v, target, max_iterations=20)
    z, record = conjugate_gradients(lambda v: v, np.zeros(3))
    assert (z == 0).all()
    assert record.iterations == 0


@pytest.mark.parametrize("preconditioner", [None, "diagonal", "exact"])
def test_preconditioners_in_an_argmin(preconditioner):
    rng = np.random.default_rng(1)
    d = np.geomspace(1, 2e3, 200)
    coupling = rng.normal(size=200) / 200**0.5
    t = chainer.Variable(rng.normal(size=200))

    def objective(x, t):
        return F.sum(d * x**2) / 2 + F.sum(coupling * x) ** 2 / 2 - F.sum(t * x)

    def exact(v):
        return v / d

    given = exact if preconditioner == "exact" else preconditioner
    x = argmin(objective, np.zeros(200), t, preconditioner=given)
    c = rng.normal(size=200)
    x.grad = c
    x.backward()
    h = np.diag(d) + np.outer(coupling, coupling)
    np.testing.assert_allclose(t.grad, np.linalg.solve(h, c), rtol=1e-8, atol=1e-11)
    (record,) = x.report.solves
    assert record.method == "cg"
    assert record.residual < 1e-10
    if preconditioner == "exact":
        assert record.iterations < 20
        assert record.condition_number < 10
    elif preconditioner is None:
        assert record.iterations > 100
        assert record.condition_number == pytest.approx(2e3, rel=0.2)


SCIPY = [
    "newton", "BFGS", "L-BFGS-B", "CG", "TNC", "SLSQP", "Newton-CG", "trust-ncg", "trust-krylov",
    "trust-constr", "dogleg", "trust-exact", "Nelder-Mead", "Powell", "COBYLA", "COBYQA",
]  # fmt: skip


@pytest.mark.parametrize("solver", SCIPY)
@pytest.mark.filterwarnings("ignore:delta_grad == 0.0")
def test_every_solver_of_scipy(solver):
    def objective(x, t):
        return F.sum(F.exp(x) - t * x) + F.sum(x[:1] * x[1:]) / 4

    check = check_argmin(objective, np.zeros(2), np.array([2.0, 3.0]), solver=solver)
    assert check.error < 1e-7


def test_options_reach_scipy():
    calls = []

    def objective(x, t):
        calls.append(1)
        return F.sum((x - t) ** 2)

    argmin(objective, np.zeros(3), np.ones(3), solver="L-BFGS-B", solver_options={"maxcor": 3})
    with pytest.raises(UserWarning, match="nothing"):
        argmin(objective, np.zeros(3), np.ones(3), solver="BFGS", solver_options={"nothing": 3})


@pytest.mark.parametrize("linear_solver", ["dense", "cg"])
@pytest.mark.parametrize("solver", ["newton", "L-BFGS-B"])
def test_a_batch_is_its_problems(linear_solver, solver):
    """Every problem by itself and all together, with a parameter of each and one of all."""
    rng = np.random.default_rng(2)
    t, s = rng.uniform(0.5, 3, size=(6, 3)), np.array(0.7)
    c = rng.normal(size=(6, 3))

    def each(x, t, s):
        return F.sum(F.exp(x) - t * x + s * x**2, axis=-1) + 0.1 * F.prod(x, axis=-1)

    vt, vs = chainer.Variable(t), chainer.Variable(s)
    x = argmin(
        lambda x, t, s: each(x, t, F.broadcast_to(s, x.shape)),
        np.zeros((6, 3)), [vt, vs], batched=True, linear_solver=linear_solver, solver=solver,
    )  # fmt: skip
    x.grad = c
    x.backward()
    total = 0.0
    for k in range(6):
        wt, ws = chainer.Variable(t[k]), chainer.Variable(s)
        one = argmin(lambda x, t, s: each(x, t, F.broadcast_to(s, (3,))), np.zeros(3), [wt, ws])
        np.testing.assert_allclose(x.array[k], one.array, rtol=1e-9, atol=1e-11)
        one.grad = c[k]
        one.backward()
        np.testing.assert_allclose(vt.grad[k], wt.grad, rtol=1e-8, atol=1e-11)
        total += ws.grad
    np.testing.assert_allclose(vs.grad, total, rtol=1e-8)
    assert x.report.problems == 6


def test_double_backward_of_a_batch():
    t = chainer.Variable(np.array([[2.0, 0.5], [1.0, 4.0]]))
    x = argmin(lambda x, t: F.sum(F.exp(x) - t * x, axis=1), np.zeros((2, 2)), t, batched=True)
    (g,) = chainer.grad([F.sum(x)], [t], enable_double_backprop=True)
    (second,) = chainer.grad([F.sum(g)], [t])
    np.testing.assert_allclose(g.array, 1 / t.array, rtol=1e-9)
    np.testing.assert_allclose(second.array, -1 / t.array**2, rtol=1e-9)


def test_the_bad_problem_of_a_batch_is_named():
    signs = np.array([1.0, 1.0, -1.0, 1.0])
    with pytest.raises(NotAMinimumError, match=r"1 of 4 problems .* problem 2: the smallest"):
        argmin(
            lambda x, t: F.sum(signs[:, None] * x**2, axis=1) + 0 * t,
            np.zeros((4, 2)),
            1.0,
            batched=True,
            solver=lambda f, x: x,
        )


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        (lambda x, t: F.sum(x**2), r"one number per problem, shape \(3,\), found \(\)"),
        (lambda x, t: F.sum(x**2, axis=1) + F.broadcast_to(F.sum(x), (3,)), "keep the problems"),
    ],
)
def test_what_is_no_batch_is_refused(objective, message):
    with pytest.raises(ValueError, match=message):
        argmin(objective, np.ones((3, 2)), 1.0, batched=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"preconditioner": "ilu"}, "preconditioner must be None, 'diagonal' or callable"),
        ({"linear_tolerance": 0.0}, "linear_tolerance must be between 0 and 1"),
        ({"batched": True}, "problems along its first axis, found a number"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        argmin(lambda x, t: (x - t) ** 2, 0.0, 1.0, **options)


def test_verdicts():
    good = argmin_report(lambda x, t: F.sum((x - t) ** 2), np.ones(2), np.ones(2))
    assert (good.verdict, good.reasons) == ("founded", ())
    assert good.digits > 15
    stretch = np.array([1.0, 1e11])
    weak = argmin_report(lambda x, t: F.sum(stretch * (x - t) ** 2), np.ones(2), np.ones(2))
    assert weak.verdict == "weak"
    assert 4 < weak.digits < 6
    assert "condition number 1.0e+11" in weak.reasons[0]
    bad = argmin_report(lambda x, t: F.sum((x - t) ** 2), np.zeros(2), np.ones(2))
    assert bad.verdict == "refused"
    assert bad.residual == pytest.approx(8**0.5)
    assert bad.newton_step == pytest.approx(2**0.5)
