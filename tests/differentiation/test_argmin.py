"""The gradient of an argmin: the thread's networks, closed forms, refusals, double backward."""

import functools
import importlib.util
import pickle
from pathlib import Path

import numpy as np
import pytest

import chainrob
import chainer
from chainrob.differentiation import NotAMinimumError, argmin, check_argmin

F = chainer.functions

_spec = importlib.util.spec_from_file_location(
    "argmin_thread", Path(__file__).with_name("thread.py")
)
thread = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(thread)

MINIMA = ["seed_2023", "seed_456_stabilised"]
NO_MINIMA = ["seed_456", "seed_123_three_inputs"]
# The thread prints four decimals of float32 arithmetic: half a unit of the last digit, and the
# rounding of float32 (measured: 3e-6 at the published point, 7e-5 from another point one ulp off).
PRINTED = 0.5e-4


def thread_gradients(case, dtype, **options):
    thetas = thread.parameters(case, dtype)
    x = argmin(thread.objective(case), np.zeros(thread.inputs(case), dtype), thetas, **options)
    F.sum(x).backward()
    return x, thetas


@pytest.mark.parametrize("case", MINIMA)
def test_thread_at_the_published_point(case):
    published = thread.CASES[case]["published"]
    x, thetas = thread_gradients(
        case,
        np.float64,
        solver=lambda function, x0: np.array([published["x_star"]]),
        tolerance=1e-6,
    )
    assert x.report.value == pytest.approx(published["f"], abs=1e-7)
    assert x.report.smallest_curvature == pytest.approx(published["d2f_dx2"], abs=PRINTED)
    for name, theta in zip(thread.NAMES, thetas, strict=True):
        np.testing.assert_allclose(
            theta.grad.ravel(), published[f"dx_star_d{name}"], rtol=0, atol=PRINTED + 4e-6
        )


@pytest.mark.parametrize("case", MINIMA)
@pytest.mark.parametrize(
    ("dtype", "solver"),
    [
        (np.float32, thread.adam),
        (np.float32, "newton"),
        (np.float64, "newton"),
        (np.float64, "BFGS"),
        (np.float64, "L-BFGS-B"),
        (np.float64, "Newton-CG"),
    ],
)
def test_thread_by_every_solver(case, dtype, solver):
    published = thread.CASES[case]["published"]
    x, thetas = thread_gradients(case, dtype, solver=solver)
    assert x.dtype == dtype
    # The Newton step bounds how far float32's flat bottom lets x wander: 1e-6 of 4.4 there.
    np.testing.assert_allclose(x.array, published["x_star"], rtol=2e-6)
    for name, theta in zip(thread.NAMES, thetas, strict=True):
        np.testing.assert_allclose(
            theta.grad.ravel(), published[f"dx_star_d{name}"], rtol=0, atol=PRINTED + 1e-4
        )


@pytest.mark.parametrize("case", MINIMA)
def test_thread_against_central_differences(case):
    check = check_argmin(thread.objective(case), np.zeros(1), thread.parameters(case))
    assert check.error < 1e-7
    assert check.solves == 18


@pytest.mark.parametrize("case", NO_MINIMA)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("solver", [thread.adam, "newton", "BFGS"])
def test_no_minimum_is_refused(case, dtype, solver):
    with pytest.raises(NotAMinimumError, match="Remedy: ") as caught:
        thread_gradients(case, dtype, solver=solver)
    report, message = caught.value.report, str(caught.value)
    assert f"stationarity residual {report.residual:.3g}" in message
    assert f"smallest curvature {report.smallest_curvature:.3g}" in message
    assert f"condition number {report.condition_number:.3g}" in message
    assert pickle.loads(pickle.dumps(caught.value)).report == report
    if solver == "newton":
        assert report.iterations < 100  # it does not chase rounding noise


def test_thread_stops_where_the_thread_stopped():
    # The published x at step 350 of the two cases without a minimum, from the same Adam.
    for case in NO_MINIMA:
        objective, thetas = thread.objective(case), thread.parameters(case)
        dtype = np.float32 if case == "seed_456" else np.float64
        thetas = [chainer.Variable(theta.array.astype(dtype)) for theta in thetas]
        found = thread.adam(
            lambda x, o=objective, t=thetas: o(x, *t), np.zeros(thread.inputs(case), dtype)
        )
        np.testing.assert_allclose(
            found, thread.CASES[case]["published"]["x_star_at_step_350"], atol=1e-3
        )


