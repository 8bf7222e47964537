"""Clipping to a running norm: the limits follow, and are saved with the trainer."""

import io

import numpy as np
import pytest

import chainrob
import chainer
from chainrob.training import RunningClipping


def prepared(**options):
    initial = np.array([[0.5, -1.0, 2.0]], np.float32)
    model = chainrob.robustify(chainer.Sequential(chainer.links.Linear(3, 1, initialW=initial)))
    hook = RunningClipping(model, **options)
    return model, hook, chainer.optimizers.SGD(0.1).setup(model)


def norms(model, x):
    error = model(x).array - 1.0
    return np.linalg.norm(np.hstack([x, np.ones((len(x), 1))]) * error, axis=1)


def step(model, optimizer, x):
    optimizer.update(lambda: chainer.functions.mean((model(x) - 1.0) ** 2) / 2)


def test_the_limit_follows_the_quantile_in_logarithms():
    model, hook, optimizer = prepared(multiple=3.0, memory=0.75)
    optimizer.add_hook(hook)
    rng = np.random.default_rng(0)
    expected = None
    for _ in range(4):
        x = rng.normal(size=(9, 3)).astype(np.float32)
        limit = 3.0 * np.sort(norms(model, x))[4]
        expected = limit if expected is None else expected**0.75 * limit**0.25
        step(model, optimizer, x)
        np.testing.assert_allclose(hook.limits["/0"], expected, rtol=1e-5)
        assert model[0].robustifier == chainrob.ClipNorm(hook.limits["/0"]) >> chainrob.Mean()


def test_a_bad_batch_is_clipped_by_the_steps_before():
    model, hook, optimizer = prepared()
    optimizer.add_hook(hook)
    x = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    for _ in range(3):
        step(model, optimizer, x)
    limit, before = hook.limits["/0"], model[0].W.array.copy()
    step(model, optimizer, 1e6 * x)
    assert np.linalg.norm(model[0].W.array - before) <= 0.1 * limit * 1.001


def test_limits_are_part_of_a_snapshot():
    model, hook, optimizer = prepared()
    optimizer.add_hook(hook)
    step(model, optimizer, np.ones((5, 3), np.float32))
    file = io.BytesIO()
    chainer.serializers.save_npz(file, hook)
    other, restored, _ = prepared()
    chainer.serializers.load_npz(io.BytesIO(file.getvalue()), restored)
    assert restored.limits == hook.limits
    assert other[0].robustifier == model[0].robustifier
    restored.finalize()
    hook.finalize()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"multiple": 0}, "multiple must be a positive number, found 0"),
        ({"quantile": 1}, "quantile must lie strictly between 0 and 1, found 1"),
        ({"memory": 1.0}, r"memory must lie in \[0, 1\), found 1"),
    ],
)
def test_refusals(options, message):
    with pytest.raises(ValueError, match=message):
        prepared(**options)
    with pytest.raises(ValueError, match="must hold robust links"):
        RunningClipping(chainer.links.Linear(2, 2))
