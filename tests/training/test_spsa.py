"""SPSA: the estimate is right on average, two passes a step, and outliers do not spoil it."""

import numpy as np
import pytest

import chainrob
import chainer
import chainer.functions as F
from chainrob.training import SPSA

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 3))
T = X @ np.array([[1.0], [-2.0], [0.5]]) + 0.3


def make_model(dtype=np.float64, seed=0):
    with chainer.using_config("dtype", dtype):
        rng = np.random.default_rng(seed)
        model = chainer.Chain()
        with model.init_scope():
            model.hidden = chainer.links.Linear(
                3, 4, initialW=rng.normal(size=(4, 3)).astype(dtype)
            )
            model.out = chainer.links.Linear(4, 1, initialW=rng.normal(size=(1, 4)).astype(dtype))
    return model


def squared_error(model):
    def loss(x=X, t=T):
        dtype = model.hidden.b.dtype
        y = model.out(F.tanh(model.hidden(x.astype(dtype))))
        return F.mean((y - t.astype(dtype)) ** 2)

    return loss


def gradient(model, loss, **options):
    """All gradients in one vector, and the loss."""
    model.cleargrads()
    value = loss(**options)
    value.backward()
    return np.concatenate([p.grad.ravel() for _, p in sorted(model.namedparams())]), value.array


@pytest.mark.parametrize("directions", ["rademacher", "gaussian"])
def test_average_is_the_gradient_of_backpropagation(directions):
    model = make_model()
    lossfun = squared_error(model)
    exact, value = gradient(model, lossfun)
    d, n = exact.size, 1000
    estimate, mean = gradient(model, SPSA(model, lossfun, samples=n, directions=directions, seed=1))
    # Every coordinate has a variance of at most 2 |g|^2 / n.
    assert abs(estimate - exact).max() < 4 * np.linalg.norm(exact) * np.sqrt(2 / n)
    assert np.linalg.norm(estimate - exact) < 1.5 * np.linalg.norm(exact) * np.sqrt((d + 1) / n)
    assert mean == pytest.approx(value, rel=1e-6)


def test_two_forward_passes_a_step_and_no_graph():
    model = make_model()
    calls = []

    def lossfun():
        calls.append(chainer.config.enable_backprop)
        return squared_error(model)()

    loss = SPSA(model, lossfun, seed=0)
    optimizer = chainer.optimizers.Adam().setup(model)
    for step in range(1, 4):
        optimizer.update(loss)
        assert len(calls) == loss.evaluations == 2 * step
    assert not any(calls)


def test_one_sample_is_the_slope_along_its_direction():
    model = make_model()
    lossfun = squared_error(model)
    exact, _ = gradient(model, lossfun)
    estimate, _ = gradient(model, SPSA(model, lossfun, seed=3))
    direction = np.sign(estimate * (estimate @ exact))
    np.testing.assert_allclose(estimate, (exact @ direction) * direction, rtol=1e-6)


def test_seeded():
    def run(seed):
        model = make_model()
        optimizer = chainer.optimizers.MomentumSGD(0.01).setup(model)
        loss = SPSA(model, squared_error(model), seed=seed)
        for _ in range(5):
            optimizer.update(loss)
        return model.hidden.W.array

    np.testing.assert_array_equal(run(0), run(0))
    assert (run(0) != run(1)).any()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_trains(dtype):
    model = make_model(dtype)
    lossfun = squared_error(model)
    before = float(lossfun().array)
    optimizer = chainer.optimizers.Adam(0.03).setup(model)
    loss = SPSA(model, lossfun, samples=2, seed=0)
    for _ in range(250):
        optimizer.update(loss)
    assert model.hidden.W.dtype == model.hidden.W.grad.dtype == dtype
    assert float(lossfun().array) < 0.1 * before


def test_trains_a_loss_without_gradient():
    x, t = X.astype(np.float32), (T[:, 0] > 0).astype(np.int32)
    model = chainer.links.Linear(3, 2, initialW=np.zeros((2, 3), np.float32))

    def errors(x, t):
        return np.mean(model(x).array.argmax(axis=1) != t)

    optimizer = chainer.optimizers.SGD(0.3).setup(model)
    loss = SPSA(model, errors, step=0.5, samples=4, seed=0)
    before = errors(x, t)
    for _ in range(150):
        optimizer.update(loss, x, t)
    assert before > 0.4
    assert errors(x, t) < 0.1


