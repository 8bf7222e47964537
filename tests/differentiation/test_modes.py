"""Products, Jacobians and Hessians of Chainer functions against closed forms."""

import numpy as np
import pytest

import chainrob
import chainer
from chainrob.differentiation import hessian, hessian_vector_product, jacobian, jvp, vjp

F = chainer.functions
RNG = np.random.default_rng(0)
A = RNG.normal(size=(4, 3))
B = RNG.normal(size=(4, 2))
X, Y = RNG.normal(size=3), RNG.normal(size=2)


def two(x, y):
    return F.tanh(F.matmul(A, x) + F.matmul(B, y) ** 2)


def two_exact():
    slope = 1 - np.tanh(A @ X + (B @ Y) ** 2) ** 2
    return slope[:, None] * A, (slope * 2 * (B @ Y))[:, None] * B


def test_products():
    jx, jy = two_exact()
    v, t, s = RNG.normal(size=4), RNG.normal(size=3), RNG.normal(size=2)
    output, (px, py) = vjp(two, (X, Y), v)
    np.testing.assert_allclose(output, np.tanh(A @ X + (B @ Y) ** 2), rtol=1e-14)
    np.testing.assert_allclose(px, v @ jx, rtol=1e-12)
    np.testing.assert_allclose(py, v @ jy, rtol=1e-12)
    np.testing.assert_allclose(jvp(two, (X, Y), (t, s))[1], jx @ t + jy @ s, rtol=1e-12)


@pytest.mark.parametrize("mode", ["auto", "forward", "reverse"])
def test_jacobian(mode):
    for found, exact in zip(jacobian(two, (X, Y), mode=mode), two_exact(), strict=True):
        np.testing.assert_allclose(found, exact, rtol=1e-12)


@pytest.mark.parametrize(
    ("inputs", "outputs", "passes"), [(2, 30, 2), (30, 2, 2), (5, 5, 5), (1, 9, 1)]
)
def test_the_cheaper_mode_is_chosen_by_shape(inputs, outputs, passes, monkeypatch):
    matrix = RNG.normal(size=(outputs, inputs))
    calls = []
    grad = chainer.grad

    def counted(ys, xs, *args, **kwargs):
        calls.append(kwargs.get("enable_double_backprop"))
        return grad(ys, xs, *args, **kwargs)

    monkeypatch.setattr(chainer, "grad", counted)
    found = jacobian(lambda x: F.matmul(matrix, x), np.ones(inputs))
    np.testing.assert_allclose(found, matrix, rtol=1e-13)
    assert calls.count(False) == passes
    assert calls.count(True) == (1 if inputs < outputs else 0)  # forward mode's one pullback


def test_jacobian_of_arrays_keeps_both_shapes():
    x = RNG.normal(size=(2, 3))
    for mode in ("forward", "reverse"):
        found = jacobian(lambda x: F.transpose(x) ** 2, x, mode=mode)
        exact = np.einsum("ij,ik,jl->jikl", 2 * x, np.eye(2), np.eye(3))
        np.testing.assert_allclose(found, exact)


def quartic(x, y):
    return F.sum(F.matmul(A, x) ** 2) * F.sum(y**2) + F.sum(y**4)


def test_hessian_blocks_and_products():
    g = A.T @ A
    (xx, xy), (yx, yy) = hessian(quartic, (X, Y))
    square = X @ g @ X
    np.testing.assert_allclose(xx, 2 * g * (Y @ Y), rtol=1e-12)
    np.testing.assert_allclose(xy, np.outer(2 * g @ X, 2 * Y), rtol=1e-12)
    np.testing.assert_allclose(yx, xy.T, rtol=1e-12)
    np.testing.assert_allclose(yy, 2 * square * np.eye(2) + np.diag(12 * Y**2), rtol=1e-12)
    v, w = RNG.normal(size=3), RNG.normal(size=2)
    pv, pw = hessian_vector_product(quartic, (X, Y), (v, w))
    np.testing.assert_allclose(pv, xx @ v + xy @ w, rtol=1e-12)
    np.testing.assert_allclose(pw, yx @ v + yy @ w, rtol=1e-12)


def test_through_the_larger_and_the_smaller_of_a_variable_and_a_constant():
    x, v = np.array([1.5, -2.0, 3.0]), np.array([1.0, 2.0, -1.0])
    zero = np.zeros(3)
    positive, negative = 6 * x * (x > 0), 6 * x * (x < 0)
    for function, curvature in (
        (lambda x: F.sum(F.maximum(x, zero) ** 3), positive),
        (lambda x: F.sum(F.maximum(zero, x) ** 3), positive),
        (lambda x: F.sum(F.minimum(x, zero) ** 3), negative),
        (lambda x: F.sum(F.maximum(x, 2 * x) ** 3), positive * 8 + negative),
    ):
        np.testing.assert_allclose(hessian_vector_product(function, x, v), curvature * v)
        np.testing.assert_allclose(hessian(function, x), np.diag(curvature))


