"""Functions, links and experiments on the device against the host."""

import numpy as np
import pytest

import chainrob
import chainer
from chainrob import functions as f
from chainrob.experiments.iris import iris_settings, run_iris
from tests.functions.test_double_backward_layers import LAYERS
from tests.gpu.conftest import NAME, assert_close, to_host

N = 6
ALL = {
    **LAYERS,
    "linear": (f.linear, (5,), [(3, 5), (3,)], {}),
    "linear_positions": (f.linear, (4, 5), [(3, 5), (3,)], {"n_batch_axes": 2}),
}
ROBUSTIFIERS = [
    chainrob.SoftTruncation(0.3),
    chainrob.TrimmedMean(count=1),
    chainrob.MEstimator(pilot="median"),
    chainrob.GeometricMedian(),
]


def gradients(device, name, dtype, robustifier, scope="layer"):
    """The gradients of a loss in the input and the parameters."""
    function, x_shape, shapes, keywords = ALL[name]
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=(N, *x_shape)), *(rng.normal(size=shape) for shape in shapes)]
    variables = [chainer.Variable(device.send(array.astype(dtype))) for array in arrays]
    y = function(*variables, **keywords, robustifier=robustifier, scope=scope)
    loss = chainer.functions.sum(chainer.functions.tanh(y) ** 2) / N
    loss.backward()
    return [to_host(one.grad) for one in variables]


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize("robustifier", ROBUSTIFIERS, ids=repr)
@pytest.mark.parametrize("name", ALL)
def test_functions(device, name, robustifier, dtype):
    if dtype == "float16" and ("convolution" in name or "normalization" in name):
        pytest.skip("float16 is compared where the forward pass rounds alike")
    with chainer.using_config("use_cudnn", "never"):
        found = gradients(device, name, dtype, robustifier)
    expected = gradients(chainer.get_device("@numpy"), name, dtype, robustifier)
    assert_close(found, expected, slack=10.0)


def test_embedding(device):
    ids = np.array([[0, 3], [1, 1], [2, 3], [0, 0], [5, 3]], np.int32)
    results = []
    for where in (device, chainer.get_device("@numpy")):
        W = chainer.Variable(where.send(np.random.default_rng(1).normal(size=(7, 4))))
        y = f.embed_id(where.send(ids), W, robustifier=chainrob.GeometricMedian())
        chainer.functions.mean(y * y).backward()
        results.append(to_host(W.grad))
    assert_close(results[0], results[1])


def trained(device, robustifier, scope, steps=5):
    np.random.seed(0)  # noqa: NPY002 (what Chainer draws from)
    model = chainrob.links.MLP((6, 8, 3), robustifiers=robustifier, scope=scope)
    model.to_device(device)
    rng = np.random.default_rng(5)
    x = device.send(rng.normal(size=(20, 6)).astype(np.float32))
    t = device.send(rng.integers(0, 3, 20).astype(np.int32))
    optimizer = chainer.optimizers.MomentumSGD(0.1).setup(model)
    if scope == "model":
        optimizer.add_hook(chainrob.training.RobustGradient(model))
    for _ in range(steps):
        model.cleargrads()
        chainer.functions.softmax_cross_entropy(model(x), t).backward()
        optimizer.update()
    model.to_device("@numpy")
    return [parameter.array for _, parameter in sorted(model.namedparams())]


@pytest.mark.parametrize("scope", ["unit", "parameter", "layer", "model"])
@pytest.mark.parametrize("robustifier", ROBUSTIFIERS, ids=repr)
def test_training(device, robustifier, scope):
    found = trained(device, robustifier, scope)
    expected = trained(chainer.get_device("@numpy"), robustifier, scope)
    assert_close(found, expected, slack=10.0)


def test_double_backward(device):
    results = []
    for where in (device, chainer.get_device("@numpy")):
        rng = np.random.default_rng(3)
        x, W = (chainer.Variable(where.send(rng.normal(size=size))) for size in ((9, 4), (3, 4)))
        y = f.linear(x, W, robustifier=chainrob.GeometricMedian())
        loss = chainer.functions.mean(y**2)
        (gW,) = chainer.grad([loss], [W], enable_double_backprop=True)
        (second,) = chainer.grad([chainer.functions.sum(gW**2)], [x])
        results.append(to_host(second.array))
    assert_close(results[0], results[1], slack=10.0)


def test_replica_rates(device):
    results = []
    for where in (device, chainer.get_device("@numpy")):
        np.random.seed(1)  # noqa: NPY002 (what Chainer draws from)
        ensemble = chainrob.links.Ensemble([chainrob.links.MLP((3, 2)) for _ in range(3)])
        ensemble.to_device(where)
        optimizer = chainer.optimizers.SGD(0.1).setup(ensemble)
        optimizer.add_hook(chainrob.training.ReplicaRates([0.1, 0.2, 0.3]))
        x = where.send(np.random.default_rng(0).normal(size=(3, 7, 3)).astype(np.float32))
        ensemble.cleargrads()
        chainer.functions.sum(ensemble(x) ** 2).backward()
        optimizer.update()
        ensemble.to_device("@numpy")
        results.append([one.array for one in ensemble.params()])
    assert_close(results[0], results[1])


def test_iris():
    settings = iris_settings(trials=4, iterations=30, record_every=10, dtype="float64")
    found = run_iris(settings, device=NAME, progress=False)
    expected = run_iris(settings, progress=False)
    for method, errors in expected.errors.items():
        np.testing.assert_allclose(found.errors[method], errors, atol=1e-12)
