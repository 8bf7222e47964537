"""Every layer, family of robustifiers, scope and reduction against rows from ``torch.func``."""

import numpy as np
import pytest
import torch

import chainrob
import chainrob.torch
from tests.oracles import estimators
from tests.torch.cases import CASES, IDS, N, expected, gradients, losses, sample_rows

# PyTorch says so of its own convolution.
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")

FAMILIES = {
    "coordinate-wise": (
        chainrob.TrimmedMean(0.2),
        lambda rows: estimators.trimmed_mean(rows, 1),
    ),
    "moments": (
        chainrob.SoftTruncation(),
        lambda rows: estimators.soft_truncation(rows, 0.005, "mean"),
    ),
    "weighting": (
        chainrob.GeometricMedian(tolerance=1e-12, max_iterations=1000),
        lambda rows: estimators.geometric_median(rows, steps=3000),
    ),
    "mixing": (
        chainrob.ClipNorm(0.05) >> chainrob.Mean(),
        lambda rows: estimators.mean(estimators.clip_norm(rows, 0.05)),
    ),
    "plain callable": (lambda rows: np.median(rows, axis=0), lambda rows: np.median(rows, axis=0)),
}


def check(case, family, scope, reduction, dtype=torch.float64):
    robustifier, oracle = FAMILIES[family]
    layer, x = case.layer(dtype), case.batch(dtype)
    rows = sample_rows(layer, x)
    chainrob.torch.robustify(layer, robustifier, scope=scope, loss_reduction=reduction)
    loss = losses(layer(x))
    (loss.mean() if reduction == "mean" else loss.sum()).backward()
    factor = N if reduction == "sum" else 1
    wanted = expected(rows, oracle, scope, case.unit_axis)
    found = gradients(layer)
    assert found.keys() == wanted.keys()
    scale = max(np.abs(one).max() for one in wanted.values()) * factor
    for name, value in wanted.items():
        np.testing.assert_allclose(
            found[name], factor * value, rtol=1e-6, atol=1e-7 * scale, err_msg=name
        )


@pytest.mark.parametrize("scope", ["unit", "parameter", "layer", "model"])
@pytest.mark.parametrize("family", ["weighting", "mixing"])
@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_weighting(case, family, scope):
    if family == "weighting" and scope == "unit" and case.name in ("prelu", "prelu by channel"):
        pytest.skip("the geometric median of numbers is a median: not unique for the oracle")
    check(case, family, scope, "mean")


@pytest.mark.parametrize("family", ["coordinate-wise", "moments"])
@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_coordinate_wise(case, family):
    check(case, family, "layer", "mean")


SUMS = [case for case in CASES if case.name in ("linear", "conv1d", "embedding", "layer_norm")]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("scope", ["unit", "parameter", "layer", "model"])
@pytest.mark.parametrize("case", SUMS, ids=lambda case: case.name)
def test_sum_of_losses(case, family, scope):
    if family == "plain callable" and scope == "unit":
        pytest.skip("a plain callable sees no replicas")
    if family == "weighting" and scope == "unit" and case.name == "layer_norm":
        pytest.skip("the geometric median of numbers is a median: not unique for the oracle")
    if case.name != "linear" and family in ("coordinate-wise", "moments") and scope != "layer":
        pytest.skip("the same in every scope")
    check(case, family, scope, "sum")


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("scope", ["unit", "layer", "model"])
@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_mean_is_stock(case, scope, reduction):
    layer, x = case.layer(), case.batch()
    stock = case.layer()
    x, z = (x, x) if case.n_ids else (x.requires_grad_(), x.detach().clone().requires_grad_())
    chainrob.torch.robustify(layer, chainrob.Mean(), scope=scope, loss_reduction=reduction)
    for one, values in ((layer, x), (stock, z)):
        loss = losses(one(values))
        (loss.mean() if reduction == "mean" else loss.sum()).backward()
    for name, value in gradients(stock).items():
        np.testing.assert_allclose(gradients(layer)[name], value, rtol=1e-10, atol=1e-13)
    if not case.n_ids:
        np.testing.assert_allclose(x.grad, z.grad, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_without_robustifier_bit_for_bit(case):
    layer, x = case.layer(torch.float32), case.batch(torch.float32)
    stock = case.layer(torch.float32)
    chainrob.torch.robustify(layer, None)
    for one in (layer, stock):
        losses(one(x)).mean().backward()
    for name, value in gradients(stock).items():
        assert (gradients(layer)[name] == value).all()


def test_float32_keeps_its_dtype():
    layer = chainrob.torch.robustify(CASES[0].layer(torch.float32), chainrob.SoftTruncation())
    losses(layer(CASES[0].batch(torch.float32))).mean().backward()
    assert layer.weight.grad.dtype == torch.float32


def test_empty_batch_has_zero_gradients():
    layer = chainrob.torch.robustify(CASES[0].layer(), chainrob.GeometricMedian(), scope="model")
    layer(CASES[0].batch()[:0]).sum().backward()
    assert not layer.weight.grad.any()


@pytest.mark.parametrize("scope", ["layer", "unit", "model"])
@pytest.mark.parametrize("family", [chainrob.GeometricMedian(), chainrob.SoftTruncation()])
def test_sequences_without_positions_have_zero_gradients(scope, family):
    layer = chainrob.torch.robustify(torch.nn.Linear(4, 3), family, scope=scope)
    x = torch.randn(5, 0, 4, requires_grad=True)
    layer(x).sum().backward()
    assert x.grad.shape == x.shape
    for p in layer.parameters():
        assert torch.equal(p.grad, torch.zeros_like(p))
    if scope != "model" and family == chainrob.SoftTruncation():
        (gradient,) = torch.autograd.grad(layer(x).sum(), layer.weight, create_graph=True)
        assert torch.autograd.grad(gradient.sum(), x, allow_unused=True)[0].shape == x.shape
