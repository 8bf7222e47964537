"""Regression gradient, directional derivative and simultaneous perturbation."""

import numpy as np
import pytest

import chainrob
import chainer
from chainrob.differentiation import directional_derivative, regression_gradient, spsa

X = np.array([0.3, -0.7, 1.1])


def smooth(x):
    return np.sin(x[..., 0]) * x[..., 1] ** 2 + np.exp(x[..., 2])


GRADIENT = np.array([np.cos(X[0]) * X[1] ** 2, 2 * np.sin(X[0]) * X[1], np.exp(X[2])])


class Outliers:
    """A function whose values are off by 1e3 in one of ten evaluations."""

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)

    def __call__(self, x):
        noise = 1e-3 * self.rng.normal()
        return smooth(x) + (1e3 if self.rng.random() < 0.1 else noise)


@pytest.mark.parametrize("antithetic", [True, False])
@pytest.mark.parametrize("directions", ["gaussian", "rademacher"])
@pytest.mark.parametrize("vectorized", [False, True])
def test_regression_gradient(antithetic, directions, vectorized):
    gradient, info = regression_gradient(
        smooth,
        X,
        samples=12,
        antithetic=antithetic,
        directions=directions,
        seed=0,
        vectorized=vectorized,
        return_info=True,
    )
    np.testing.assert_allclose(gradient, GRADIENT, atol=1e-8 if antithetic else 1e-6)
    assert info.evaluations == (24 if antithetic else 12)
    assert info.calls == (1 if vectorized else info.evaluations)


@pytest.mark.parametrize(("antithetic", "power"), [(True, 2), (False, 1)])
def test_regression_order(antithetic, power):
    steps = np.geomspace(1e-1, 1e-3, 7)
    errors = [
        np.linalg.norm(
            regression_gradient(smooth, X, step=h, antithetic=antithetic, seed=1) - GRADIENT
        )
        for h in steps
    ]
    assert np.polyfit(np.log(steps), np.log(errors), 1)[0] == pytest.approx(power, abs=0.1)


def test_regression_is_exact_for_linear_functions_of_any_shape():
    c = np.random.default_rng(2).normal(size=(2, 3))
    gradient = regression_gradient(lambda x: (c * x).sum(), np.ones((2, 3)), step=0.5, seed=3)
    np.testing.assert_allclose(gradient, c, rtol=1e-12)


@pytest.mark.parametrize(
    "options",
    [
        {"loss": "huber"},
        {"robustifier": chainrob.GeometricMedian()},
        {"robustifier": chainrob.MedianOfMeans(40)},
    ],
)
def test_robust_regression_withstands_outliers(options):
    common = {"samples": 100, "step": 0.05, "seed": 4}
    plain = np.linalg.norm(regression_gradient(Outliers(5), X, **common) - GRADIENT)
    robust = np.linalg.norm(regression_gradient(Outliers(5), X, **common, **options) - GRADIENT)
    print(options, plain, robust)
    assert plain > 100
    assert robust < 0.1


def test_regression_with_the_mean_is_least_squares():
    plain = regression_gradient(smooth, X, samples=9, step=0.1, seed=6)
    mean, info = regression_gradient(
        smooth, X, samples=9, step=0.1, seed=6, robustifier=chainrob.Mean(), return_info=True
    )
    np.testing.assert_allclose(mean, plain, rtol=1e-9)
    assert info.converged
    assert info.iterations <= 3


@pytest.mark.parametrize(
    ("method", "bound"), [("central", 1e-9), ("forward", 1e-6), ("backward", 1e-6), ("complex", 0)]
)
def test_directional_derivative(method, bound):
    v = np.array([2.0, 0.0, -3.0])
    slope, info = directional_derivative(smooth, X, v, method=method, return_info=True)
    assert slope == pytest.approx(GRADIENT @ v, rel=1e-14, abs=bound)
    assert info.evaluations == (1 if method == "complex" else 2)
    assert directional_derivative(smooth, X, 0 * v, method=method) == 0


