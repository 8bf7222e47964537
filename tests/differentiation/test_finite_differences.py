"""Forward, backward and central differences: accuracy, order, cancellation, shapes, refusals."""

import numpy as np
import pytest

import chainrob  # noqa: F401
import chainer
from chainrob.differentiation import (
    backward_difference,
    central_difference,
    complex_step,
    directional_derivative,
    forward_difference,
)

F = chainer.functions
ALL = [forward_difference, backward_difference, central_difference]


def smooth(x):
    return np.exp(np.sin(x))


EXACT = np.exp(np.sin(1.0)) * np.cos(1.0)


def order(method, steps):
    """Slope of log error against log step."""
    errors = [abs(method(smooth, 1.0, step=h) - EXACT) for h in steps]
    return np.polyfit(np.log(steps), np.log(errors), 1)[0]


@pytest.mark.parametrize(
    ("method", "expected", "steps"),
    [
        (forward_difference, 1, np.geomspace(1e-2, 1e-5, 10)),
        (backward_difference, 1, np.geomspace(1e-2, 1e-5, 10)),
        (central_difference, 2, np.geomspace(1e-1, 1e-3, 10)),
    ],
)
def test_order_of_truncation(method, expected, steps):
    assert order(method, steps) == pytest.approx(expected, abs=0.03)


@pytest.mark.parametrize("method", ALL)
def test_cancellation_grows_as_the_step_shrinks(method):
    # eps / h, scattered by rounding; averaged over many steps the slope of -1 shows.
    assert order(method, np.geomspace(1e-8, 1e-13, 200)) == pytest.approx(-1, abs=0.25)


def test_complex_step_does_not_cancel():
    for h in (1e-10, 1e-100, 1e-300):
        assert abs(complex_step(smooth, 1.0, step=h) - EXACT) < 4e-16
    steps = np.geomspace(1e-1, 1e-3, 10)
    assert order(complex_step, steps) == pytest.approx(2, abs=0.03)


@pytest.mark.parametrize(
    ("dtype", "one_sided", "central"),
    [(np.float64, 1e-7, 1e-9), (np.float32, 5e-3, 3e-4), (np.float16, 0.2, 0.06)],
)
@pytest.mark.parametrize("method", ALL)
def test_default_steps_suit_the_dtype(method, dtype, one_sided, central):
    gradient = method(smooth, np.array([0.5, 1.0], dtype))
    assert gradient.dtype == dtype
    bound = central if method is central_difference else one_sided
    exact = np.exp(np.sin([0.5, 1.0])) * np.cos([0.5, 1.0])
    np.testing.assert_allclose(gradient.diagonal(), exact, atol=bound)


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
@pytest.mark.parametrize("method", ALL)
def test_extreme_scales(method, scale):
    np.testing.assert_allclose(method(lambda x: x**2, scale), 2 * scale, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(("method", "count"), [*zip(ALL, (7, 7, 12), strict=True)])
@pytest.mark.parametrize("vectorized", [False, True])
def test_evaluations_and_jacobians(method, count, vectorized):
    x = np.random.default_rng(0).normal(size=(2, 3))

    def function(x):
        return x[..., 0] * x[..., 1] ** 2 + np.sin(x[..., 2])

    jacobian, info = method(function, x, vectorized=vectorized, return_info=True)
    assert (info.evaluations, info.calls) == (
        count,
        (1 if method is central_difference else 2) if vectorized else count,
    )
    exact = np.zeros((2, 2, 3))
    for i in range(2):
        exact[i, i] = x[i, 1] ** 2, 2 * x[i, 0] * x[i, 1], np.cos(x[i, 2])
    assert jacobian.shape == (2, 2, 3)
    np.testing.assert_allclose(jacobian, exact, atol=2e-7)


@pytest.mark.parametrize("method", ALL)
def test_elementwise_takes_two_evaluations(method):
    x = np.linspace(-1, 1, 12).reshape(3, 4)
    slopes, info = method(smooth, x, elementwise=True, return_info=True)
    assert info.evaluations == 2
    np.testing.assert_allclose(slopes, smooth(x) * np.cos(x), atol=1e-7)
    with pytest.raises(ValueError, match="must keep the shape"):
        method(np.sum, x, elementwise=True)


def test_integers_lists_variables_and_chainer_functions():
    assert central_difference(lambda x: x**2, 3) == pytest.approx(6)
    x = chainer.Variable(np.array([1.0, 2.0]))
    np.testing.assert_allclose(central_difference(lambda v: F.sum(F.exp(v)), x), np.exp([1, 2]))
    steps = np.array([1e-3, 1e-4])
    info = central_difference(np.sum, [1.0, 2.0], step=steps, return_info=True)[1]
    np.testing.assert_array_equal(info.step, steps)


@pytest.mark.parametrize("method", [*ALL, complex_step])
@pytest.mark.parametrize(
    ("function", "x", "options", "error", "message"),
    [
        (np.sum, 1.0, {"step": 0.0}, ValueError, "step must be positive and finite, found 0.0"),
        (np.sum, 1.0, {"step": -1e-3}, ValueError, "step must be positive"),
        (np.sum, 1.0, {"step": np.nan}, ValueError, "step must be positive"),
        (np.sum, [1.0], {"step": [1.0, 1.0]}, ValueError, "step must broadcast"),
        (np.sum, np.nan, {}, ValueError, "x must be finite"),
        (np.sum, [], {}, ValueError, "at least one number"),
        (np.sum, 1j, {}, TypeError, "x must be real"),
        (7, 1.0, {}, TypeError, "function must be callable"),
        (lambda x: x * np.inf, 1.0, {}, ValueError, "function must be finite"),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_bad_input(method, function, x, options, error, message):
    with pytest.raises(error, match=message):
        method(function, x, **options)


@pytest.mark.parametrize("method", ALL)
def test_a_step_lost_in_rounding_is_refused(method):
    with pytest.raises(ValueError, match="large enough that x \\+ step differs"):
        method(np.sum, 1.0, step=1e-20)


def test_the_two_conventions_of_a_central_difference():
    for h in (0.5, 0.01):
        half = central_difference(smooth, 1.0, step=h)
        assert central_difference(smooth, 1.0, step=2 * h, convention="width") == half
        whole, info = central_difference(smooth, 1.0, step=h, convention="width", return_info=True)
        assert whole == pytest.approx((smooth(1 + h / 2) - smooth(1 - h / 2)) / h, rel=1e-12)
        assert info.step == h
        along = directional_derivative(smooth, 1.0, 1.0, step=h, convention="width")
        assert along == pytest.approx(whole, rel=1e-12)
    default = central_difference(smooth, 1.0, return_info=True)
    wide = central_difference(smooth, 1.0, convention="width", return_info=True)
    assert wide[0] == default[0]
    assert wide[1].step == 2 * default[1].step
    with pytest.raises(ValueError, match="convention must be 'half-width' or 'width', found 'all'"):
        central_difference(smooth, 1.0, convention="all")
    with pytest.raises(ValueError, match="step must be positive"):
        central_difference(smooth, 1.0, step=0.0, convention="width")
    with pytest.raises(ValueError, match="convention must be 'half-width' if method is 'forw"):
        directional_derivative(smooth, 1.0, 1.0, method="forward", convention="width")
