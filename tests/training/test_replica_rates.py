"""Replicas at rates of their own take the steps of runs at these rates."""

import pickle

import numpy as np
import pytest

import chainrob
import chainer
from chainrob.training import ReplicaRates

RATES = (0.02, 0.1, 0.5)


def data():
    rng = np.random.default_rng(4)
    return rng.normal(size=(16, 3)), rng.integers(0, 2, 16)


def model(seed):
    np.random.seed(seed)  # noqa: NPY002 (what Chainer draws from)
    net = chainrob.links.MLP((3, 4, 2), robustifiers=chainrob.CoordinateMedian())
    for parameter in net.params():
        parameter.array = parameter.array.astype(np.float64)
    return net


def train(net, optimizer, loss, steps=8):
    x, t = data()
    for _ in range(steps):
        net.cleargrads()
        loss(net, x, t).backward()
        optimizer.update()


def alone(net, x, t):
    return chainer.functions.softmax_cross_entropy(net(x), t)


def together(net, x, t):
    y = net(np.broadcast_to(x, (len(RATES), *x.shape)))
    return net.mean_loss(chainer.functions.softmax_cross_entropy, y, t)


@pytest.mark.parametrize("decay", [None, 0.05])
@pytest.mark.parametrize("name", ReplicaRates.exact_for)
def test_each_is_a_run_at_its_rate(name, decay):
    make = getattr(chainer.optimizers, name)
    members = [model(seed) for seed in range(len(RATES))]
    ensemble = chainrob.links.Ensemble(members)
    optimizer = make(lr=0.1).setup(ensemble)
    if decay:
        optimizer.add_hook(chainer.optimizer_hooks.WeightDecay(decay))
    optimizer.add_hook(pickle.loads(pickle.dumps(ReplicaRates(RATES))))
    train(ensemble, optimizer, together)
    for rate, net, trained in zip(RATES, members, ensemble.members(), strict=True):
        optimizer = make(lr=rate).setup(net)
        if decay:
            optimizer.add_hook(chainer.optimizer_hooks.WeightDecay(decay))
        train(net, optimizer, alone)
        for one, other in zip(net.params(), trained.params(), strict=True):
            np.testing.assert_allclose(other.array, one.array, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ["Adam", "RMSprop", "AdaGrad"])
def test_a_rate_is_no_factor_of_the_gradient(name):
    ensemble = chainrob.links.Ensemble([model(seed) for seed in range(3)])
    optimizer = getattr(chainer.optimizers, name)().setup(ensemble)
    optimizer.add_hook(ReplicaRates(RATES))
    with pytest.raises(TypeError, match=f"only for SGD.*found {name}"):
        train(ensemble, optimizer, together, 1)


def test_wrong_numbers():
    with pytest.raises(ValueError, match=r"positive numbers, found -1\.0"):
        ReplicaRates([0.1, -1.0])
    with pytest.raises(ValueError, match="found none"):
        ReplicaRates([])
    ensemble = chainrob.links.Ensemble([model(seed) for seed in range(3)])
    optimizer = chainer.optimizers.SGD(0.1).setup(ensemble)
    optimizer.add_hook(ReplicaRates([0.1, 0.2]))
    with pytest.raises(ValueError, match="must be the 2 replicas, found shape"):
        train(ensemble, optimizer, together, 1)