@pytest.mark.parametrize("length", [1e-15, 1.0, 1e15])
def test_directions_of_any_length_are_taken_as_they_are(length):
    v = length * np.array([2.0, 1e-20, -3.0])
    np.testing.assert_allclose(directional_derivative(smooth, X, v), GRADIENT @ v, rtol=1e-8)


def test_directional_derivative_of_an_array():
    slope = directional_derivative(lambda x: np.outer(x, x), X, X)
    np.testing.assert_allclose(slope, 2 * np.outer(X, X), atol=1e-8)


@pytest.mark.parametrize("directions", ["rademacher", "gaussian"])
def test_spsa_is_unbiased_with_the_stated_variance(directions):
    # 20,000 samples; var of the mean per coordinate is at most (|g|^2 + g_j^2) / S.
    gradient, info = spsa(
        smooth, X, samples=20_000, directions=directions, seed=7, vectorized=True, return_info=True
    )
    assert (info.evaluations, info.calls) == (40_000, 1)
    spread = np.sqrt((GRADIENT @ GRADIENT + GRADIENT**2) / 20_000)
    assert (abs(gradient - GRADIENT) < 5 * spread).all()


def test_spsa_of_one_sample_is_spalls_estimator():
    c = np.array([1.0, 2.0, 4.0])
    gradient, info = spsa(lambda x: c @ x, X, step=0.5, seed=8, return_info=True)
    assert info.evaluations == 2
    u = np.sign(gradient / gradient[0])  # up to a common sign
    np.testing.assert_allclose(gradient, (c @ u) * u, rtol=1e-12)


def test_spsa_with_a_robustifier_withstands_outliers():
    common = {"samples": 400, "step": 0.05, "seed": 9}
    plain = np.linalg.norm(spsa(Outliers(10), X, **common) - GRADIENT)
    robust = np.linalg.norm(
        spsa(Outliers(10), X, robustifier=chainrob.TrimmedMean(count=80), **common) - GRADIENT
    )
    print(plain, robust)
    assert plain > 100
    # About four standard errors of the 240 rows that are left, of variance 2 |g|^2 together.
    assert robust < 4 * np.linalg.norm(GRADIENT) * np.sqrt(2 / 240)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("method", [spsa, regression_gradient])
def test_dtypes_and_scalars(method, dtype):
    x = np.full((2, 2), 2, dtype)
    gradient = method(lambda x: (x**2).sum(), x, samples=8, seed=0)
    assert (gradient.dtype, gradient.shape) == (x.dtype, x.shape)
    assert method(lambda x: x**2, 3.0, samples=2, seed=0) == pytest.approx(6, rel=1e-6)
    variable = chainer.Variable(np.array([3.0]))
    assert method(lambda x: chainer.functions.sum(x**2), variable, seed=0) == pytest.approx([6])


@pytest.mark.parametrize("method", [spsa, regression_gradient])
@pytest.mark.parametrize(
    ("function", "options", "message"),
    [
        (smooth, {"step": 0.0}, "step must be positive"),
        (smooth, {"samples": 0}, "samples must be"),
        (smooth, {"samples": 2.5}, "samples must be"),
        (smooth, {"directions": "cauchy"}, "directions must be one of"),
        (lambda x: x, {}, r"must return a number, found an array of \(3,\)"),
        (lambda x: np.nan, {}, "must be finite"),
    ],
)
def test_bad_input(method, function, options, message):
    with pytest.raises(ValueError, match=message):
        method(function, X, **options)


def test_more_bad_input():
    with pytest.raises(ValueError, match="samples must be an integer of at least 2"):
        regression_gradient(smooth, X, samples=1, antithetic=False)
    with pytest.raises(ValueError, match="loss must be"):
        regression_gradient(smooth, X, loss="cubic")
    with pytest.raises(ValueError, match="method must be one of"):
        directional_derivative(smooth, X, X, method="sideways")
    with pytest.raises(ValueError, match="direction must be finite"):
        directional_derivative(smooth, X, np.nan)
    with pytest.raises(ValueError, match="step must be positive"):
        directional_derivative(smooth, X, X, step=0.0)
