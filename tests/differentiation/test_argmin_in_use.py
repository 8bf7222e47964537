"""The gradient of an argmin at the sizes at which people use it."""

import numpy as np
import pytest

import chainer
from chainrob.differentiation import argmin, functional

F, L = chainer.functions, chainer.links


def classes(n, features, kinds, wrong, seed):
    """Gaussian classes, and the labels of some samples changed to another class."""
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(kinds, features)) * 1.2
    labels = rng.integers(0, kinds, n)
    x = centers[labels] + rng.normal(size=(n, features))
    given = labels.copy()
    bad = rng.choice(n, int(wrong * n), replace=False)
    given[bad] = (given[bad] + rng.integers(1, kinds, len(bad))) % kinds
    return x.astype(np.float64), labels, given, bad


def test_data_hyper_cleaning_of_ten_thousand_samples():
    """theta: 10,000 sample weights; x: all parameters of a Chain, 210 numbers, solved matrix-free.

    Wrong labels are found by the gradient of a clean validation loss through the argmin.
    """
    x, labels, given, bad = classes(10_600, 20, 10, 0.3, seed=0)
    train, clean = slice(0, 10_000), slice(10_000, 10_600)
    bad = bad[bad < 10_000]
    with chainer.using_config("dtype", np.float64):
        model = chainer.Sequential(L.Linear(20, 10))
    f = functional(model, flat=True)
    onehot = np.eye(10)[given[train]]

    def objective(p, theta):
        losses = -F.sum(onehot * F.log_softmax(f(p, x[train])), axis=1)
        return F.mean(F.sigmoid(theta) * losses) + 1e-3 * F.sum(p**2)

    def validation(p):
        return -F.mean(F.sum(np.eye(10)[labels[clean]] * F.log_softmax(f(p, x[clean])), axis=1))

    theta, start, history = np.zeros(10_000), np.zeros(210), []
    for _ in range(2):
        weights = chainer.Variable(theta)
        best = argmin(objective, start, weights, solver="L-BFGS-B", solver_options={"maxiter": 40})
        loss = validation(best)
        (slope,) = chainer.grad([loss], [weights])
        history.append(float(loss.array))
        if not len(history) - 1:
            # One directional derivative of the outer loss against solving again.
            assert best.report.linear_solver == "cg"
            direction = np.random.default_rng(1).normal(size=10_000)
            ends = [
                float(validation(argmin(objective, best.array, theta + s * 1e-3 * direction)).array)
                for s in (1, -1)
            ]
            assert slope.array @ direction == pytest.approx((ends[0] - ends[1]) / 2e-3, rel=1e-3)
        theta = theta - 3.0 * slope.array / abs(slope.array).mean()
        start = best.array
    suspects = np.argsort(theta)[: len(bad)]
    found = len(set(suspects) & set(bad)) / len(bad)
    print(f"{found:.3f} of {len(bad)} wrong labels found; validation loss {history}")
    assert history[1] < 0.9 * history[0]
    assert found > 0.8  # by chance 0.3


def test_a_regularization_path_and_its_slopes():
    """Logistic regression with a penalty exp(s) of each: the path is followed by its derivative.

    The tangent predicts the next point, so a solve needs few steps; the slope of the validation
    loss vanishes at the best penalty.
    """
    rng = np.random.default_rng(0)
    w = rng.normal(size=5)
    x = rng.normal(size=(160, 5))
    t = np.where(rng.random(160) < 1 / (1 + np.exp(-x @ w / 2)), 1.0, -1.0)
    train, clean = slice(0, 40), slice(40, None)

    def objective(p, s):
        margins = t[train] * F.matmul(x[train], p)
        return F.mean(F.softplus(-margins)) + F.sum(F.exp(s)) * F.sum(p**2) / 2

    def validation(p):
        return F.mean(F.softplus(-t[clean] * F.matmul(x[clean], p)))

    grid = np.linspace(-7, 1, 17)
    losses, slopes, guess, iterations = [], [], np.zeros(5), {"cold": 0, "warm": 0}
    for k, s in enumerate(grid):
        theta = chainer.Variable(np.array(s))
        best = argmin(objective, guess, theta)
        if k % 4 == 0:
            iterations["warm"] += best.report.iterations
            iterations["cold"] += argmin(objective, np.zeros(5), s).report.iterations
        loss = validation(best)
        losses.append(float(loss.array))
        slopes.append(float(chainer.grad([loss], [theta])[0].array))
        if k + 1 < len(grid):
            rows = [chainer.grad([best], [theta], [chainer.Variable(u)])[0] for u in np.eye(5)]
            guess = best.array + (grid[k + 1] - s) * np.array([r.array for r in rows])
    # The integral of the slopes is the loss: the trapezoid rule's error is that of half a step.
    area = np.concatenate([[0], np.cumsum((np.array(slopes)[1:] + slopes[:-1]) / 2 * 0.5)])
    np.testing.assert_allclose(area, np.array(losses) - losses[0], atol=0.01)
    best = int(np.argmin(losses))
    assert 0 < best < 16
    assert slopes[best - 1] < 0 < slopes[best + 1]
    assert iterations["warm"] < iterations["cold"]


def test_all_parameters_of_a_network_as_the_unknown():
    """A network with a penalty: x* is all its parameters, theta the penalty of each layer."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 3))
    t = np.sin(x[:, :1]) + 0.1 * rng.normal(size=(40, 1))
    with chainer.using_config("dtype", np.float64):
        model = chainer.Sequential(L.Linear(3, 4), F.tanh, L.Linear(4, 1))
    for seed, one in enumerate(model.params()):
        one.array = np.random.default_rng(seed).normal(size=one.shape)
    f = functional(model, flat=True)

    def objective(p, s):
        first, second = F.sum(p[:16] ** 2), F.sum(p[16:] ** 2)
        return F.mean((f(p, x) - t) ** 2) + F.exp(s[0]) * first + F.exp(s[1]) * second

    s0 = np.log([0.01, 0.02])
    s = chainer.Variable(s0)
    near = argmin(objective, f.parameters, s0, solver="L-BFGS-B").array  # the cheap way there
    best = argmin(objective, near, s, linear_solver="cg", preconditioner="diagonal")
    assert best.report.linear_solver == "cg"
    assert best.size == 21
    F.sum(f(best, x[:5])).backward()
    h = 1e-5
    for k in range(2):
        ends = []
        for sign in (1, -1):
            moved = s0 + sign * h * np.eye(2)[k]
            ends.append(float(F.sum(f(argmin(objective, best.array, moved), x[:5])).array))
        assert s.grad[k] == pytest.approx((ends[0] - ends[1]) / (2 * h), rel=1e-5)
    f.assign(best.array)
    np.testing.assert_allclose(model(x).array, f(best.array, x).array)
