"""Choosing delta by gradient on a validation loss."""

import numpy as np
import pytest

import chainrob
import chainer

F = chainer.functions
RATE = 0.05


def make(delta, seed=0, n=80):
    rng = np.random.default_rng(seed)
    true = np.array([[1.0], [-2.0], [0.5]])

    def sample(noise):
        x = rng.normal(size=(n, 3))
        return x, x @ true + noise((n, 1))

    train = sample(lambda size: rng.lognormal(0.0, 1.75, size))
    valid = sample(lambda size: 0.1 * rng.normal(size=size))
    model = chainrob.links.MLP((3, 1), chainrob.SoftTruncation(delta))
    for parameter in model.params():
        parameter.array = np.zeros(parameter.shape)
    return model, train, valid


def loss_of(model, data):
    return F.mean((model(data[0]) - data[1]) ** 2)


def one_step(model, train, tuner):
    model.cleargrads()
    with tuner.watch():
        loss_of(model, train).backward()
    chainer.optimizers.SGD(RATE).setup(model).update()


@pytest.mark.parametrize("loss_reduction", ["mean", "sum"])
def test_derivative_against_central_differences(loss_reduction):
    def after(delta):
        model, train, valid = make(delta)
        model.l1.loss_reduction = loss_reduction
        tuner = chainrob.training.DeltaDescent(model, RATE)
        one_step(model, train, tuner)
        return float(loss_of(model, valid).array), tuner.derivative(lambda: loss_of(model, valid))

    h = 1e-5
    expected = (after(0.3 + h)[0] - after(0.3 - h)[0]) / (2 * h)
    assert after(0.3)[1] == pytest.approx(expected, rel=1e-5)
    assert expected != 0.0


def test_tuning_lowers_the_validation_loss():
    losses = {}
    for tuned in (False, True):
        model, train, valid = make(0.9)
        tuner = chainrob.training.DeltaDescent(model, RATE)
        for _ in range(60):
            one_step(model, train, tuner)
            if tuned:
                tuner.update(lambda model=model, valid=valid: loss_of(model, valid))
        losses[tuned] = float(loss_of(model, valid).array)
        assert tuned is (model.l1.robustifier.delta < 0.5)
    assert losses[True] < losses[False]


def test_errors():
    with pytest.raises(ValueError, match="found none"):
        chainrob.training.DeltaDescent(chainrob.links.MLP((2, 1)), RATE)
    mixed = [chainrob.SoftTruncation(0.1), chainrob.SoftTruncation(0.2)]
    with pytest.raises(ValueError, match="share one SoftTruncation"):
        chainrob.training.DeltaDescent(chainrob.links.MLP((2, 2, 1), mixed), RATE)
    model = make(0.1)[0]
    with pytest.raises(ValueError, match="rate must be positive, found 0"):
        chainrob.training.DeltaDescent(model, 0)
    with pytest.raises(RuntimeError, match=r"inside tuner\.watch"):
        chainrob.training.DeltaDescent(model, RATE).derivative(lambda: None)
