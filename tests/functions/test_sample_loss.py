"""Losses against their formulas, finite differences and stock Chainer."""

import numpy as np
import pytest

import chainrob
import chainer
import chainer.functions as F
from chainer import gradient_check
from chainer.utils import type_check

functions = chainrob.functions
LOSSES = {
    "squared": functions.mean_squared_error,
    "absolute": functions.mean_absolute_error,
    "huber": lambda y, t, reduce="mean": functions.huber(y, t, 0.7, reduce),
    "cross_entropy": functions.cross_entropy,
}
FORMULAS = {
    "squared": lambda y, t: ((y - t) ** 2).reshape(len(y), -1).mean(axis=1),
    "absolute": lambda y, t: abs(y - t).reshape(len(y), -1).mean(axis=1),
    "huber": lambda y, t: (
        np.where(abs(y - t) <= 0.7, 0.5 * (y - t) ** 2, 0.7 * (abs(y - t) - 0.35))
        .reshape(len(y), -1)
        .mean(axis=1)
    ),
    "cross_entropy": lambda y, t: -(t * np.log(y)).sum(axis=1),
}
every = pytest.mark.parametrize("name", LOSSES)
reductions = pytest.mark.parametrize("reduce", ["mean", "no"])
ELEMENTWISE = ["squared", "absolute", "huber"]


def data(name, n=6, shape=(4,), dtype=np.float64, seed=0):
    """Outputs and targets, errors away from the kinks at 0 and 0.7."""
    rng = np.random.default_rng([seed, n])
    if name == "cross_entropy":
        y, t = (rng.dirichlet(np.full(4, 2.0), n) * 0.9 + 0.025 for _ in range(2))
    else:
        t = rng.normal(size=(n, *shape))
        size = rng.choice([0.2, 0.5, 1.1, 3.0], t.shape) + 0.05 * rng.random(t.shape)
        y = t + size * rng.choice([-1, 1], t.shape)
    return y.astype(dtype), t.astype(dtype)


@every
@reductions
@pytest.mark.parametrize("n", [1, 6])
@pytest.mark.parametrize(
    ("dtype", "rtol"), [(np.float16, 2e-3), (np.float32, 2e-6), (np.float64, 1e-12)]
)
def test_value_is_the_formula(name, reduce, n, dtype, rtol):
    y, t = data(name, n, dtype=dtype)
    loss = LOSSES[name](y, t, reduce=reduce)
    expected = FORMULAS[name](y.astype(np.float64), t.astype(np.float64))
    if reduce == "mean":
        expected = expected.mean()
    assert loss.dtype == dtype
    assert loss.shape == np.shape(expected)
    np.testing.assert_allclose(loss.array, expected, rtol=rtol)


@every
@reductions
def test_gradients_in_outputs_and_targets(name, reduce):
    y, t = data(name)
    loss = LOSSES[name](y, t, reduce=reduce)
    gy = np.random.default_rng(1).normal(size=loss.shape)
    gradient_check.check_backward(
        lambda y, t: LOSSES[name](y, t, reduce=reduce),
        (y, t), gy, dtype=np.float64, eps=1e-5, atol=1e-7, rtol=1e-6,
    )  # fmt: skip


@every
@reductions
def test_second_derivatives(name, reduce):
    y, t = data(name)
    rng = np.random.default_rng(2)
    gy = rng.normal(size=LOSSES[name](y, t, reduce=reduce).shape)
    gradient_check.check_double_backward(
        lambda y, t: LOSSES[name](y, t, reduce=reduce),
        (y, t), gy, (rng.normal(size=y.shape), rng.normal(size=t.shape)),
        dtype=np.float64, eps=1e-5, atol=1e-6, rtol=1e-5,
    )  # fmt: skip


@every
@pytest.mark.parametrize(("dtype", "rtol"), [(np.float16, 4e-3), (np.float32, 1e-5)])
def test_gradient_in_lower_precision(name, dtype, rtol):
    y, t = data(name, dtype=dtype)
    gradients = []
    for kind in (dtype, np.float64):
        variable = chainer.Variable(y.astype(kind))
        LOSSES[name](variable, t.astype(kind)).backward()
        gradients.append(variable.grad)
    assert gradients[0].dtype == dtype
    np.testing.assert_allclose(*gradients, rtol=rtol, atol=1e-3 * rtol)


def test_error_vectors_as_stated():
    y, t = data("squared")
    for name, expected in (
        ("squared", 2 * (y - t) / 4),
        ("absolute", np.sign(y - t) / 4),
        ("huber", np.clip(y - t, -0.7, 0.7) / 4),
    ):
        variable = chainer.Variable(y)
        F.sum(LOSSES[name](variable, t, reduce="no")).backward()
        np.testing.assert_allclose(variable.grad, expected, rtol=1e-14)
    y, t = data("cross_entropy")
    variable = chainer.Variable(y)
    F.sum(functions.cross_entropy(variable, t, reduce="no")).backward()
    np.testing.assert_allclose(variable.grad, -t / y, rtol=1e-14)


