"""Kinks are refused, or answered by the subgradient that was asked for; the same everywhere."""

import contextlib

import numpy as np
import pytest

import chainrob
import chainer
from chainrob.differentiation import (
    backward_difference,
    central_difference,
    evaluation_trace,
    forward_difference,
    hessian,
    hessian_vector_product,
    jacobian,
    jvp,
    subgradient,
    vjp,
)

F = chainer.functions
SIDES = {
    "left": backward_difference,
    "middle": central_difference,
    "right": forward_difference,
}
T = np.array([[0.5, -1.0, 2.0]])
# Every operation of the table, with a point at which one or more of its numbers lie at a kink.
OPERATIONS = {
    "abs": (lambda x: F.absolute(x), [[0.0, -1.0, 2.0]]),
    "relu": (F.relu, [[0.0, 0.0, 0.3]]),
    "leaky_relu": (lambda x: F.leaky_relu(x, 0.3), [[0.0, -1.0, 2.0]]),
    "clipped_relu": (lambda x: F.clipped_relu(x, 2.0), [[0.0, 2.0, 1.0]]),
    "relu6": (F.relu6, [[0.0, 6.0, 1.0]]),
    "clip": (lambda x: F.clip(x, -1.0, 2.0), [[-1.0, 2.0, 0.5]]),
    "hard_sigmoid": (F.hard_sigmoid, [[-2.5, 2.5, 1.0]]),
    "elu": (lambda x: F.elu(x, 0.4), [[0.0, -1.0, 1.0]]),
    "prelu": (lambda x: F.prelu(x, np.array([0.2, 0.7, 0.4])), [[0.0, 0.0, 1.0]]),
    "maximum": (lambda x: F.maximum(x, T), [[0.5, -2.0, 2.0]]),
    "minimum": (lambda x: F.minimum(x, T), [[0.5, -2.0, 2.0]]),
    "broadcast": (lambda x: F.maximum(x, np.array(0.5)), [[0.5, 0.5, 2.0]]),
    "max": (lambda x: F.max(x - 0.0, axis=1), [[2.0, 2.0, 1.0]]),
    "min": (lambda x: F.min(x, axis=1, keepdims=True), [[2.0, 1.0, 1.0]]),
    "absolute_error": (lambda x: F.absolute_error(x, T), [[0.5, -2.0, 2.0]]),
    "stock_mae": (lambda x: F.mean_absolute_error(x, T), [[0.5, -2.0, 2.0]]),
    "mae": (lambda x: chainrob.functions.mean_absolute_error(x, T), [[0.5, -2.0, 2.0]]),
    "mae_sum": (
        lambda x: chainrob.functions.mean_absolute_error(x, T, reduce="no", reduction="sum"),
        [[0.5, -2.0, 2.0]],
    ),
}
SEVERAL = ("max", "min")  # their one-sided derivatives do not add up to a choice of one number
every = pytest.mark.parametrize("name", OPERATIONS)


@every
def test_refused_by_all_of_them_alike(name):
    function, point = OPERATIONS[name]
    x = np.array(point)
    scalar = lambda x: F.sum(function(x))  # noqa: E731
    trace, direction = evaluation_trace(function, x), np.array([[0.3, -0.7, 1.1]])
    ways = [
        lambda: vjp(scalar, x),
        lambda: jacobian(function, x),
        lambda: trace.forward(direction),
        lambda: trace.reverse(),
        lambda: trace.table("reverse"),
    ]
    if name != "prelu":  # Chainer's cannot be differentiated twice with constant slopes
        ways.append(lambda: jvp(function, x, direction))
        ways.append(lambda: jacobian(function, x, mode="forward"))
    for way in ways:
        with pytest.raises(ValueError, match=r"not differentiable there: .*subgradient"):
            way()
    assert "not differentiable there" in str(trace)  # the values are shown all the same


@every
@pytest.mark.parametrize("side", SIDES)
def test_named_subgradients_are_the_one_sided_derivatives(name, side):
    function, point = OPERATIONS[name]
    x = np.array(point)
    scalar = lambda x: F.sum(function(x))  # noqa: E731
    with subgradient(side):
        _, slopes = vjp(scalar, x)
        trace = evaluation_trace(scalar, x)
        np.testing.assert_allclose(trace.reverse()["u0"], slopes)
        np.testing.assert_allclose(trace.forward(np.full_like(x, 0.3))["y"], 0.3 * slopes.sum())
        if name != "prelu":  # Chainer's cannot be differentiated twice with constant slopes
            np.testing.assert_allclose(jvp(scalar, x, np.full_like(x, 0.3))[1], 0.3 * slopes.sum())
            np.testing.assert_allclose(jacobian(scalar, x, mode="forward"), slopes)
    if name in SEVERAL:
        assert slopes.sum() == pytest.approx(1)
    else:
        np.testing.assert_allclose(slopes, SIDES[side](scalar, x), atol=1e-6)


