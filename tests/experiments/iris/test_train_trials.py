"""Training against two oracles: plain NumPy, and an ordinary Chainer loop over one trial."""

import numpy as np
import pytest

import chainrob
import chainer
from chainrob.experiments.iris import (
    initial_parameters,
    iris_settings,
    make_model,
    train,
    trial_data,
)


def numpy_errors(settings, trial, robust):
    """Back-propagation written out, in float64; robust tells how to estimate the first layer."""
    data = trial_data(settings, trial)
    parameters = [[W.copy(), b.copy()] for W, b in initial_parameters(settings, trial)]
    n = len(data.x_train)

    def scores(x):
        inputs = []
        for index, (W, b) in enumerate(parameters):
            inputs.append(x)
            x = x @ W.T + b
            if index < len(parameters) - 1:
                x = np.maximum(x, 0)
        return inputs, x

    errors = []
    for time in range(settings.iterations + 1):
        inputs, y = scores(data.x_train)
        if time in settings.recorded:
            test = scores(data.x_test)[1]
            errors.append(
                [(y.argmax(1) != data.t_train).mean(), (test.argmax(1) != data.t_test).mean()]
            )
        p = np.exp(y - y.max(axis=1, keepdims=True))
        g = p / p.sum(axis=1, keepdims=True)
        g[np.arange(n), data.t_train] -= 1
        for index in (2, 1, 0):
            W, b = parameters[index]
            rows = g[:, :, None] * inputs[index][:, None, :]
            estimate = robust if robust is not None and index == 0 else lambda r: r.mean(axis=0)
            step_W = estimate(rows.reshape(n, -1)).reshape(W.shape)
            step_b = estimate(g)
            g = (g @ W) * (inputs[index] > 0)
            W -= settings.learning_rate * step_W
            b -= settings.learning_rate * step_b
    return np.array(errors)


def released(rows):
    """The released estimator on whole arrays: 1/N-scaled rows, floor 0.001, estimate as it is."""
    n = len(rows)
    h = rows / n
    mean = h.mean(axis=0)
    s = np.sqrt(n * np.maximum(h.var(axis=0), 0.001) / (2 * np.log(1 / 0.005)))
    v = np.clip((h - mean) / s, -np.sqrt(2), np.sqrt(2))
    return mean + s * (v - v**3 / 6).mean(axis=0)


@pytest.mark.parametrize("method", ["deep", "deep-rob"])
def test_equals_back_propagation_written_out(method):
    settings = iris_settings("released", iterations=200, record_every=20, dtype="float64")
    (ours,) = train(settings, [settings.methods()[method]], [0, 1, 2])
    for trial in range(3):
        expected = numpy_errors(settings, trial, released if method == "deep-rob" else None)
        np.testing.assert_array_equal(ours[trial], expected)


@pytest.mark.parametrize(
    "robustifiers",
    [
        (None, None, None),
        (chainrob.SoftTruncation(), None, None),
        (chainrob.TrimmedMean(0.05), chainrob.GeometricMedian(), None),
    ],
)
def test_equals_the_ordinary_script_of_one_trial(robustifiers):
    settings = iris_settings("text", iterations=60, record_every=60, dtype="float64")
    trial = 4
    data = trial_data(settings, trial)
    model = make_model(settings, robustifiers, trial)
    optimizer = chainer.optimizers.SGD(0.5).setup(model)
    for _ in range(60):
        loss = chainer.functions.softmax_cross_entropy(model(data.x_train), data.t_train)
        model.cleargrads()
        loss.backward()
        optimizer.update()
    errors = [
        (model(x).array.argmax(axis=1) != t).mean()
        for x, t in ((data.x_train, data.t_train), (data.x_test, data.t_test))
    ]
    ours = train(settings, [robustifiers], [trial])
    np.testing.assert_array_equal(ours[0, 0, -1], errors)


@pytest.mark.parametrize("setting", ["released", "text"])
def test_a_trial_is_the_same_in_any_company_to_the_last_bit(setting):
    settings = iris_settings(setting, iterations=150)
    methods = list(settings.methods().values())
    together = train(settings, methods, range(3))
    for index, robustifiers in enumerate(methods):
        apart = [train(settings, [robustifiers], [trial])[0] for trial in (0, 2)]
        np.testing.assert_array_equal(together[index, [0, 2]], np.concatenate(apart))
    np.testing.assert_array_equal(train(settings, methods[::-1], [2, 1]), together[::-1, [2, 1]])


def test_a_trial_that_diverges_has_error_one_and_leaves_the_others_alone():
    settings = iris_settings(
        "released", iterations=40, learning_rate=1e5, push=1e30, record_every=40
    )
    (errors,) = train(settings, [settings.methods()["deep"]], range(3))
    np.testing.assert_array_equal(errors[:, -1], 1.0)
    assert (errors[:, 0] < 1).all()


def test_initial_errors_do_not_depend_on_the_method():
    settings = iris_settings("released", iterations=0)
    first, second = train(settings, list(settings.methods().values()), range(4))
    np.testing.assert_array_equal(first, second)
    assert first.shape == (4, 1, 2)


def test_advance_is_called_once_an_update():
    calls = []
    train(iris_settings(iterations=7), [(None,) * 3], [0], advance=calls.append)
    assert calls == [1] * 7
