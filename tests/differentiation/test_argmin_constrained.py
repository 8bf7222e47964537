"""Argmins under constraints: closed forms, published problems, finite differences, refusals."""

import numpy as np
import pytest

import chainer
from chainrob.differentiation import (
    Box,
    LinearEqualities,
    NotAMinimumError,
    Simplex,
    argmin,
    argmin_report,
)

F = chainer.functions


def distance(x, t):
    return F.sum((x - t) ** 2) / 2


def gradients(call, arrays, cotangent, **options):
    """x* and the gradients of cotangent . x* in all arrays."""
    variables = [chainer.Variable(np.array(a, np.float64)) for a in arrays]
    x = call(*variables)
    x.grad = np.asarray(cotangent, np.float64)
    x.backward()
    return x, [v.grad for v in variables]


def check_by_differences(call, arrays, shape, seed=0, step=1e-6, rtol=1e-5, atol=1e-7):
    """All gradients of a random projection of x* against central differences of the solver."""
    rng = np.random.default_rng(seed)
    cotangent = rng.normal(size=shape)
    x, found = gradients(call, arrays, cotangent)
    for k, array in enumerate(arrays):
        array = np.array(array, np.float64)
        direction = rng.normal(size=array.shape)
        ends = []
        for sign in (1, -1):
            moved = [np.array(a, np.float64) for a in arrays]
            moved[k] = array + sign * step * direction
            ends.append((cotangent * call(*map(chainer.Variable, moved)).array).sum())
        expected = (ends[0] - ends[1]) / (2 * step)
        slope = np.zeros_like(array) if found[k] is None else found[k]
        assert (slope * direction).sum() == pytest.approx(expected, rel=rtol, abs=atol)
    return x