def ridge(x, design, target, penalty):
    return F.sum((F.matmul(design, x) - target) ** 2) + F.sum(penalty * x**2)


@pytest.mark.parametrize("linear_solver", ["dense", "cg"])
@pytest.mark.parametrize("solver", ["newton", "L-BFGS-B"])
def test_ridge_regression_in_closed_form(linear_solver, solver):
    rng = np.random.default_rng(0)
    a, b, c = rng.normal(size=(12, 4)), rng.normal(size=12), rng.normal(size=4)
    design, target, penalty = (chainer.Variable(v) for v in (a, b, np.array(0.7)))
    x = argmin(
        ridge, np.zeros(4), [design, target, penalty], solver=solver, linear_solver=linear_solver
    )
    h = a.T @ a + 0.7 * np.eye(4)
    w = np.linalg.solve(h, a.T @ b)
    np.testing.assert_allclose(x.array, w, rtol=1e-10)
    x.grad = c
    x.backward()
    v = np.linalg.solve(h, c)
    np.testing.assert_allclose(penalty.grad, -v @ w, rtol=1e-9)
    np.testing.assert_allclose(target.grad, a @ v, rtol=1e-9, atol=1e-12)
    # d w = H^-1 (dA^T r - A^T dA w), with r = b - A w
    np.testing.assert_allclose(
        design.grad, np.outer(b - a @ w, v) - np.outer(a @ v, w), rtol=1e-9, atol=1e-12
    )


def test_thousand_unknowns_by_conjugate_gradients():
    rng = np.random.default_rng(1)
    u = rng.normal(size=1000) / np.sqrt(1000)
    d = rng.uniform(1, 20, size=1000)
    t = chainer.Variable(rng.normal(size=1000))

    def quadratic(x, t):
        return F.sum(d * x**2) / 2 + F.sum(u * x) ** 2 / 2 - F.sum(t * x)

    x = argmin(quadratic, np.zeros(1000), t)
    assert x.report.linear_solver == "cg"
    # Sherman and Morrison: (D + u u^T)^-1
    scaled = u / d

    def inverse(v):
        return v / d - scaled * (scaled @ v) / (1 + u @ scaled)

    np.testing.assert_allclose(x.array, inverse(t.array), rtol=1e-9, atol=1e-12)
    c = rng.normal(size=1000)
    x.grad = c
    x.backward()
    np.testing.assert_allclose(t.grad, inverse(c), rtol=1e-9, atol=1e-12)
    exact = np.linalg.eigvalsh(np.diag(d) + np.outer(u, u))
    assert x.report.smallest_curvature == pytest.approx(exact[0], rel=2e-2)
    assert x.report.largest_curvature == pytest.approx(exact[-1], rel=2e-2)


@pytest.mark.parametrize("dimension", [3, 200])
def test_saddle_is_refused_dense_and_by_lanczos(dimension):
    signs = np.ones(dimension)
    signs[1] = -1
    with pytest.raises(NotAMinimumError, match="smallest curvature is not positive"):
        argmin(
            lambda x, t: F.sum(signs * x**2) + t,
            np.zeros(dimension),
            1.0,
            solver=lambda f, x0: x0,
        )


def test_damping_only_when_asked_for():
    def objective(x, t):
        return F.sum((x - t) ** 2)

    t = chainer.Variable(np.array([1.0, 2.0]))
    x = argmin(objective, np.zeros(2), t)
    assert x.report.damping == 0
    F.sum(x).backward()
    np.testing.assert_allclose(t.grad, 1, rtol=1e-12)
    t.cleargrad()
    x = argmin(objective, np.zeros(2), t, damping=2.0)
    np.testing.assert_allclose(x.array, t.array, rtol=1e-12)  # the minimizer is not moved
    F.sum(x).backward()
    np.testing.assert_allclose(t.grad, 0.5, rtol=1e-12)  # 2 / (2 + 2)