@pytest.mark.parametrize("shape", [(), (4,), (2, 3)])
def test_as_stock_chainer(shape):
    y, t = data("squared", shape=shape)
    d = int(np.prod(shape))
    np.testing.assert_allclose(
        functions.mean_squared_error(y, t).array, F.mean_squared_error(y, t).array, rtol=1e-13
    )
    np.testing.assert_allclose(
        functions.mean_absolute_error(y, t).array, F.mean_absolute_error(y, t).array, rtol=1e-13
    )
    stock = F.huber_loss(y, t, 0.7, reduce="no").array.sum() / (len(y) * d)
    np.testing.assert_allclose(functions.huber(y, t, 0.7).array, stock, rtol=1e-13)


def test_behind_a_softmax_as_stock_cross_entropy():
    scores = np.random.default_rng(0).normal(size=(6, 4))
    classes = np.array([0, 3, 1, 2, 2, 0])
    gradients = []
    for loss in (
        lambda s: functions.cross_entropy(F.softmax(s), classes),
        lambda s: F.softmax_cross_entropy(s, classes),
    ):
        variable = chainer.Variable(scores)
        value = loss(variable)
        value.backward()
        gradients.append((value.array, variable.grad))
    np.testing.assert_allclose(gradients[0][0], gradients[1][0], rtol=1e-13)
    np.testing.assert_allclose(gradients[0][1], gradients[1][1], rtol=1e-11, atol=1e-15)


@pytest.mark.parametrize("seed", range(5))
def test_paradox_at_the_optimum_the_gradient_is_perpendicular_to_the_simplex(seed):
    t = np.random.default_rng(seed).dirichlet(np.ones(5), 3)
    y = chainer.Variable(t.copy())
    F.sum(functions.cross_entropy(y, t, reduce="no")).backward()
    assert np.linalg.norm(y.grad, axis=1) == pytest.approx(np.sqrt(5), rel=1e-12)
    tangent = y.grad - y.grad.mean(axis=1, keepdims=True)  # along the simplex
    assert abs(tangent).max() < 1e-12
    # It is the optimum all the same: every other point of the simplex loses more.
    least = functions.cross_entropy(t, t, reduce="no").array
    others = np.random.default_rng(seed + 100).dirichlet(np.ones(5), (200, 3))
    for other in others:
        assert (functions.cross_entropy(other, t, reduce="no").array > least).all()
    # Away from the optimum the tangential part is there.
    y = chainer.Variable(np.full((3, 5), 0.2))
    F.sum(functions.cross_entropy(y, t, reduce="no")).backward()
    assert (abs(y.grad - y.grad.mean(axis=1, keepdims=True)).max(axis=1) > 0.1).all()


def test_paradox_behind_a_softmax_the_gradient_vanishes():
    t = np.random.default_rng(0).dirichlet(np.ones(5), 3)
    scores = chainer.Variable(np.log(t))
    functions.cross_entropy(F.softmax(scores), t).backward()
    assert abs(scores.grad).max() < 1e-15


def test_cross_entropy_of_impossible_classes():
    y = chainer.Variable(np.array([[0.0, 1.0], [0.5, 0.5]]))
    loss = functions.cross_entropy(y, np.array([1, 0]), reduce="no")
    np.testing.assert_array_equal(loss.array, [0.0, np.log(2)])
    F.sum(loss).backward()
    np.testing.assert_array_equal(y.grad, [[0.0, -1.0], [-2.0, 0.0]])
    assert functions.cross_entropy(np.array([[0.0, 1.0]]), np.array([0])).array == np.inf


def test_half_precision_does_not_overflow_inside():
    y = np.zeros((3000, 1), np.float16)
    y[:10] = 300  # squares are beyond float16, and so is their sum
    t = np.zeros_like(y)
    variable = chainer.Variable(y)
    loss = functions.mean_squared_error(variable, t)
    assert loss.array == pytest.approx(300, rel=1e-3)
    loss.backward()
    assert variable.grad[0, 0] == pytest.approx(0.2, rel=1e-3)


@every
def test_empty_batch(name):
    y, t = (a[:0] for a in data(name))
    assert LOSSES[name](y, t, reduce="no").shape == (0,)
    variable = chainer.Variable(y)
    loss = LOSSES[name](variable, t)
    assert loss.array == 0
    loss.backward()
    assert variable.grad.shape == y.shape


@every
def test_no_warning_and_no_reach_for_one_outlier(name):
    y, t = data(name)
    if name == "cross_entropy":
        y[0] = [1 - 3e-300, 1e-300, 1e-300, 1e-300]
    else:
        y[0] = 1e150
    assert np.isfinite(LOSSES[name](y, t).array)