def test_projection_on_a_box_in_closed_form():
    t = np.array([-1.0, 0.25, 3.0])
    lower, upper = np.zeros(3), np.array([1.0, 1.0, 2.0])

    def call(t, lower, upper):
        return argmin(distance, np.full(3, 0.5), t, constraints=Box(lower, upper))

    x, (gt, gl, gu) = gradients(call, (t, lower, upper), [2.0, 3.0, 5.0])
    np.testing.assert_allclose(x.array, [0.0, 0.25, 2.0], rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(gt, [0, 3, 0], atol=1e-12)
    np.testing.assert_allclose(gl, [2, 0, 0], atol=1e-12)
    np.testing.assert_allclose(gu, [0, 0, 5], atol=1e-12)
    assert x.report.active == 2
    assert x.report.smallest_multiplier == pytest.approx(1.0)


def projected(t, total=1.0):
    """Projection on the simplex by sorting (Held, Wolfe and Crowder, 1974)."""
    s = np.sort(t)[::-1]
    excess = (np.cumsum(s) - total) / np.arange(1, len(t) + 1)
    return np.maximum(t - excess[np.nonzero(s > excess)[0][-1]], 0)


@pytest.mark.parametrize("solver", ["newton", "SLSQP", "trust-constr"])
@pytest.mark.filterwarnings("ignore:delta_grad == 0.0")
def test_projection_on_the_simplex_in_closed_form(solver):
    t = np.array([0.3, 0.9, -0.2, 0.55, 0.1])

    def call(t, s):
        return argmin(distance, np.full(5, 0.2), t, constraints=Simplex(s), solver=solver)

    c = np.arange(1.0, 6.0)
    x, (gt, gs) = gradients(call, (t, 1.0), c)
    np.testing.assert_allclose(x.array, projected(t), rtol=1e-9, atol=1e-12)
    support = x.array > 0
    # The Jacobian is s (I - 1 1^T / |s|) on the support.
    np.testing.assert_allclose(gt, support * (c - c[support].mean()), atol=1e-9)
    np.testing.assert_allclose(gs, c[support].mean(), rtol=1e-9)


def quadratic(x, q, c):
    return F.sum(x * F.matmul(q, x)) / 2 + F.sum(c * x)


Q, C = 2 * np.array([[2.0, 0.5], [0.5, 1.0]]), np.array([1.0, 1.0])


def test_the_quadratic_program_of_the_cvxopt_and_jaxopt_manuals():
    """CVXOPT, User's guide, "Quadratic programming": x* = (0.25, 0.75) of
    min 2 x1^2 + x2^2 + x1 x2 + x1 + x2, x >= 0, x1 + x2 = 1; jaxopt's manual takes it over.
    """
    x = argmin(quadratic, np.full(2, 0.5), (Q, C), constraints=Simplex())
    np.testing.assert_allclose(x.array, [0.25, 0.75], rtol=1e-10)
    assert x.report.value == pytest.approx(1.875)


def test_equalities_against_the_kkt_matrix():
    """jaxopt's EqualityConstrainedQP example, and a random problem: gradients in Q, c, A and b."""
    rng = np.random.default_rng(0)
    for n, m in ((2, 1), (5, 2)):
        root = rng.normal(size=(n, n))
        q = Q if n == 2 else root @ root.T + np.eye(n)
        c = C if n == 2 else rng.normal(size=n)
        a = np.ones((1, 2)) if n == 2 else rng.normal(size=(m, n))
        b = np.ones(1) if n == 2 else rng.normal(size=m)

        def call(q, c, a, b):
            q = (q + q.T) / 2
            return argmin(quadratic, np.zeros(len(c)), (q, c), constraints=LinearEqualities(a, b))

        cot = rng.normal(size=n)
        x, (gq, gc, ga, gb) = gradients(call, (q, c, a, b), cot)
        k = np.block([[q, a.T], [a, np.zeros((m, m))]])
        xy = np.linalg.solve(k, np.concatenate([-c, b]))
        np.testing.assert_allclose(x.array, xy[:n], rtol=1e-10, atol=1e-12)
        v = np.linalg.solve(k, np.concatenate([cot, np.zeros(m)]))
        np.testing.assert_allclose(gc, -v[:n], rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(gb, v[n:], rtol=1e-9, atol=1e-12)
        sym = -np.outer(v[:n], xy[:n])
        np.testing.assert_allclose(gq, (sym + sym.T) / 2, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(
            ga, -np.outer(xy[n:], v[:n]) - np.outer(v[n:], xy[:n]), rtol=1e-9, atol=1e-12
        )


def entropy(x, t):
    return F.sum(x * F.log(x)) - F.sum(t * x)


def test_entropy_on_the_simplex_is_the_softmax():
    rng = np.random.default_rng(1)
    t = rng.normal(size=6)
    p = np.exp(t) / np.exp(t).sum()
    theta = chainer.Variable(t)
    x = argmin(entropy, np.full(6, 1 / 6), theta, constraints=Simplex())
    np.testing.assert_allclose(x.array, p, rtol=1e-9)
    c = rng.normal(size=6)
    (g,) = chainer.grad([F.sum(c * x)], [theta], enable_double_backprop=True)
    np.testing.assert_allclose(g.array, p * c - p * (p @ c), rtol=1e-8, atol=1e-12)
    # Second derivatives of the log-partition's own gradient, against differences.
    d = rng.normal(size=6)
    (twice,) = chainer.grad([F.sum(d * g)], [theta])

    def slope(t):
        p = np.exp(t) / np.exp(t).sum()
        return p * c - p * (p @ c)

    h = 1e-6
    expected = [(slope(t + h * e) - slope(t - h * e)) @ d / (2 * h) for e in np.eye(6)]
    np.testing.assert_allclose(twice.array, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("linear_solver", ["dense", "cg"])
def test_a_convex_problem_with_everything_against_differences(linear_solver):
    rng = np.random.default_rng(2)
    n = 8
    root = rng.normal(size=(n, n))
    q = root @ root.T / n + 0.3 * np.eye(n)
    c, a = 2 * rng.normal(size=n), rng.normal(size=(2, n))
    lower, upper = np.full(n, -0.4), np.full(n, 0.5)
    b = a @ rng.uniform(-0.2, 0.2, n)

    def objective(x, q, c):
        return quadratic(x, (q + q.T) / 2, c) + 0.3 * F.sum(x**4)

    def call(q, c, a, b, lower, upper):
        return argmin(
            objective,
            np.zeros(n),
            (q, c),
            constraints=[Box(lower, upper), LinearEqualities(a, b)],
            linear_solver=linear_solver,
            solver="newton" if linear_solver == "dense" else "SLSQP",
        )

    x = check_by_differences(call, (q, c, a, b, lower, upper), n, step=1e-5, rtol=1e-4, atol=1e-6)
    assert 0 < x.report.active < n - 2
    assert x.report.verdict == "founded"


def test_second_derivatives_under_equalities_in_the_matrix_too():
    rng = np.random.default_rng(5)
    a, b, t = rng.normal(size=(2, 4)), rng.normal(size=2), rng.normal(size=4)
    c, d, e = rng.normal(size=4), rng.normal(size=(2, 4)), rng.normal(size=4)

    def objective(x, t):
        return F.sum(F.exp(x) - t * x) + F.sum(x**2)

    def first(a, b, t):
        variables = [chainer.Variable(one) for one in (a, b, t)]
        x = argmin(objective, np.zeros(4), variables[2],
                   constraints=LinearEqualities(*variables[:2]))  # fmt: skip
        slopes = chainer.grad([F.sum(c * x)], variables, enable_double_backprop=True)
        return variables, F.sum(slopes[0] * d) + F.sum(slopes[1]) + F.sum(slopes[2] * e)

    variables, value = first(a, b, t)
    seconds = chainer.grad([value], variables)
    h = 1e-5
    for k, array in enumerate((a, b, t)):
        direction = rng.normal(size=array.shape)
        ends = []
        for sign in (1, -1):
            moved = [a, b, t]
            moved[k] = array + sign * h * direction
            ends.append(float(first(*moved)[1].array))
        expected = (ends[0] - ends[1]) / (2 * h)
        assert (seconds[k].array * direction).sum() == pytest.approx(expected, rel=1e-5, abs=1e-7)


def test_non_negative_least_squares_of_many_unknowns_by_conjugate_gradients():
    from scipy.optimize import nnls

    rng = np.random.default_rng(3)
    design, target = rng.normal(size=(260, 200)), rng.normal(size=260)
    expected, _ = nnls(design, target)
    t = chainer.Variable(target)
    x = argmin(
        lambda x, t: F.sum((F.matmul(design, x) - t) ** 2),
        np.ones(200),
        t,
        constraints=Box(0.0, None),
        preconditioner="diagonal",
    )
    assert x.report.linear_solver == "cg"
    np.testing.assert_allclose(x.array, expected, atol=1e-8)
    c = rng.normal(size=200)
    x.grad = c
    x.backward()
    held = expected > 0
    part = design[:, held]
    solved = np.linalg.solve(part.T @ part, c[held])
    np.testing.assert_allclose(t.grad, part @ solved, rtol=1e-6, atol=1e-9)
    assert x.report.solves[0].iterations > 0
    assert x.report.solves[0].residual < 1e-8


@pytest.mark.parametrize("solver", ["newton", "SLSQP"])
def test_a_batch_of_projections(solver):
    rng = np.random.default_rng(4)
    t = rng.normal(size=(5, 4))

    def call(t):
        return argmin(
            lambda x, t: F.sum((x - t) ** 2, axis=1) / 2,
            np.full((5, 4), 0.25),
            t,
            constraints=Simplex(),
            batched=True,
            solver=solver,
        )

    c = rng.normal(size=(5, 4))
    x, (gt,) = gradients(call, (t,), c)
    for row, point, slope, weight in zip(x.array, t, gt, c, strict=True):
        np.testing.assert_allclose(row, projected(point), atol=1e-9)
        held = row > 1e-8
        np.testing.assert_allclose(slope, held * (weight - weight[held].mean()), atol=1e-8)
    assert x.report.problems == 5


def test_strict_complementarity_is_asked_for():
    """t lies exactly on the bound: x = max(t, 0) has two one-sided derivatives there."""
    with pytest.raises(NotAMinimumError, match="strict complementarity fails"):
        argmin(distance, np.full(2, 0.5), np.array([0.0, 0.3]), constraints=Box(0, 1))
    with pytest.raises(NotAMinimumError, match="strict complementarity fails"):
        # The projection of this point on the simplex has a zero that it reaches exactly.
        argmin(distance, np.full(3, 1 / 3), np.array([0.5, 0.5, 0.0]), constraints=Simplex())


def test_what_is_no_constrained_minimum_is_refused():
    def stay(objective, x):
        return x

    inside = {"constraints": Box(0, 1), "solver": stay}
    with pytest.raises(NotAMinimumError, match="not stationary"):
        argmin(distance, np.array([0.5]), np.array([0.3]), **inside)
    with pytest.raises(NotAMinimumError, match="wrong sign"):
        argmin(distance, np.array([0.0]), np.array([0.3]), **inside)
    with pytest.raises(NotAMinimumError, match="violated by"):
        argmin(distance, np.array([-0.3]), np.array([-0.3]), **inside)
    with pytest.raises(NotAMinimumError, match="curvature is not positive"):
        argmin(lambda x, t: -distance(x, t), np.array([0.3]), np.array([0.3]), **inside)
    # A maximum along the simplex, though a stationary point.
    with pytest.raises(NotAMinimumError, match="curvature is not positive"):
        argmin(
            lambda x, t: -distance(x, t),
            np.full(2, 0.5),
            np.zeros(2),
            constraints=Simplex(),
            solver=stay,
        )


def test_curvature_counts_along_the_constraints_only():
    """x1^2 - x2^2 has a minimum where x2 is held."""
    t = chainer.Variable(np.array(0.4))
    x = argmin(
        lambda x, t: (x[0] - t) ** 2 - x[1] ** 2, np.array([0.0, 0.9]), t, constraints=Box(-1, 1)
    )
    np.testing.assert_allclose(x.array, [0.4, 1.0])
    x[0].backward()
    np.testing.assert_allclose(t.grad, 1)
    assert x.report.smallest_curvature == pytest.approx(2)


def test_a_corner_moves_with_its_bounds_only():
    lower = chainer.Variable(np.array([1.0, 2.0]))
    t = chainer.Variable(np.zeros(2))
    x = argmin(distance, np.full(2, 5.0), t, constraints=Box(lower, None))
    np.testing.assert_array_equal(x.array, [1, 2])
    F.sum(x).backward()
    np.testing.assert_array_equal(lower.grad, 1)
    np.testing.assert_array_equal(t.grad, 0)


def test_a_report_of_a_point_from_elsewhere():
    report = argmin_report(distance, np.array([0.0, 0.3]), np.array([-1.0, 0.3]),
                           constraints=Box(0, 1))  # fmt: skip
    assert (report.verdict, report.active) == ("founded", 1)
    report = argmin_report(distance, np.array([0.1, 0.3]), np.array([-1.0, 0.3]),
                           constraints=Box(0, 1))  # fmt: skip
    assert report.verdict == "refused"


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dtypes(dtype):
    t = chainer.Variable(np.array([0.6, 0.9, -0.7], dtype))
    x = argmin(distance, np.full(3, 1 / 3, dtype), t, constraints=Simplex())
    assert x.dtype == dtype
    np.testing.assert_allclose(x.array, [0.35, 0.65, 0], atol=1e-6)
    x[0].backward()
    np.testing.assert_allclose(t.grad, [0.5, -0.5, 0], atol=1e-6)
    assert t.grad.dtype == dtype


@pytest.mark.parametrize(
    ("constraints", "error", "message"),
    [
        (F.relu, TypeError, "found function"),
        (Box(1.0, 0.0), ValueError, "lower must be smaller than upper"),
        (Box(np.zeros(3)), ValueError, r"lower must broadcast to the shape \(2,\)"),
        (Box(np.nan), ValueError, "lower must not be NaN"),
        (Simplex(-1.0), ValueError, "total of the simplex must be positive"),
        ([Box(0, 1), Simplex()], ValueError, "at most one Box or Simplex, found 2"),
        (LinearEqualities(np.ones((1, 3)), [1.0]), ValueError, r"matrix must have shape \(m, 2\)"),
        (LinearEqualities(np.ones((1, 2)), [1.0, 2]), ValueError, r"right must have shape \(1,\)"),
        (LinearEqualities(np.ones((2, 2)), [1.0, 1]), ValueError, "must be independent"),
    ],
)
def test_bad_constraints(constraints, error, message):
    with pytest.raises(error, match=message):
        argmin(distance, np.full(2, 0.5), np.zeros(2), constraints=constraints)


def test_a_solver_without_constraints_is_refused():
    with pytest.raises(ValueError, match="with these constraints, found 'BFGS'"):
        argmin(distance, np.full(2, 0.5), np.zeros(2), constraints=Simplex(), solver="BFGS")