def test_ties_of_many():
    x = np.array([[1.0, 3.0, 3.0, 3.0], [2.0, 0.0, 1.0, 0.0]])
    expected = {"left": [0, 0, 0, 1], "right": [0, 1, 0, 0], "middle": [0, 1 / 3, 1 / 3, 1 / 3]}
    for side, row in expected.items():
        with subgradient(side):
            slopes = vjp(lambda x: F.max(x, axis=1), x, np.array([2.0, 5.0]))[1]
        np.testing.assert_allclose(slopes, [[2 * w for w in row], [5, 0, 0, 0]])


@pytest.mark.parametrize(
    ("function", "slope"),
    [
        (lambda x: F.maximum(F.relu(x), np.zeros(())), -1.0),  # equal, but flat on both sides
        (lambda x: F.absolute(x) ** 3, 0.0),
        (lambda x: F.relu(x) * F.sin(x), 0.0),
        (lambda x: F.maximum(x, x), 3.0),
    ],
)
def test_a_kink_that_does_not_matter_is_none(function, slope):
    x = np.array(slope)
    exact = central_difference(lambda x: function(np.asarray(x)), x)
    np.testing.assert_allclose(vjp(function, x)[1], exact, atol=1e-5)
    np.testing.assert_allclose(jvp(function, x, np.array(1.0))[1], exact, atol=1e-5)
    assert evaluation_trace(function, x).values["y"] == pytest.approx(float(function(x).array))


def test_a_kink_that_is_hidden_from_each_side_alone():
    """Both extreme choices give 0 for relu(x) + relu(-x), which is |x|."""
    with pytest.raises(ValueError, match="a ReLU of 0"):
        vjp(lambda x: F.relu(x) + F.relu(-x), np.array(0.0))


def test_second_derivatives():
    assert hessian(lambda x: F.absolute(x) ** 3, np.array(0.0)) == 0
    for function in (lambda x: F.relu(x) ** 2, lambda x: x * F.absolute(x)):
        with pytest.raises(ValueError, match="not differentiable there"):
            hessian(function, np.array(0.0))
    bilinear = lambda x: F.relu(x[0]) * x[1]  # noqa: E731
    for direction in np.eye(2):  # the first slopes exist; how they change depends on the side
        with pytest.raises(ValueError, match="not differentiable there"):
            hessian_vector_product(bilinear, np.zeros(2), direction)
    with subgradient("right"):
        np.testing.assert_allclose(hessian(bilinear, np.zeros(2)), [[0, 1], [1, 0]])
    # Huber's loss has a slope at delta, and no second derivative in the error.
    huber = lambda y: chainrob.functions.huber(y, np.zeros((1, 1)))  # noqa: E731
    np.testing.assert_allclose(vjp(huber, np.ones((1, 1)))[1], 1)
    with pytest.raises(ValueError, match="a clip at an end"):
        hessian(huber, np.ones((1, 1)))


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_dtype_is_kept(dtype):
    with subgradient("middle"):
        slopes = vjp(F.relu, np.zeros(3, dtype), np.ones(3, dtype))[1]
    assert slopes.dtype == dtype
    np.testing.assert_array_equal(slopes, 0.5)


def test_the_name_and_its_end():
    with pytest.raises(ValueError, match=r"name must be one of .*found 'up'"), subgradient("up"):
        pass
    with contextlib.suppress(RuntimeError), subgradient("left"):
        raise RuntimeError
    with pytest.raises(ValueError, match="not differentiable"):
        vjp(F.relu, np.array(0.0))


def test_a_network_whose_units_rest_at_zero():
    """Zero inputs without biases: all pre-activations are exactly 0, and only W1 is undefined."""
    rng = np.random.default_rng(0)
    w1, w2 = rng.normal(size=(4, 3)), rng.normal(size=(1, 4))
    x = np.zeros((5, 3))
    network = lambda a, b: F.sum(F.linear(F.relu(F.linear(x, a)), b))  # noqa: E731
    _, (g1, g2) = vjp(network, (w1, w2))  # both are 0 whatever relu'(0) is, as x is 0
    assert not g1.any()
    assert not g2.any()
    with pytest.raises(ValueError, match="a ReLU of 0"):
        vjp(lambda v: F.sum(F.linear(F.relu(F.linear(v, w1)), w2)), x)


@pytest.mark.parametrize(
    "function",
    [lambda a: F.sqrt(a - 2), lambda a: F.sqrt((a - 2) ** 2), lambda a: ((a - 2) ** 2) ** 0.5],
    ids=["root", "modulus as a root", "modulus as a power"],
)
@pytest.mark.filterwarnings("ignore:(divide by zero|invalid value):RuntimeWarning")
def test_derivatives_that_are_not_finite_are_refused_alike(function):
    trace = evaluation_trace(function, 2.0)
    for run in (lambda: vjp(function, np.array(2.0)), trace.reverse, lambda: trace.forward(1.0)):
        with pytest.raises(ValueError, match="not differentiable there \\(or its derivative over"):
            run()
