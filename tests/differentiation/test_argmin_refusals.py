"""What an argmin must not answer: infima that nothing attains, mixed batches, random objectives."""

import numpy as np
import pytest

import chainer
from chainrob.differentiation import Box, NotAMinimumError, argmin, functional

F, L = chainer.functions, chainer.links


def falling(x, t):
    """Without a minimum: the gradient cancels to an exact zero, the curvature stays positive."""
    return F.sum(F.softplus(-x * F.broadcast_to(t, x.shape)))


@pytest.mark.parametrize(
    ("start", "options"),
    [
        (np.zeros(1), {}),
        (np.zeros(1, np.float32), {}),
        (np.zeros(3), {"damping": 1e-3}),
        (np.zeros(2), {"constraints": Box(-1, None)}),
        (np.zeros(150), {"linear_solver": "cg"}),
    ],
    ids=["float64", "float32", "damped", "box", "cg"],
)
def test_an_infimum_that_nothing_attains(start, options):
    with pytest.raises(NotAMinimumError, match="lost in rounding") as caught:
        argmin(falling, start, start.dtype.type(1), **options)
    assert caught.value.report.smallest_curvature > 0
    assert caught.value.report.residual == 0


def test_separable_classes_without_a_penalty_have_no_answer_and_with_one_they_have():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(30, 3))
    t = np.sign(x @ np.ones(3))

    def objective(w, c):
        return F.mean(F.softplus(-t * F.matmul(x, w))) + c * F.sum(w**2)

    with pytest.raises(NotAMinimumError):
        argmin(objective, np.zeros(3), 0.0)
    assert argmin(objective, np.zeros(3), 1e-4).report.verdict == "founded"


@pytest.mark.parametrize("condition", [1e4, 1e8, 1e11])
def test_bad_conditioning_is_not_taken_for_it(condition):
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(20, 20)))[0]
    hessian = basis * np.geomspace(1, condition, 20) @ basis.T
    t = chainer.Variable(rng.normal(size=20))
    x = argmin(lambda x, t: F.sum((x - t) * F.matmul(hessian, x - t)) / 2 + 7, np.zeros(20), t)
    F.sum(x).backward()
    np.testing.assert_allclose(t.grad, np.ones(20), rtol=1e-15 * condition)


@pytest.mark.parametrize(("of", "on"), [(0, 2), (2, 0), (0, 1), (3, 1), (4, 3)])
def test_a_batch_whose_problems_meet_only_behind_the_start(of, on):
    """One problem's number has a product with another's x, and zero slope in it at the start."""

    def objective(x, t):
        extra = F.reshape(x[of, 0] * x[on, 0], (1,))
        zeros = chainer.Variable(np.zeros(1), requires_grad=False)
        each = [extra if b == of else zeros for b in range(5)]
        return F.sum((x - F.broadcast_to(t, x.shape)) ** 2, axis=1) + F.concat(each, axis=0) / 9

    with pytest.raises(ValueError, match="keep the problems of a batch apart"):
        argmin(objective, np.zeros((5, 2)), np.array(1.0), batched=True)


def test_one_x_in_the_numbers_of_all():
    def objective(x, t):
        return F.sum((x - t) ** 2, axis=1) + F.broadcast_to(x[0, 0], (4,))

    with pytest.raises(ValueError, match="keep the problems of a batch apart"):
        argmin(objective, np.zeros((4, 2)), np.ones((4, 2)), batched=True)


def test_a_random_objective():
    with chainer.using_config("dtype", np.float64):
        f = functional(chainer.Sequential(L.Linear(3, 8), F.dropout, L.Linear(8, 1)), flat=True)
    x = np.random.default_rng(0).normal(size=(5, 3))

    def objective(p, s):
        return F.mean((f(p, x) - 1) ** 2) + s * F.sum(p**2)

    with pytest.raises(ValueError, match=r"it is random; .* switches dropout off"):
        argmin(objective, f.parameters, 0.1)


def test_conjugate_gradients_that_cannot_tell_say_what_may():
    basis = np.linalg.qr(np.random.default_rng(0).normal(size=(80, 80)))[0]
    hessian = basis * np.geomspace(1e-13, 1, 80) @ basis.T

    def objective(x, t):
        return F.sum((x - t) * F.matmul(hessian, x - t))

    with pytest.raises(NotAMinimumError, match="preconditioner='diagonal' or linear_solver="):
        argmin(objective, np.ones(80), 1.0, linear_solver="cg", solver=lambda function, x: x)