@pytest.mark.parametrize("damping", [0.0, 1e-6, 1e-3, 10.0])
def test_damping_admits_no_flat_direction(damping):
    with pytest.raises(NotAMinimumError, match="smallest curvature is not positive"):
        argmin(lambda x, t: (x[0] - t) ** 2, np.zeros(2), 1.0, damping=damping)


@functools.cache
def undamped_curvature(case, linear_solver):
    with pytest.raises(NotAMinimumError) as plain:
        thread_gradients(case, np.float64, linear_solver=linear_solver)
    return plain.value.report.smallest_curvature


@pytest.mark.parametrize("case", NO_MINIMA)
@pytest.mark.parametrize("damping", [1e-6, 1e-3, 1.0])
@pytest.mark.parametrize("linear_solver", ["dense", "cg"])
def test_damping_makes_no_minimum_of_what_is_none(case, damping, linear_solver):
    """Seed 456 was once accepted at x = -54.66 with gradient 0."""
    with pytest.raises(NotAMinimumError) as caught:
        thread_gradients(case, np.float64, damping=damping, linear_solver=linear_solver)
    assert "damping" not in str(caught.value)
    assert caught.value.report.verdict == "refused"
    # The same point as without: damping has no part in the search or the verdict.
    assert caught.value.report.smallest_curvature == undamped_curvature(case, linear_solver)


def test_double_backward():
    # min exp(x) - t x is x = log t, so dx/dt = 1/t and d2x/dt2 = -1/t^2, d3x/dt3 = 2/t^3
    t = chainer.Variable(np.array([2.0, 0.5]))
    x = argmin(lambda x, t: F.sum(F.exp(x) - t * x), np.zeros(2), t)
    orders = []
    y = F.sum(x)
    for _ in range(3):
        (y,) = chainer.grad([y], [t], enable_double_backprop=True)
        orders.append(y.array)
        y = F.sum(y)
    exact = [1 / t.array, -1 / t.array**2, 2 / t.array**3]
    np.testing.assert_allclose(orders, exact, rtol=1e-9)


def test_double_backward_with_coupled_unknowns():
    rng = np.random.default_rng(2)
    mixing, c = rng.normal(size=(3, 3)), rng.normal(size=3)

    def objective(x, t):
        return F.sum(F.log(F.cosh(F.matmul(mixing, x) - t))) + F.sum(t**2 * x**2) / 4

    def loss_gradient(values):
        t = chainer.Variable(values)
        x = argmin(objective, np.zeros(3), t)
        (g,) = chainer.grad([F.sum(c * x)], [t], enable_double_backprop=True)
        return t, g

    at = np.array([0.3, -0.5, 0.9])
    t, g = loss_gradient(at)
    (twice,) = chainer.grad([F.sum(c * g)], [t])
    h = 1e-5
    for j, unit in enumerate(np.eye(3)):
        ahead = float(c @ loss_gradient(at + h * unit)[1].array)
        behind = float(c @ loss_gradient(at - h * unit)[1].array)
        assert twice.array[j] == pytest.approx((ahead - behind) / (2 * h), rel=1e-6, abs=1e-8)


def test_parameters_without_a_gradient_and_none():
    t = chainer.Variable(np.array(1.0), requires_grad=False)
    s = chainer.Variable(np.array(3.0))
    x = argmin(lambda x, t, s: (x - t * s) ** 2, 0.0, [t, s])
    x.backward()
    assert t.grad is None
    np.testing.assert_allclose(s.grad, 1)
    assert float(argmin(lambda x: (x - 2) ** 2, 0.0, []).array) == pytest.approx(2)


@pytest.mark.parametrize("x0", [0, np.float32(0), [0.0, 0.0], np.zeros((1, 2), np.int64)])
def test_numbers_and_lists_are_arrays(x0):
    x = argmin(lambda x, t: F.sum((x - t) ** 2), x0, np.asarray(x0).dtype.type(2))
    assert x.shape == np.shape(x0)
    np.testing.assert_allclose(x.array, 2, rtol=1e-6)


def test_check_samples_entries_and_weights():
    t = np.linspace(1, 2, 30)
    check = check_argmin(
        lambda x, t: F.sum(F.exp(x) - t * x), np.zeros(30), t, cotangent=t, max_entries=5
    )
    assert check.solves == 10
    checked = np.isfinite(check.differences[0])
    assert checked.sum() == 5
    np.testing.assert_allclose(check.differences[0][checked], 1, rtol=1e-8)
    np.testing.assert_allclose(check.implicit[0], 1, rtol=1e-10)


