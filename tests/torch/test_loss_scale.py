"""Autocast, GradScaler, and thresholds relative to the batch."""

import gc
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch import nn

import chainrob
import chainrob.torch as ct
from tests.oracles import estimators
from tests.torch.cases import CASES, IDS


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_autocast_with_the_mean_is_stock(case):
    stock, layer = case.layer(torch.float32), case.layer(torch.float32)
    ct.robustify(layer, chainrob.Mean())
    x = case.batch(torch.float32)
    x = x if case.n_ids else x / 10
    answers = []
    for one in (stock, layer):
        with torch.autocast("cpu", torch.bfloat16):
            y = one(x)
        y.float().square().mean().backward()
        answers.append(y)
    torch.testing.assert_close(*(y.float() for y in answers), rtol=0.02, atol=0.02)
    for name, p in stock.named_parameters():
        found = layer.get_parameter(name).grad
        assert found.dtype == torch.float32
        torch.testing.assert_close(
            found, p.grad, rtol=0.05, atol=1e-6 + 0.02 * float(p.grad.abs().max())
        )


def test_bfloat16_parameters():
    layer = ct.robustify(nn.Linear(4, 3).bfloat16(), chainrob.GeometricMedian(), scope="model")
    layer(torch.randn(6, 4).bfloat16()).float().square().mean().backward()
    assert layer.weight.grad.dtype == torch.bfloat16
    assert torch.isfinite(layer.weight.grad).all()


@pytest.mark.parametrize("scope", ["layer", "model"])
def test_thresholds_are_in_units_of_the_unscaled_loss(scope):
    net = ct.robustify(
        nn.Linear(3, 2).double(), chainrob.ClipNorm(0.5) >> chainrob.Mean(), scope=scope
    )
    x = torch.randn(5, 3).double()
    net(x).square().mean().backward()
    wanted = net.weight.grad.clone()
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    ct.use_grad_scaler(net, scaler)
    net.zero_grad()
    scaler.scale(net(x).square().mean()).backward()
    torch.testing.assert_close(net.weight.grad / 1024.0, wanted)
    ct.use_grad_scaler(net, None)
    net.zero_grad()
    (net(x).square().mean() * 1024.0).backward()
    assert (net.weight.grad / 1024.0 - wanted).abs().max() > 1e-3


@pytest.mark.parametrize("scope", ["layer", "model"])
@pytest.mark.parametrize("robustifier", [chainrob.GeometricMedian(), chainrob.SoftTruncation()])
def test_an_overflow_skips_the_step(robustifier, scope):
    torch.manual_seed(0)
    net = ct.robustify(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), robustifier, scope=scope)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    ct.use_grad_scaler(net, scaler)
    before = [p.detach().clone() for p in net.parameters()]
    x = torch.randn(6, 3)
    x[0] *= 1e3  # only this sample's gradient overflows, which a robustifier would drop
    scaler.scale(net(x).square().mean()).backward()
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == 2.0**126
    for p, one in zip(net.parameters(), before, strict=True):
        assert torch.equal(p, one)


class TestScalerThatNoLayerWasToldOf:
    """All samples overflow: what a robustifier can only raise of reaches the scaler."""

    def step(self, scope, dtype=None, accumulate=False, scale=2.0**127):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
        ct.robustify(net, chainrob.GeometricMedian(), scope=scope)
        optimizer = torch.optim.SGD(net.parameters(), 0.1)
        scaler = torch.amp.GradScaler("cpu", init_scale=scale, enabled=scale is not None)
        before = [p.detach().clone() for p in net.parameters()]
        with ct.accumulate_samples(net) if accumulate else nullcontext():
            with torch.autocast("cpu", dtype) if dtype else nullcontext():
                loss = (net(torch.randn(6, 3)).float() * 1e3).square().mean()
            scaler.scale(loss * (1.0 if scale else torch.inf)).backward()
        scaler.step(optimizer)
        scaler.update()
        unchanged = [torch.equal(p, q) for p, q in zip(net.parameters(), before, strict=True)]
        return scaler, unchanged

    @pytest.mark.parametrize("accumulate", [False, True])
    @pytest.mark.parametrize("dtype", [None, torch.bfloat16])
    @pytest.mark.parametrize("scope", ["layer", "unit", "model"])
    def test_the_step_is_skipped(self, scope, dtype, accumulate):
        with pytest.warns(chainrob.NonFiniteGradientWarning, match="taken for an overflow"):
            scaler, unchanged = self.step(scope, dtype, accumulate)
        assert scaler.get_scale() == 2.0**126
        assert all(unchanged)

    @pytest.mark.parametrize("scope", ["layer", "model"])
    def test_without_a_scaler_it_is_an_error(self, scope):
        gc.collect()
        with pytest.raises(chainrob.robustifiers.NonFiniteGradientError, match="no finite row"):
            self.step(scope, torch.bfloat16, scale=None)


def test_half_precision_overflows_reach_the_gradient_without_a_scaler():
    layer = ct.robustify(nn.Linear(2, 1).half(), chainrob.GeometricMedian())
    y = layer(torch.ones(4, 2).half())
    y.backward(torch.tensor([[1.0], [torch.inf], [1.0], [1.0]]).half())
    assert torch.isinf(layer.weight.grad).all()


def test_no_grad_scaler():
    with pytest.raises(TypeError, match=r"must be a torch\.amp\.GradScaler or None, found int"):
        ct.use_grad_scaler(nn.Linear(1, 1), 3)


@pytest.mark.parametrize("scope", ["layer", "model"])
def test_clipping_relative_to_the_batch(scope):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    x = torch.randn(9, 3, dtype=torch.float64)
    x[0] *= 50
    rows = []
    for n in range(9):
        net.zero_grad()
        net(x[n : n + 1]).square().mean().backward()
        rows.append(np.concatenate([p.grad.numpy().ravel() for p in net.parameters()]))
    ct.robustify(net, chainrob.AdaptiveRobustClipping(2) >> chainrob.Mean(), scope=scope)
    net.zero_grad()
    net(x).square().mean().backward()
    found = np.concatenate([p.grad.numpy().ravel() for p in net.parameters()])
    rows = np.array(rows)
    parts = [rows] if scope == "model" else [rows[:, :16], rows[:, 16:]]
    wanted = [estimators.mean(estimators.adaptive_robust_clipping(one, 2)) for one in parts]
    np.testing.assert_allclose(found, np.concatenate(wanted), rtol=1e-9)


@pytest.mark.parametrize("scope", ["layer", "model"])
def test_an_overflow_below_a_half_precision_layer_skips_the_step(scope):
    # Embedding and LayerNorm stay in float32; the scaler is not told to the layers.
    torch.manual_seed(0)
    body = nn.Sequential(nn.Embedding(9, 4), nn.LayerNorm(4), nn.Flatten(), nn.Linear(12, 3))
    net = ct.robustify(body, chainrob.GeometricMedian(), scope=scope)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**30)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    before = net[0].weight.detach().clone()
    with torch.autocast("cpu", torch.float16):
        loss = net(torch.randint(0, 9, (6, 3))).float().square().mean()
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == 2.0**29
    assert torch.equal(net[0].weight, before)
