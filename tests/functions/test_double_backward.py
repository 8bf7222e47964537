"""Second derivatives through the robust gradient, against central differences in float64."""

from itertools import cycle

import numpy as np
import pytest

import chainrob
import chainer
from chainrob import robustifiers as r

F = chainer.functions
N, P, Q = 9, 4, 3
STEP = 1e-6

ROBUSTIFIERS = [
    r.Mean(),
    r.SoftTruncation(0.3),
    r.SoftTruncation(0.3, pilot="median"),
    r.SoftTruncation(0.3, min_variance=100.0),
    r.CoordinateMedian(),
    r.TrimmedMean(count=2),
    r.WinsorizedMean(count=2),
    r.MeanAroundMedian(2),
    r.Phocas(2),
    r.MEstimator("gudermannian", tolerance=1e-15),
    r.MEstimator("catoni", tolerance=1e-15),
    r.MEstimator("log_cosh", pilot="median", tolerance=1e-15),
    r.MEstimator("pseudo_huber", scale=0.5, tolerance=1e-15),
    r.GeometricMedian(tolerance=1e-13),
    r.MedianOfMeans(4),
    r.MedianOfMeans(4, center="coordinate"),
    r.Krum(2),
    r.MultiKrum(2),
    r.MinimumDiameterAveraging(2),
    r.SMEA(2),
    r.CenteredClipping(),
    r.CenteredClipping(radius=1.0),
    r.CenteredClipping(radius=1.0, start="zero"),
    r.CenteredClipping(iterations=50),
    r.NearestNeighborMixing(2) >> r.TrimmedMean(count=1),
    r.Bucketing(2) >> r.GeometricMedian(tolerance=1e-13),
]
WITHOUT = [
    r.CAF(2),
    r.ClipNorm(1.0) >> r.Mean(),
    r.AdaptiveRobustClipping(2) >> r.CoordinateMedian(),
]


def central_differences(function, array):
    """d function / d array, entry by entry; the array is put back."""
    out = np.zeros_like(array)
    for index in np.ndindex(array.shape):
        before = array[index]
        array[index] = before + STEP
        above = function()
        array[index] = before - STEP
        below = function()
        array[index] = before
        out[index] = (above - below) / (2 * STEP)
    return out


class Problem:
    """A scalar of the robust gradients gW, gb, which depend on x, W and b through a small loss."""

    def __init__(self, seed, robustifier, scope="layer", loss_reduction="mean", replicas=()):
        rng = np.random.default_rng(seed)
        self.options = {
            "robustifier": robustifier,
            "scope": scope,
            "loss_reduction": loss_reduction,
        }
        x = rng.normal(size=(*replicas, N, P))
        x[..., :2, :] *= 5.0
        self.arrays = [x, rng.normal(size=(*replicas, Q, P)), rng.normal(size=(*replicas, Q))]
        self.target = rng.normal(size=(*replicas, N, Q))
        self.along = [rng.normal(size=array.shape) for array in self.arrays[1:]]

    def scalar(self):
        x, W, b = variables = [chainer.Variable(array) for array in self.arrays]
        y = chainrob.functions.linear(x, W, b, **self.options)
        loss = F.sum((F.tanh(y) - self.target) ** 2)
        if self.options["loss_reduction"] == "mean":
            loss = loss / N
        gradients = chainer.grad([loss], [W, b], enable_double_backprop=True)
        parts = zip(gradients, self.along, strict=True)
        return sum(F.sum(one * along) for one, along in parts), variables

    def gradients(self):
        scalar, variables = self.scalar()
        with chainrob.exact_backward():
            return [one.array for one in chainer.grad([scalar], variables)]

    def check(self, tolerance=2e-6):
        for found, array in zip(self.gradients(), self.arrays, strict=True):
            expected = central_differences(lambda: float(self.scalar()[0].array), array)
            np.testing.assert_allclose(
                found, expected, atol=tolerance * max(1.0, np.abs(expected).max())
            )


@pytest.mark.parametrize(
    ("robustifier", "loss_reduction"),
    # The reduction is a factor, whatever the robustifier is: the two take turns.
    list(zip(ROBUSTIFIERS, cycle(["mean", "sum"]), strict=False)),
    ids=repr,
)
def test_layer(robustifier, loss_reduction):
    # The inner median of block means stops at its own tolerance, which the difference shows.
    inner = isinstance(robustifier, r.MedianOfMeans)
    Problem(1, robustifier, "layer", loss_reduction).check(2e-5 if inner else 2e-6)


@pytest.mark.parametrize("scope", ["unit", "parameter"])
@pytest.mark.parametrize(
    "robustifier",
    [r.SoftTruncation(0.3), r.Krum(2), r.CenteredClipping(), r.TrimmedMean(0.2)],
    ids=repr,
)
def test_other_scopes(robustifier, scope):
    Problem(2, robustifier, scope).check()


@pytest.mark.parametrize(
    "robustifier",
    [r.SoftTruncation(0.3), r.GeometricMedian(tolerance=1e-13), r.CenteredClipping()],
    ids=repr,
)
def test_replicas(robustifier):
    Problem(3, robustifier, replicas=(2,)).check()


