"""The complex step: right to rounding where it answers, and refusing where it must."""

import math

import numpy as np
import pytest

import chainrob  # noqa: F401
import chainer
from chainrob.differentiation import NotAnalyticError, central_difference, complex_step

F = chainer.functions


def rational(x):
    return np.exp(x[0]) / np.sqrt(np.sin(x[1]) ** 3 + np.cos(x[2]) ** 3) + np.log(x @ x)


@pytest.mark.parametrize("vectorized", [False, True])
def test_analytic_functions(vectorized):
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(3, 3)) + 4 * np.eye(3)

    def solved(x):
        return np.linalg.solve(matrix, np.tanh(x)[..., None])[..., 0]

    x = rng.uniform(0.3, 1, size=3)
    exact = np.linalg.inv(matrix) * (1 - np.tanh(x) ** 2)
    jacobian, info = complex_step(solved, x, vectorized=vectorized, return_info=True)
    np.testing.assert_allclose(jacobian, exact, rtol=1e-14)
    assert (info.evaluations, info.calls) == (3, 1 if vectorized else 3)


def test_agrees_with_central_differences():
    x = np.array([0.4, 0.8, 0.3])
    np.testing.assert_allclose(
        complex_step(rational, x), central_difference(rational, x), rtol=1e-8
    )


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_dtypes(dtype):
    gradient = complex_step(np.exp, np.array([0.0, 1.0], dtype), elementwise=True)
    assert gradient.dtype == dtype
    np.testing.assert_allclose(gradient, np.exp([0, 1]), rtol=2 * np.finfo(dtype).eps)


def test_branches_go_by_the_real_part():
    def leaky(x):
        return np.where(x > 0, x**2, 0.1 * x) + np.maximum(x, 0.5)

    np.testing.assert_allclose(
        complex_step(leaky, np.array([-2.0, 0.2, 3.0]), elementwise=True), [0.1, 0.4, 7.0]
    )


def test_storing_into_an_array_of_its_kind():
    def stored(x):
        y = np.zeros_like(x)
        y[0] = x[1] ** 2
        y[1] = x[0]
        return y

    np.testing.assert_allclose(complex_step(stored, [1.0, 3.0]), [[0, 6], [1, 0]])


def stored_in_reals(x):
    y = np.zeros(2)
    y[0] = x[0]
    return y


@pytest.mark.parametrize(
    "function",
    [
        np.abs,
        lambda x: abs(x),
        np.conj,
        np.real,
        np.sign,
        np.floor,
        np.max,
        np.linalg.norm,
        np.angle,
        np.sort,
        lambda x: x.real,
        lambda x: x.conj(),
        lambda x: x.astype(float),
        lambda x: np.asarray(x, float),
        lambda x: math.sin(x[0]),
        lambda x: float(x[0]),
        lambda x: np.clip(x, 0, 1),
        lambda x: np.maximum(x, 0.5),  # a tie at this point
        lambda x: np.sqrt(x - 0.5),
        lambda x: np.log(x - 1),
        lambda x: (x - 1) ** 0.5,
        lambda x: np.arcsin(x + 1),
        lambda x: F.exp(x),
        lambda x: x % 0.3,
        stored_in_reals,
    ],
)
def test_what_is_not_analytic_is_refused(function):
    with pytest.raises(NotAnalyticError):
        complex_step(function, np.array([0.5, 0.5]))


def test_the_refusal_names_the_operation_and_a_remedy():
    with pytest.raises(NotAnalyticError, match=r"through absolute.*central difference"):
        complex_step(abs, 1.0)
    with pytest.raises(NotAnalyticError, match="jacobian"):
        complex_step(F.exp, 1.0)


@pytest.mark.parametrize("exponent", [3, 3.0, 101, 150, -3, -150])
def test_whole_powers_of_negative_numbers(exponent):
    x = np.array([-1.1, 1.1, -0.9])
    expected = exponent * x ** (exponent - 1)
    derivative = np.diag(complex_step(lambda x: x**exponent, x))
    np.testing.assert_allclose(derivative, expected, rtol=1e-12)

    def in_place(x):
        y = x * 1.0
        y **= exponent
        return y

    np.testing.assert_allclose(np.diag(complex_step(in_place, x)), expected, rtol=1e-12)


@pytest.mark.parametrize("function", [lambda x: 1 / x, np.reciprocal, lambda x: x**-1])
def test_a_pole_at_the_point_is_refused(function):
    with pytest.raises(NotAnalyticError, match="pole"):
        complex_step(function, 0.0)
    assert complex_step(function, 2.0) == pytest.approx(-0.25)
