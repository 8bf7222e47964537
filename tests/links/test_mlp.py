"""The tutorial's chain."""

from itertools import pairwise

import numpy as np
import pytest

import chainrob
import chainer
from chainer import functions as F


class Stock(chainer.Chain):
    """The same chain of stock links."""

    def __init__(self, dims):
        super().__init__()
        with self.init_scope():
            for number, (p, q) in enumerate(pairwise(dims), start=1):
                setattr(self, f"l{number}", chainer.links.Linear(p, q))

    def forward(self, x):
        *hidden, last = self.children()
        for layer in hidden:
            x = F.relu(layer(x))
        return last(x)


def step(model, x, t):
    model.cleargrads()
    F.softmax_cross_entropy(model(x), t).backward()
    return {name: parameter.grad for name, parameter in sorted(model.namedparams())}


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 2)).astype(np.float32)
    return x, (x[:, 0] * x[:, 1] > 0).astype(np.int32)


def test_a_stock_checkpoint_gives_the_same_model_and_gradients(data, tmp_path):
    dims = (2, 7, 5, 2)
    stock = Stock(dims)
    chainer.serializers.save_npz(tmp_path / "stock.npz", stock)
    for robustifiers in (None, chainrob.Mean(), [chainrob.Mean(), None, chainrob.Mean()]):
        model = chainrob.links.MLP(dims, robustifiers)
        chainer.serializers.load_npz(tmp_path / "stock.npz", model)
        np.testing.assert_array_equal(model(data[0]).array, stock(data[0]).array)
        expected = step(stock, *data)
        for name, grad in step(model, *data).items():
            np.testing.assert_allclose(grad, expected[name], rtol=1e-5, atol=1e-7)
    chainer.serializers.save_npz(tmp_path / "robust.npz", model)
    chainer.serializers.load_npz(tmp_path / "robust.npz", Stock(dims))


def test_one_robustifier_a_layer_or_one_for_all():
    trimmed = chainrob.TrimmedMean(count=1)
    model = chainrob.links.MLP((2, 3, 4), trimmed, scope="unit", loss_reduction="sum")
    assert [layer.robustifier for layer in model.layers] == [trimmed, trimmed]
    assert {(layer.scope, layer.loss_reduction) for layer in model.layers} == {("unit", "sum")}
    model = chainrob.links.MLP((2, 3, 4), [None, trimmed])
    assert [layer.robustifier for layer in model.layers] == [None, trimmed]
    assert model.layers == list(model.children())
    assert [layer.W.shape for layer in model.layers] == [(3, 2), (4, 3)]


def test_layers_may_be_many():
    model = chainrob.links.MLP([2] * 13)
    assert len(model.layers) == 12
    assert model.layers[10] is model["l11"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((2,),), r"dims must hold at least an input and an output size, found \(2,\)"),
        (((2, 0, 3),), r"dims must be positive integers, found \(2, 0, 3\)"),
        (((2, 3.5),), "dims must be positive integers"),
        (((2, 3, 4), [None]), "one entry for each of the 2 layers, found 1"),
    ],
)
def test_what_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        chainrob.links.MLP(*arguments)


@pytest.mark.parametrize(
    "robustifier",
    [
        chainrob.TrimmedMean(count=5),
        chainrob.SoftTruncation(pilot="median"),
        chainrob.MEstimator(pilot="median"),
        chainrob.NearestNeighborMixing(5) >> chainrob.GeometricMedian(tolerance=1e-4),
        chainrob.MultiKrum(5),
    ],
    ids=repr,
)
def test_training_survives_corrupted_samples(data, robustifier):
    """With five samples of sixty pushed far out and mislabeled the plain mean learns nothing."""
    x, t = data[0].copy(), data[1].copy()
    t[:] = x[:, 0] > 0
    clean = x.copy(), t.copy()
    x[:5] *= 1e3
    t[:5] = 1 - t[:5]

    def error(robustifier):
        np.random.seed(0)  # noqa: NPY002 (Chainer's initializers know no other)
        model = chainrob.links.MLP((2, 8, 2), robustifier)
        optimizer = chainer.optimizers.SGD(0.5).setup(model)
        for _ in range(60):
            optimizer.update(lambda: F.softmax_cross_entropy(model(x), t))
        return float((model(clean[0]).array.argmax(axis=1) != clean[1]).mean())

    assert error(robustifier) < 0.1
    with np.errstate(all="ignore"):  # the weights of the plain model overflow
        assert error(None) > 0.3
