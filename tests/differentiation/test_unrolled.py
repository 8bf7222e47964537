"""Unrolled derivatives of an argmin, and how they differ from the implicit one."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

import chainer
from chainrob.differentiation import argmin, compare_derivatives, unrolled_argmin

F = chainer.functions

_spec = importlib.util.spec_from_file_location(
    "argmin_thread", Path(__file__).with_name("thread.py")
)
thread = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(thread)

D, T = np.array([0.5, 1.0, 3.0]), np.array([1.0, -2.0, 0.3])


def quadratic(x, t):
    return F.sum(D * (x - t) ** 2) / 2


@pytest.mark.parametrize("steps", [0, 1, 7, 40])
def test_closed_form_of_a_quadratic(steps):
    """x_k = t + (1 - rate d)^k (x_0 - t), so dx/dt = 1 - (1 - rate d)^k and dx/dx_0 the rest."""
    t, x0 = chainer.Variable(T), chainer.Variable(np.ones(3))
    x = unrolled_argmin(quadratic, x0, t, steps=steps, rate=0.3)
    power = (1 - 0.3 * D) ** steps
    np.testing.assert_allclose(x.array, T + power * (1 - T), rtol=1e-12)
    F.sum(x).backward()
    np.testing.assert_allclose(x0.grad, power, rtol=1e-12)
    if steps:
        np.testing.assert_allclose(t.grad, 1 - power, rtol=1e-12)


@pytest.mark.parametrize("truncation", [1, 3, 20])
def test_truncation_is_a_part_of_the_neumann_series(truncation):
    t = chainer.Variable(T)
    x = unrolled_argmin(quadratic, np.ones(3), t, steps=60, rate=0.3, truncation=truncation)
    F.sum(x).backward()
    series = 0.3 * sum((1 - 0.3 * D) ** k for k in range(truncation))
    np.testing.assert_allclose(t.grad, series * D, rtol=1e-10)
    # The value does not depend on what is remembered.
    full = unrolled_argmin(quadratic, np.ones(3), T, steps=60, rate=0.3)
    np.testing.assert_array_equal(x.array, full.array)


def test_all_forgotten():
    t = chainer.Variable(T)
    x = unrolled_argmin(quadratic, np.ones(3), t, steps=5, rate=0.3, truncation=0)
    assert x.creator_node is None


def rosenbrock(x, a, b):
    return (a - x[0]) ** 2 + b * (x[1] - x[0] ** 2) ** 2 + 0.1 * F.sum(x**4)


def test_through_all_steps_against_differences():
    """With momentum, of an objective that is not quadratic, also where nothing has converged."""

    def end(values):
        a, b = (chainer.Variable(np.array(v)) for v in values)
        x = unrolled_argmin(
            rosenbrock, np.array([0.2, 0.1]), [a, b], steps=25, rate=0.05, momentum=0.7
        )
        return a, b, F.sum(x * np.array([1.0, -2.0]))

    a, b, value = end((1.2, 2.0))
    value.backward()
    h = 1e-6
    for grad, unit in ((a.grad, (h, 0)), (b.grad, (0, h))):
        ahead = float(end((1.2 + unit[0], 2.0 + unit[1]))[2].array)
        behind = float(end((1.2 - unit[0], 2.0 - unit[1]))[2].array)
        assert float(grad) == pytest.approx((ahead - behind) / (2 * h), rel=1e-6)


def test_it_tends_to_the_implicit_derivative_at_the_rate_of_the_iteration():
    found = compare_derivatives(
        rosenbrock, np.array([0.2, 0.1]), [1.2, 2.0], steps=[30, 60, 120], rate=0.1
    )
    assert found.report.verdict == "founded"
    distances = [found.distance(k) for k in (30, 60, 120)]
    assert distances == sorted(distances, reverse=True)
    assert distances[-1] < 1e-4  # (1 - 0.1 * 1.25)^120 = 1e-7, times the steps
    np.testing.assert_allclose(found.unverified[0], found.implicit[0], rtol=1e-8)


def test_the_thread_at_its_minimum_both_ways_agree():
    """Seed 456 with x^2 / 16: the published derivatives, by 40 steps of gradient descent too."""
    case = "seed_456_stabilised"
    published = thread.CASES[case]["published"]
    arrays = [v.array for v in thread.parameters(case)]
    found = compare_derivatives(
        thread.objective(case), np.zeros(1), arrays, steps=[3, 40], rate=2.0
    )
    assert found.report.verdict == "founded"
    assert found.distance(40) < 1e-6 < found.distance(3)
    for name, slope in zip(thread.NAMES, found.unrolled[40], strict=True):
        np.testing.assert_allclose(slope.ravel(), published[f"dx_star_d{name}"], atol=1e-4)
    assert "unrolled, 40 steps" in str(found)


@pytest.mark.parametrize("case", ["seed_456", "seed_123_three_inputs"])
def test_the_thread_without_a_minimum_every_way_says_something_else(case):
    """What an implicit-differentiation package hands back there is no property of the problem."""
    arrays = [v.array for v in thread.parameters(case)]
    n = thread.inputs(case)
    found = compare_derivatives(
        thread.objective(case), np.zeros(n), arrays, steps=[30, 80, 200], rate=4.0
    )
    assert found.implicit is None
    assert found.report.verdict == "refused"
    assert "refused" in str(found)
    at = {k: np.concatenate([g.ravel() for g in found.unrolled[k]]) for k in (30, 80, 200)}
    # The unrolled derivative goes on changing with the steps, for the point runs away.
    assert np.linalg.norm(at[80] - at[30]) > 0.1 * np.linalg.norm(at[30])
    assert np.linalg.norm(at[200] - at[80]) > 0.05 * np.linalg.norm(at[80])
    assert np.linalg.norm(found.points[200]) > np.linalg.norm(found.points[80]) + 0.3
    # And the formula without its conditions says something else again.
    assert found.distance(200) > 0.1


def test_the_example_on_which_two_packages_differ():
    """TorchOpt's issue 222: the root of factor * x^3 - x - 2, jaxopt's example of a root.

    TorchOpt 0.7.3 gave 0 for a number as the unknown, jaxopt the derivative. As an argmin it is
    that of factor x^4 / 4 - x^2 / 2 - 2 x, with dx/dfactor = -x^3 / (3 factor x^2 - 1).
    """
    factor = chainer.Variable(np.array(2.0))
    x = argmin(lambda x, c: c * x**4 / 4 - x**2 / 2 - 2 * x, 1.0, factor)
    x.backward()
    root = float(x.array)
    assert 2 * root**3 - root - 2 == pytest.approx(0, abs=1e-12)
    assert float(factor.grad) == pytest.approx(-(root**3) / (6 * root**2 - 1), rel=1e-10)


def test_the_ridge_problem_of_the_tests_of_jaxopt():
    """make_regression(10, 3, random_state=0), lam = 5: jaxopt holds its implicit Jacobian within
    5e-2 of differences of the closed form; here it is the closed form to ten digits.
    """
    from sklearn.datasets import make_regression

    design, target = make_regression(n_samples=10, n_features=3, random_state=0)
    lam, n = chainer.Variable(np.array(5.0)), 10

    def ridge(w, lam):
        return F.mean((F.matmul(design, w) - target) ** 2) / 2 + lam * F.sum(w**2) / 2

    w = argmin(ridge, np.zeros(3), lam)
    matrix = design.T @ design + 5.0 * n * np.eye(3)
    expected = np.linalg.solve(matrix, design.T @ target)
    np.testing.assert_allclose(w.array, expected, rtol=1e-10)
    slopes = [chainer.grad([w], [lam], [chainer.Variable(unit)])[0].array for unit in np.eye(3)]
    np.testing.assert_allclose(slopes, -n * np.linalg.solve(matrix, expected), rtol=1e-10)
    both = compare_derivatives(ridge, np.zeros(3), [5.0], steps=[60], rate=0.15)
    assert both.distance(60) < 1e-8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": -1, "rate": 0.1}, "steps must not be negative"),
        ({"steps": 1, "rate": 0.0}, "rate must be positive"),
        ({"steps": 1, "rate": 0.1, "momentum": 1.0}, "momentum"),
        ({"steps": 1, "rate": 0.1, "truncation": -1}, "truncation"),
        ({"steps": 4000, "rate": 3.0}, "stay finite"),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow")
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        unrolled_argmin(quadratic, np.ones(3), T, **options)


def test_bad_comparisons():
    with pytest.raises(ValueError, match="at least one number"):
        compare_derivatives(quadratic, np.ones(3), T, steps=[], rate=0.1)
    with pytest.raises(ValueError, match="cotangent must have the shape"):
        compare_derivatives(quadratic, np.ones(3), T, steps=[1], rate=0.1, cotangent=np.ones(2))
