"""Both fronts on the same arrays."""

import numpy as np
import pytest
import torch
from torch import nn

import chainrob
import chainrob.torch

chainer = pytest.importorskip("chainer")

ROBUSTIFIERS = [
    chainrob.SoftTruncation(),
    chainrob.TrimmedMean(0.2),
    chainrob.GeometricMedian(),
    chainrob.Krum(2),
    chainrob.ClipNorm(0.1) >> chainrob.Mean(),
]
L = chainrob.links


def linear(**options):
    return nn.Linear(4, 3), L.Linear(4, 3, **options), (4,), ["weight", "bias"], ["W", "b"]


def convolution(**options):
    link = L.Convolution2D(2, 4, (2, 3), stride=(1, 2), pad=1, groups=2, **options)
    module = nn.Conv2d(2, 4, (2, 3), stride=(1, 2), padding=1, groups=2)
    return module, link, (2, 4, 5), ["weight", "bias"], ["W", "b"]


def deconvolution(**options):
    link = L.Deconvolution2D(2, 3, 2, stride=2, **options)
    return nn.ConvTranspose2d(2, 3, 2, stride=2), link, (2, 3, 3), ["weight", "bias"], ["W", "b"]


def group_norm(**options):
    link = L.GroupNormalization(2, 4, **options)
    return nn.GroupNorm(2, 4), link, (4, 3), ["weight", "bias"], ["gamma", "beta"]


def layer_norm(**options):
    link = L.LayerNormalization(4, eps=1e-5, **options)
    return nn.LayerNorm(4), link, (4,), ["weight", "bias"], ["gamma", "beta"]


@pytest.mark.parametrize("scope", ["unit", "parameter", "layer"])
@pytest.mark.parametrize("robustifier", ROBUSTIFIERS, ids=repr)
@pytest.mark.parametrize("make", [linear, convolution, deconvolution, group_norm, layer_norm])
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-6), (np.float64, 1e-12)])
def test_same_gradients(make, robustifier, scope, dtype, tolerance):
    rng = np.random.default_rng(0)
    module, link, shape, names, stock_names = make(robustifier=robustifier, scope=scope)
    x = rng.normal(size=(9, *shape)).astype(dtype)
    x[-1] *= 20
    module = module.to(torch.from_numpy(x).dtype)
    chainrob.torch.robustify(module, robustifier, scope=scope)
    for name, stock in zip(names, stock_names, strict=True):
        value = rng.normal(size=tuple(getattr(module, name).shape)).astype(dtype)
        getattr(module, name).data = torch.from_numpy(value)
        parameter = getattr(link, stock)
        if parameter.array is None:
            parameter.initialize(value.shape)
        parameter.array = value.copy()
    # The output gradient is the same array on both sides.
    y = module(torch.from_numpy(x))
    gy = rng.normal(size=tuple(y.shape)).astype(dtype)
    y.backward(torch.from_numpy(gy))
    link.cleargrads()
    out = link(x)
    out.grad = gy
    out.backward()
    for name, stock in zip(names, stock_names, strict=True):
        found, wanted = getattr(module, name).grad.numpy(), getattr(link, stock).grad
        scale = max(np.abs(wanted).max(), 1e-30)
        assert np.abs(found - wanted).max() <= tolerance * scale, name


def test_same_whole_model():
    rng = np.random.default_rng(1)
    x, t = rng.normal(size=(12, 4)), rng.integers(0, 3, 12)
    link = L.MLP((4, 5, 3), chainrob.GeometricMedian(), scope="model")
    module = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)).double()
    for number, layer in ((0, link.l1), (2, link.l2)):
        layer.W.array = module[number].weight.detach().numpy().copy()
        layer.b.array = module[number].bias.detach().numpy().copy()
    chainrob.torch.robustify(module, chainrob.GeometricMedian(), scope="model")
    torch.nn.functional.cross_entropy(module(torch.from_numpy(x)), torch.from_numpy(t)).backward()
    optimizer = chainer.optimizers.SGD(0.0).setup(link)
    optimizer.add_hook(chainrob.training.RobustGradient(link))
    optimizer.update(lambda: chainer.functions.softmax_cross_entropy(link(x), t.astype(np.int32)))
    for number, layer in ((0, link.l1), (2, link.l2)):
        np.testing.assert_allclose(module[number].weight.grad, layer.W.grad, rtol=0, atol=1e-12)


@pytest.mark.parametrize("rank_by", ["weight", "suspicion"])
def test_same_sample_weights_as_the_suspect_report(rank_by):
    rng = np.random.default_rng(2)
    x, t = rng.normal(size=(30, 4)), rng.integers(0, 3, 30)
    x[5] *= 30
    torch.manual_seed(0)
    module = nn.Linear(4, 3).double()
    t[5] = int(module(torch.from_numpy(x[5])).argmin())  # far out, and on the wrong side
    chainrob.torch.robustify(module, chainrob.GeometricMedian())
    link = L.Linear(4, 3, robustifier=chainrob.GeometricMedian())
    link.W.array, link.b.array = (p.detach().numpy().copy() for p in module.parameters())
    suspects = chainrob.torch.Suspects(module, 30, rank_by=rank_by)
    averages = chainrob.training.WeightAverages(30)

    def keep(observation):
        weights = observation.sample_weights()
        if rank_by == "suspicion":
            weights = 1.0 - observation.suspicion()
        averages.add("model", batch, weights)

    with chainrob.training.observe(link, keep):
        link.cleargrads()
        for batch in rng.permutation(30).reshape(3, 10):
            suspects.next(batch)
            y = module(torch.from_numpy(x[batch]))
            torch.nn.functional.cross_entropy(y, torch.from_numpy(t[batch])).backward()
            loss = chainer.functions.softmax_cross_entropy(link(x[batch]), t[batch].astype("i"))
            loss.backward()
    np.testing.assert_allclose(suspects.weights(), averages.weights(), rtol=0, atol=1e-9)
    np.testing.assert_allclose(suspects.relative(), averages.relative(), rtol=0, atol=1e-9)
    assert suspects.ranking()[0] == averages.ranking()[0]
    if rank_by == "weight":
        assert suspects.ranking()[0] == 5