@pytest.mark.parametrize(
    "robustifier", [*WITHOUT, pytest.param(lambda rows: rows.mean(axis=0), id="callable")], ids=repr
)
def test_what_has_no_derivative_says_so(robustifier):
    scalar, variables = Problem(1, robustifier).scalar()
    with pytest.raises(chainrob.NotDifferentiableError, match="derivative of"):
        chainer.grad([scalar], variables[:1])


def test_third_derivatives_are_refused():
    problem = Problem(1, r.TrimmedMean(count=2))
    scalar, (x, W, _) = problem.scalar()
    (gx,) = chainer.grad([scalar], [x], enable_double_backprop=True)
    with pytest.raises(chainrob.NotDifferentiableError, match="not three times"):
        chainer.grad([F.sum(gx**2)], [W])


def test_scope_model_is_refused():
    model = chainrob.links.MLP((P, Q))
    chainrob.robustify(model, r.Mean(), scope="model")
    hook = chainrob.training.RobustGradient(model, r.GeometricMedian())
    chainer.optimizers.SGD().setup(model).add_hook(hook)
    loss = F.sum(model(np.ones((N, P), np.float32)) ** 2)
    (gW,) = chainer.grad([loss], [model.l1.W], enable_double_backprop=True)
    with pytest.raises(chainrob.NotDifferentiableError, match="scope='model'"):
        chainer.grad([F.sum(gW)], [model.l1.W])


def test_geometric_median_of_equal_rows_has_no_derivative():
    rows = np.zeros((5, 3))
    rows[0] = 1.0
    with pytest.raises(
        chainrob.NotDifferentiableError, match="more than half of the rows coincide"
    ):
        r.GeometricMedian().pullback(rows, np.ones(3))


def test_geometric_median_on_a_line_has_no_derivative():
    with pytest.raises(chainrob.NotDifferentiableError, match="lie on one line"):
        r.GeometricMedian().pullback(np.array([[0.0], [1.0], [3.0], [4.0]]), np.ones(1))


def test_geometric_median_at_a_row_moves_with_it():
    rows = np.array([[0.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    (pulled,) = r.GeometricMedian().pullback(rows, np.array([2.0, 3.0]))
    np.testing.assert_allclose(pulled, [[2.0, 3.0]] + 4 * [[0.0, 0.0]], atol=1e-12)


def test_a_huge_row_does_not_cost_the_digits_of_the_others():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(8, 3))
    rows[0] *= 1e12
    v = rng.normal(size=3)
    robustifier = r.GeometricMedian(tolerance=1e-14)
    (pulled,) = robustifier.pullback(rows, v)
    part = rows[1:]
    expected = central_differences(
        lambda: float(robustifier(np.concatenate([rows[:1], part])) @ v), part
    )
    np.testing.assert_allclose(pulled[1:], expected, atol=1e-6)


def test_nonfinite_rows_have_no_derivative():
    rows = np.ones((4, 2))
    rows[0, 0] = np.nan
    with pytest.raises(chainrob.NotDifferentiableError, match="NaN or infinity"):
        r.TrimmedMean(count=1).pullback(rows, np.ones(2))


@pytest.mark.parametrize("pilot", ["mean", "median"])
def test_derivative_of_soft_truncation_in_delta(pilot):
    rng = np.random.default_rng(0)
    rows = rng.standard_t(2, size=(30, 5))
    above, below = (r.SoftTruncation(0.2 + h, pilot=pilot)(rows) for h in (STEP, -STEP))
    found = r.SoftTruncation(0.2, pilot=pilot).delta_derivative(rows)
    np.testing.assert_allclose(found, (above - below) / (2 * STEP), atol=1e-8)


def test_gradient_penalty_trains():
    """In use: a penalty on the robust gradient of the loss makes it smaller."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 2))
    t = x @ np.array([[1.0], [-2.0]]) + 0.1 * rng.standard_t(1.5, size=(60, 1))
    lengths = {}
    for strength in (0.0, 1.0):
        model = chainrob.links.MLP((2, 8, 1), r.SoftTruncation(), initialW=None)
        for parameter in model.params():
            parameter.array = np.random.default_rng(1).normal(size=parameter.shape) * 0.3
        optimizer = chainer.optimizers.SGD(0.02).setup(model)
        for _ in range(60):
            variable = chainer.Variable(x)
            loss = F.mean_squared_error(model(variable), t)
            (gx,) = chainer.grad([loss], [variable], enable_double_backprop=True)
            weights = [layer.W for layer in model.layers]
            gradients = chainer.grad([loss], weights, enable_double_backprop=True)
            penalty = sum(F.sum(one**2) for one in gradients) + F.sum(gx**2)
            model.cleargrads()
            (loss + strength * penalty).backward()
            optimizer.update()
        lengths[strength] = float(sum(F.sum(one**2) for one in gradients).array)
    assert lengths[1.0] < 0.5 * lengths[0.0]