@every
def test_refused(name):
    y, t = data(name)
    loss = LOSSES[name]
    with pytest.raises(ValueError, match="reduce must be 'mean' or 'no', found 'sum'"):
        loss(y, t, reduce="sum")
    with pytest.raises(type_check.InvalidType, match=r"t\.shape == y\.shape|in_types"):
        loss(y, t[:, :2])
    with pytest.raises(type_check.InvalidType, match="dtype"):
        loss(y, t.astype(np.float32))


@pytest.mark.parametrize("delta", [0, -1.0, np.inf, np.nan])
def test_huber_refuses(delta):
    with pytest.raises(ValueError, match="delta must be positive and finite, found"):
        functions.huber(np.zeros((2, 1)), np.zeros((2, 1)), delta)


def test_cross_entropy_refuses():
    half = np.full((2, 2), 0.5)
    with pytest.raises(ValueError, match="y must not be negative, found -1"):
        functions.cross_entropy(np.array([[-1.0, 2.0], [0.5, 0.5]]), half)
    with pytest.raises(ValueError, match=r"t must not be negative, found -0\.5"):
        functions.cross_entropy(half, -half)
    with pytest.raises(ValueError, match="from 0 to 1, found 0 to 2"):
        functions.cross_entropy(half, np.array([0, 2]))
    with pytest.raises(ValueError, match="classes t must have shape"):
        functions.cross_entropy(half, np.array([0, 1, 1]))
    with pytest.raises(type_check.InvalidType, match="ndim"):
        functions.cross_entropy(np.full(2, 0.5), np.full(2, 0.5))


@pytest.mark.parametrize("name", ELEMENTWISE)
@pytest.mark.parametrize("shape", [(1,), (4,), (2, 3)])
def test_the_sum_over_a_samples_numbers(name, shape):
    losses = {
        "squared": functions.mean_squared_error,
        "absolute": functions.mean_absolute_error,
        "huber": lambda y, t, **more: functions.huber(y, t, 0.7, **more),
    }
    y, t = data(name, shape=shape)
    d = int(np.prod(shape))
    found = losses[name](y, t, reduce="no", reduction="sum")
    np.testing.assert_allclose(found.array, d * FORMULAS[name](y, t), rtol=1e-13)
    variable = chainer.Variable(y)
    F.sum(losses[name](variable, t, reduce="no", reduction="sum")).backward()
    errors = {"squared": 2 * (y - t), "absolute": np.sign(y - t)}
    error = errors.get(name, np.clip(y - t, -0.7, 0.7))
    np.testing.assert_allclose(variable.grad, error, rtol=1e-13)
    gradient_check.check_double_backward(
        lambda y, t: losses[name](y, t, reduction="sum"), (y, t), np.array(0.7),
        (np.ones_like(y), np.full_like(t, -0.3)), dtype=np.float64, eps=1e-5, atol=1e-6, rtol=1e-5,
    )  # fmt: skip
    with pytest.raises(ValueError, match="reduction must be 'mean' or 'sum', found 'none'"):
        losses[name](y, t, reduction="none")


def test_huber_in_chainers_own_normalization():
    y, t = data("huber")
    stock = F.huber_loss(y, t, 0.7, reduce="sum_along_second_axis")
    ours = functions.huber(y, t, 0.7, reduce="no", reduction="sum")
    np.testing.assert_allclose(ours.array, stock.array, rtol=1e-13)


def test_cross_entropy_needs_no_more_than_numbers_that_are_not_negative():
    """Without the simplex there is no minimum: y = 2 costs less than y = 1, which costs 0."""
    t = np.array([[0.3, 0.7]])
    costs = [float(functions.cross_entropy(np.full((1, 2), a), t).array) for a in (1.0, 2.0, 50.0)]
    np.testing.assert_allclose(costs, [0, -np.log(2), -np.log(50)], atol=1e-15)
    y = chainer.Variable(np.full((1, 2), 2.0))
    functions.cross_entropy(y, t).backward()
    np.testing.assert_allclose(y.grad, -t / 2)


def test_cross_entropy_of_targets_that_do_not_sum_to_one():
    rng = np.random.default_rng(3)
    t, scores = rng.gamma(1.0, size=(5, 3)), chainer.Variable(rng.normal(size=(5, 3)))
    y = F.softmax(scores)
    F.sum(functions.cross_entropy(y, t, reduce="no")).backward()
    total = t.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(scores.grad, total * y.array - t, atol=1e-14)
    scores = chainer.Variable(np.log(t / total))  # on the simplex it is least at t / sum(t)
    F.sum(functions.cross_entropy(F.softmax(scores), t, reduce="no")).backward()
    np.testing.assert_allclose(scores.grad, 0, atol=1e-14)
    mean = functions.cross_entropy(y.array, t, reduce="no", reduction="mean").array
    np.testing.assert_allclose(
        3 * mean, functions.cross_entropy(y.array, t, reduce="no").array, rtol=1e-13
    )