def test_robustifier_over_the_samples_withstands_outliers():
    model = make_model()
    lossfun = squared_error(model)
    exact, _ = gradient(model, lossfun)
    noise = np.random.default_rng(5)

    def noisy():
        return float(lossfun().array) + (1e4 * noise.normal() if noise.random() < 0.05 else 0.0)

    errors = {}
    for name, robustifier in (("mean", None), ("trimmed", chainrob.TrimmedMean(fraction=0.2))):
        loss = SPSA(model, noisy, step=0.1, samples=200, robustifier=robustifier, seed=0)
        errors[name] = np.linalg.norm(gradient(model, loss)[0] - exact) / np.linalg.norm(exact)
    assert errors["trimmed"] < 0.7
    assert errors["mean"] > 20 * errors["trimmed"]


def test_in_a_trainer(tmp_path):
    model = chainer.links.Classifier(chainer.links.Linear(3, 2))  # shapes and a lossfun of its own
    x, t = X.astype(np.float32), (T[:, 0] > 0).astype(np.int32)
    batches = chainer.iterators.SerialIterator(list(zip(x, t, strict=True)), 20, shuffle=False)
    optimizer = chainer.optimizers.SGD(0.1).setup(model)
    optimizer.add_hook(chainer.optimizer_hooks.WeightDecay(1e-4))
    loss = SPSA(model, seed=0)
    before = float(model(x, t).array)
    updater = chainer.training.StandardUpdater(batches, optimizer, loss_func=loss)
    trainer = chainer.training.Trainer(updater, (100, "iteration"), out=tmp_path)
    trainer.extend(
        chainrob.training.Snapshot(generators=[loss.generator]), trigger=(50, "iteration")
    )
    trainer.run()
    assert loss.evaluations == 200
    assert float(model(x, t).array) < 0.7 * before


def test_shapes_from_the_first_pass():
    model = chainer.links.Linear(None, 1)
    loss = SPSA(model, lambda: F.mean(model(X.astype(np.float32)) ** 2), seed=0)
    loss().backward()
    assert model.W.grad.shape == (1, 3)
    assert loss.evaluations == 3


def test_frozen_parameters_stay():
    model = make_model()
    chainer.optimizers.SGD(0.1).setup(model)
    model.hidden.disable_update()
    seen = set()

    def lossfun():
        seen.add(model.hidden.W.array.tobytes())
        return squared_error(model)()

    model.cleargrads()
    SPSA(model, lossfun, samples=5, seed=0)().backward()
    assert len(seen) == 1
    assert model.hidden.W.grad is None
    assert model.out.W.grad is not None


def test_parameters_come_back_when_the_loss_fails():
    model = make_model()
    before = [parameter.array for parameter in model.params()]

    def lossfun():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        SPSA(model, lossfun)()
    assert all(a is p.array for a, p in zip(before, model.params(), strict=True))


def test_evaluation_is_the_plain_loss():
    model = make_model()
    lossfun = squared_error(model)
    loss = SPSA(model, lossfun)
    with chainer.no_backprop_mode():
        assert loss().array == lossfun().array
    assert loss.evaluations == 0


def test_no_second_derivative():
    model = make_model()
    loss = SPSA(model, squared_error(model), seed=0)()
    with pytest.raises(RuntimeError, match="no derivative of its own"):
        chainer.grad([loss], [model.out.W], enable_double_backprop=True)


def test_refused():
    model = make_model()
    lossfun = squared_error(model)
    with pytest.raises(TypeError, match=r"model must be a chainer\.Link, found function"):
        SPSA(lossfun)
    with pytest.raises(TypeError, match="lossfun must be callable, found 3"):
        SPSA(model, 3)
    for options, message in (
        ({"samples": 0}, "samples must be a positive integer, found 0"),
        ({"step": 0.0}, "step must be positive and finite, found 0"),
        ({"directions": "cauchy"}, "directions must be one of"),
    ):
        with pytest.raises(ValueError, match=message):
            SPSA(model, lossfun, **options)()
    with pytest.raises(ValueError, match=r"lossfun must be scalar, found shape \(60, 4\)"):
        SPSA(model, lambda: model.hidden(X))()
    with pytest.raises(ValueError, match="finite"):
        SPSA(model, lambda: np.nan)()
    model.out.W.array = model.out.W.array.astype(np.float32)
    with pytest.raises(ValueError, match="one dtype, found"):
        SPSA(model, lambda: 0.0)()
    with pytest.raises(ValueError, match="no parameter that is trained"):
        SPSA(chainer.Chain(), lambda: 0.0)()