def test_check_finds_a_wrong_derivative():
    # What an objective hides from its graph the implicit derivative cannot see.
    def hidden(x, t):
        return (x - t.array) ** 2 + 0 * t

    assert check_argmin(hidden, 0.0, 1.0).error > 0.5


def square(x, t):
    return F.sum((x - t) ** 2)


@pytest.mark.parametrize(
    ("objective", "x0", "options", "error", "message"),
    [
        (lambda x, t: x - t, np.zeros(2), {}, ValueError, r"one number, found shape \(2,\)"),
        (lambda x, t: 1.0, 0.0, {}, TypeError, "must return a .*Variable, found float"),
        (lambda x, t: t**2, 0.0, {}, ValueError, "depend on x"),
        (None, 0.0, {}, TypeError, "objective must be callable"),
        (square, np.nan, {}, ValueError, "x0 must be finite"),
        (square, np.zeros(0), {}, ValueError, "not empty"),
        (square, 0.0, {"damping": -1.0}, ValueError, "damping .* found -1"),
        (square, 0.0, {"tolerance": 0.0}, ValueError, "tolerance must be positive"),
        (square, 0.0, {"linear_solver": "lu"}, ValueError, "linear_solver .* 'lu'"),
        (square, 0.0, {"solver": "nothing"}, ValueError, r"solver .*'nothing'"),
        (square, 0.0, {"max_iterations": 0}, ValueError, r"max_iterations .* 0"),
        (square, 0.0, {"solver": lambda f, x: np.zeros(3)}, ValueError, r"found \(3,\)"),
    ],
)
def test_bad_input(objective, x0, options, error, message):
    with pytest.raises(error, match=message):
        argmin(objective, x0, 1.0, **options)


def test_a_hidden_parameter_is_named():
    hidden = chainer.Variable(np.array(2.0), name="scale")
    with pytest.raises(ValueError, match=r"'scale'.*not among the parameters"):
        argmin(lambda x, t: hidden * (x - t) ** 2, 0.0, 1.0)


def test_an_objective_with_a_robust_layer_has_the_minimum_of_its_values():
    generator = np.random.default_rng(0)
    x, t = generator.normal(size=(20, 3)), generator.normal(size=(20, 1))
    weights = [chainer.Variable(np.ones((20, 1))) for _ in range(2)]
    stars = []
    for theta, robustifier in zip(weights, (None, chainrob.TrimmedMean(count=2)), strict=True):

        def objective(W, theta, robustifier=robustifier):
            y = chainrob.functions.linear(x, W, robustifier=robustifier)
            return chainer.functions.mean(theta * (y - t) ** 2)

        stars.append(argmin(objective, np.zeros((1, 3)), theta))
        chainer.functions.sum(stars[-1]).backward()
    np.testing.assert_allclose(stars[1].array, stars[0].array, rtol=1e-10)
    np.testing.assert_allclose(weights[1].grad, weights[0].grad, rtol=1e-8)


@pytest.mark.parametrize(
    "objective",
    [
        lambda x, t: F.sum(x**4 - t * x),
        lambda x, t: F.sum((x - t) ** 4),
        lambda x, t: F.sum(x[:1] ** 2) + F.sum((x[1:] - t) ** 4),
    ],
)
def test_degenerate_minima_are_refused(objective):
    t = chainer.Variable(np.zeros(1))
    with pytest.raises(NotAMinimumError):
        argmin(objective, np.ones(2), t)


def test_damping_hides_neither_a_slope_nor_a_maximum():
    def stay(objective, x):
        return x

    with pytest.raises(NotAMinimumError, match="not stationary"):
        argmin(
            lambda x, t: F.sum((x - t) ** 2), np.array([5.0]), np.ones(1), damping=1e9, solver=stay
        )
    with pytest.raises(NotAMinimumError, match="smallest curvature is not positive"):
        argmin(lambda x, t: -F.sum((x - t) ** 2), np.ones(1), np.ones(1), damping=10.0, solver=stay)
