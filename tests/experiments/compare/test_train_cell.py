"""Training of a cell against one model trained by itself."""

import numpy as np
import pytest

import chainrob
import chainer
import chainer.functions as F
from chainrob.experiments.compare.linear_fits import fit_cell
from chainrob.experiments.compare.problems import make_problem, scaled
from chainrob.experiments.compare.replica_network import make_network, patches
from chainrob.experiments.compare.scores import clean_error, validation_score
from chainrob.experiments.compare.train_cell import train_cell


@pytest.mark.parametrize("data", ["iris", "diabetes", "strokes"])
@pytest.mark.parametrize(
    "method", ["trimmed mean", "geometric median", "batch gradient clipped", "inputs clipped"]
)
def test_a_replica_does_not_feel_its_company(data, method):
    rates = (0.003, 0.03)
    together = train_cell(data, method, 1, ["none", "push:0.1", "noise:0.1"], rates, 4)
    alone = train_cell(data, method, 1, ["push:0.1"], rates, 4)
    np.testing.assert_allclose(together[1, :, :2], alone[0, :, :2], rtol=1e-4)


def test_a_cell_is_an_ordinary_training():
    rate, updates, seed = 0.05, 20, 3
    found = train_cell("iris", "plain mean", seed, ["labels:0.2"], [rate], updates)[0, 0]
    problem = make_problem("iris", "labels:0.2", seed)
    x, x_validation, x_test = scaled(problem, "robust")
    start = np.random.SeedSequence([seed, 2])
    model = make_network("mlp16", 4, 3, chainrob.Mean(), "layer", seed=start)
    optimizer = chainer.optimizers.MomentumSGD(rate, momentum=0.9).setup(model)
    rng = np.random.default_rng(np.random.SeedSequence([seed, 1]))
    for _ in range(updates):
        batch = rng.choice(90, 32, replace=False)
        model.cleargrads()
        F.softmax_cross_entropy(model(x[batch]), problem.t_train[batch]).backward()
        optimizer.update()
    expected = validation_score(model(x_validation).array, problem.t_validation)
    assert found[0] == pytest.approx(expected, rel=1e-3)
    assert found[1] == clean_error(model(x_test).array, problem.t_test)


def test_early_stopping_takes_the_time_with_the_best_validation_score():
    rates = (0.3,)
    at_end = [
        train_cell("diabetes", "plain mean", 0, ["heavy:0.1"], rates, updates)[0, 0, :2]
        for updates in (2, 4, 6, 8, 10)
    ]
    best = min(at_end, key=lambda scores: scores[0])
    found = train_cell("diabetes", "early stopping", 0, ["heavy:0.1"], rates, 10)[0, 0, :2]
    np.testing.assert_allclose(found, best, rtol=1e-5)


@pytest.mark.parametrize(
    "robustifier", [chainrob.Mean(), chainrob.TrimmedMean(0.2), chainrob.GeometricMedian()]
)
def test_a_patch_layer_is_a_convolution(robustifier):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(5, 64)).astype(np.float32)
    net = make_network("cnn3", 64, 4, robustifier, "layer", (8, 8))
    both = chainrob.links.Ensemble([net, net])
    y = both(np.stack([patches(x, (8, 8))] * 2))
    stock = chainrob.links.Convolution2D(1, 3, 3, robustifier=robustifier)
    stock.W.array[...] = net.l1.W.array.reshape(3, 1, 3, 3)
    last = chainrob.links.Linear(27, 4, robustifier=robustifier)
    last.W.array[...] = net.l2.W.array
    h = F.max_pooling_2d(F.relu(stock(x.reshape(5, 1, 8, 8))), 2)
    expected = last(F.reshape(F.transpose(h, (0, 2, 3, 1)), (5, 27)))
    np.testing.assert_allclose(y.array[1], expected.array, rtol=1e-4, atol=1e-5)
    target = rng.normal(size=(5, 4)).astype(np.float32)
    both.cleargrads()
    stock.cleargrads()
    y.grad, expected.grad = np.stack([target] * 2), target
    y.backward()
    expected.backward()
    found = both.model.l1.W.grad[1].reshape(3, 1, 3, 3)
    np.testing.assert_allclose(found, stock.W.grad, rtol=1e-3, atol=1e-4)


def test_divergence_is_an_error_and_not_a_crash():
    for data, worst in (("diabetes", 2.0), ("iris", 1.0)):
        for method in ("plain mean", "geometric median"):
            found = train_cell(data, method, 0, ["push:0.3"], [1e20], 5)
            assert 0.1 < found[..., 1].max() <= worst
            assert np.isfinite(found).all()


@pytest.mark.parametrize(("name", "share"), [("HuberRegressor", 0.2), ("RANSACRegressor", 0.05)])
def test_linear_fits_withstand_what_least_squares_does_not(name, share):
    problem = make_problem("plane", f"heavy:{share}", 0)
    x, _, x_test = scaled(problem, "robust")
    squares = np.linalg.lstsq(x, problem.t_train, rcond=None)[0]
    plain = clean_error(x_test @ squares, problem.t_test)
    found = fit_cell(name, [problem], 3)[0]
    assert found[found[:, 0].argmin(), 1] < 0.3 < plain


def test_scores_cut_off_what_diverges():
    t = np.array([[0.0], [1.0], [2.0], [1e9]])
    assert validation_score(np.full((4, 1), np.nan), t) <= 3 * 1.4826
    assert clean_error(np.full((4, 1), np.inf), t) == 2.0
    labels = np.array([0, 1])
    assert clean_error(np.array([[np.nan, 0.0], [0.0, 1.0]]), labels) == 0.5
    sure, unsure = np.array([[9.0, 0.0], [0.0, 9.0]]), np.array([[0.1, 0.0], [0.0, 0.1]])
    assert validation_score(sure, labels) < validation_score(unsure, labels) < 0.01
