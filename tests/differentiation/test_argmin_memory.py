"""The gradient of an argmin never forms the matrix d2f/dx dtheta."""

import tracemalloc

import numpy as np
import pytest

import chainer
from chainrob.differentiation import argmin

F = chainer.functions

N, K = 120, 250  # unknowns, and parameters of each
THETA = np.random.default_rng(0).normal(size=(N, K))
MATRIX = N * THETA.nbytes  # of d2f/dx dtheta


def objective(x, theta):
    errors = F.broadcast_to(F.reshape(x, (N, 1)), (N, K)) - theta
    return F.sum(0.5 * errors**2 + 0.25 * errors**4)


def peak_of(call):
    """What a call returns, and the most memory that was held at once while it ran."""
    tracemalloc.start()
    try:
        return call(), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("linear_solver", ["dense", "cg"])
def test_peak_memory_stays_far_below_the_matrix(linear_solver):
    theta = chainer.Variable(THETA)
    x = argmin(objective, THETA.mean(axis=1), theta, linear_solver=linear_solver)
    weights = np.random.default_rng(1).normal(size=N)

    def gradient():
        return chainer.grad([x], [theta], [chainer.Variable(weights)])[0].array

    found, peak = peak_of(gradient)
    assert peak < MATRIX / 4  # measured: some 13 arrays of the size of theta; the matrix is N = 120
    # In closed form: each x is an M-estimate of its row, and its parameters have their shares.
    shares = 1.0 + 3.0 * (x.array[:, None] - THETA) ** 2
    expected = weights[:, None] * shares / shares.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found, expected, rtol=1e-8)


def test_who_forms_the_matrix_is_seen():
    """The control: a row of d2f/dx dtheta for every unknown, by the same products."""
    x, theta = chainer.Variable(np.zeros(N)), chainer.Variable(THETA)
    (slope,) = chainer.grad([objective(x, theta)], [x], enable_double_backprop=True)

    def matrix():
        units = (chainer.Variable(unit) for unit in np.eye(N))
        return np.stack([chainer.grad([slope], [theta], [unit])[0].array for unit in units])

    found, peak = peak_of(matrix)
    assert found.nbytes == MATRIX
    assert peak > MATRIX


def test_evaluations_do_not_depend_on_the_number_of_parameters():
    """The backward pass evaluates the objective as often for 250 parameters an unknown as for 2."""

    def evaluations(k):
        calls = []

        def counted(x, theta):
            calls.append(1)
            errors = F.broadcast_to(F.reshape(x, (3, 1)), (3, k)) - theta
            return F.sum(0.5 * errors**2 + 0.25 * errors**4)

        theta = chainer.Variable(THETA[:3, :k])
        x = argmin(counted, np.zeros(3), theta)
        calls.clear()
        F.sum(x).backward()
        return len(calls)

    assert 1 <= evaluations(250) == evaluations(2) <= 3