def test_linear_and_missing_dependence():
    np.testing.assert_array_equal(hessian(F.sum, X), np.zeros((3, 3)))
    found = jacobian(lambda x, y: F.sum(x), (X, Y))
    np.testing.assert_array_equal(found[1], np.zeros(2))
    np.testing.assert_array_equal(jacobian(lambda x: x, X), np.eye(3))
    for mode in ("forward", "reverse"):  # the same Variable twice is two inputs
        x = chainer.Variable(X)
        left, right = jacobian(lambda a, b: a * b**2, (x, x), mode=mode)
        np.testing.assert_allclose(left, np.diag(X**2))
        np.testing.assert_allclose(right, np.diag(2 * X**2))


@pytest.mark.parametrize(
    "call",
    [
        lambda f: vjp(f, X, Y),
        lambda f: jvp(f, X, X),
        lambda f: jacobian(f, X),
        lambda f: hessian(lambda x: F.sum(f(x)), X),
        lambda f: hessian_vector_product(lambda x: F.sum(f(x)), X, X),
    ],
)
@pytest.mark.parametrize(
    "function", [lambda x: chainer.Variable(Y), lambda x: chainer.Variable(x.array[:2]) * 2]
)
def test_a_function_that_does_not_depend_on_its_inputs_is_refused(call, function):
    with pytest.raises(ValueError, match="does not depend on its inputs"):
        call(function)


def test_a_function_that_reads_a_variable_past_its_argument_is_refused():
    x, y = chainer.Variable(X, name="mine"), chainer.Variable(Y)
    with pytest.raises(ValueError, match=r"'mine' of shape \(3,\).*functional\(model\)"):
        vjp(lambda a, b: F.sum(x**2) + F.sum(b), (x, y))
    # Through its argument as well it is a partial derivative, as anywhere.
    np.testing.assert_allclose(vjp(lambda a: F.sum(a * x), x)[1], X)


def test_results_can_be_differentiated_further():
    x = chainer.Variable(X)
    _, p = vjp(lambda x: F.sum(x**3), x, enable_double_backprop=True)
    (second,) = chainer.grad([F.sum(p)], [x])
    np.testing.assert_allclose(second.array, 6 * X)
    _, p = jvp(lambda x: x**3, x, np.ones(3), enable_double_backprop=True)
    (second,) = chainer.grad([F.sum(p)], [x])
    np.testing.assert_allclose(second.array, 6 * X)
    p = hessian_vector_product(lambda x: F.sum(x**3), x, np.ones(3), enable_double_backprop=True)
    (third,) = chainer.grad([F.sum(p)], [x])
    np.testing.assert_allclose(third.array, np.full(3, 6))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_dtypes(dtype):
    x = np.array([1, 2], dtype)
    assert jacobian(lambda x: x**2, x).dtype == dtype
    assert hessian(lambda x: F.sum(x**3), x).dtype == dtype
    assert jvp(lambda x: x**2, x, [1.0, 0.0])[1].dtype == dtype


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: vjp(lambda x: x, X), ValueError, r"cotangent must be given .*\(3,\)"),
        (lambda: vjp(lambda x: x, X, Y), ValueError, "cotangent must have the shape"),
        (lambda: jvp(lambda x: x, X, Y), ValueError, "tangent must have the shape"),
        (lambda: jvp(two, (X, Y), (X,)), ValueError, r"as many as inputs \(2\), found 1"),
        (lambda: jacobian(lambda x: x, X, mode="both"), ValueError, "mode .* 'both'"),
        (lambda: hessian(lambda x: x, X), ValueError, r"one number, found shape \(3,\)"),
        (lambda: hessian_vector_product(F.sum, X, Y), ValueError, "vector must have the shape"),
        (lambda: jacobian(lambda x: x.array, X), TypeError, r"must return a chainer\.Variable"),
        (lambda: jacobian(lambda x: x, np.arange(3)), TypeError, "floating-point"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_through_a_robust_layer_they_are_derivatives_not_estimates():
    generator = np.random.default_rng(0)
    x, W, v = generator.normal(size=(7, 3)), generator.normal(size=(1, 3)), np.ones((1, 3))
    robustifier = chainrob.CoordinateMedian()

    def robust(W):
        return chainrob.functions.linear(x, W, robustifier=robustifier)

    for mode in ("forward", "reverse"):
        np.testing.assert_allclose(jacobian(robust, W, mode=mode).reshape(7, 3), x)
    np.testing.assert_allclose(jvp(robust, W, v)[1], x @ v.T)
    np.testing.assert_allclose(vjp(robust, W, np.ones((7, 1)))[1], x.sum(axis=0)[None])
    expected = 2 * x.T @ x / 7
    loss = lambda W: F.mean(robust(W) ** 2)  # noqa: E731
    np.testing.assert_allclose(hessian(loss, W).reshape(3, 3), expected)
    np.testing.assert_allclose(hessian_vector_product(loss, W, v), v @ expected)


@pytest.mark.parametrize(
    ("function", "point"),
    [
        (F.sqrt, np.zeros(2)),
        (F.absolute, np.array([1.0, 0.0])),
        (lambda x: F.maximum(x, 1 - x), np.array([0.2, 0.5])),
        (lambda x: F.minimum(x, 1 - x), np.array([0.5])),
    ],
)
@pytest.mark.parametrize("mode", ["forward", "reverse"])
@pytest.mark.filterwarnings("ignore:divide by zero")
@pytest.mark.filterwarnings("ignore:invalid value")
def test_no_derivative_there(function, point, mode):
    with pytest.raises(ValueError, match="not differentiable there"):
        jacobian(function, point, mode=mode)
