"""Double backward by ``gradcheck`` and ``gradgradcheck``, or a clear error."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

import chainrob
import chainrob.torch as ct
from tests.torch.cases import CASES, losses

ROBUSTIFIERS = [
    chainrob.Mean(),
    chainrob.SoftTruncation(),
    chainrob.GeometricMedian(tolerance=1e-13, max_iterations=2000),
    chainrob.TrimmedMean(0.2),
    chainrob.ClipNorm(0.05) >> chainrob.Mean(),
]
LAYERS = [one for one in CASES if one.name not in ("conv2d same", "conv2d reflect", "conv3d")]


def robust_gradient(case, robustifier, scope="layer"):
    """The layer, its input, and the robust gradient of its first parameter as a function of it."""
    layer = ct.robustify(case.layer(), robustifier, scope=scope)
    x = case.batch(n=4) / 3

    def function(z):
        loss = losses(layer(x if case.n_ids else z)).mean()
        return torch.autograd.grad(loss, list(layer.parameters()), create_graph=True)

    return layer, x, function


@pytest.mark.parametrize("robustifier", ROBUSTIFIERS, ids=repr)
@pytest.mark.parametrize("case", LAYERS, ids=[one.name for one in LAYERS])
def test_gradient_of_the_robust_gradient(case, robustifier):
    if case.n_ids:
        pytest.skip("ids have no derivative; see test_through_gy")
    layer, x, function = robust_gradient(case, robustifier)
    flat = x[:3].clone().requires_grad_()
    try:
        function(flat)[0].sum().backward()
    except chainrob.NotDifferentiableError:
        # For these the Chainer front has none either.
        assert isinstance(robustifier, type(ROBUSTIFIERS[-1]))
        return
    layer.requires_grad_(True)
    assert gradcheck(function, (flat.detach().requires_grad_(),), fast_mode=True, eps=1e-6)


@pytest.mark.parametrize("robustifier", ROBUSTIFIERS[:3], ids=repr)
def test_through_gy(robustifier):
    case = next(one for one in CASES if one.n_ids)
    layer = ct.robustify(case.layer(), robustifier)
    ids = case.batch(n=5)
    y = layer(ids)

    def function(gy):
        return torch.autograd.grad(y, [layer.weight], gy, create_graph=True, retain_graph=True)

    gy = torch.randn(y.shape, dtype=torch.float64, requires_grad=True)
    assert gradcheck(function, (gy,), fast_mode=True)


@pytest.mark.parametrize("case", LAYERS, ids=[one.name for one in LAYERS])
def test_second_derivative_of_the_input_gradient(case):
    if case.n_ids:
        pytest.skip("ids have no derivative")
    layer = ct.robustify(case.layer(), chainrob.Mean())
    x = (case.batch(n=2) / 3).requires_grad_()
    assert gradcheck(layer, (x,), fast_mode=True)
    assert gradgradcheck(layer, (x,), fast_mode=True)


def test_gradgradcheck_of_parameters():
    # With the mean the layer is the stock function of all its inputs.
    def function(x, weight, bias):
        return ct.functional.linear(x, weight, bias, robustifier=chainrob.Mean())

    inputs = [
        torch.randn(*shape, dtype=torch.float64, requires_grad=True)
        for shape in ((4, 3), (2, 3), (2,))
    ]
    assert gradcheck(function, inputs)
    assert gradgradcheck(function, inputs)


def test_gradient_penalty_is_that_of_the_stock_layer():
    found = []
    for robustifier in (None, chainrob.Mean()):
        layer = ct.robustify(CASES[0].layer(), robustifier)
        x = CASES[0].batch().requires_grad_()
        loss = losses(layer(x)).mean()
        (gx,) = torch.autograd.grad(loss, [x], create_graph=True)
        (loss + gx.square().sum()).backward()
        found.append(layer.weight.grad)
    torch.testing.assert_close(*found)


def test_exact_backward_is_the_derivative():
    layer = ct.robustify(CASES[0].layer(), chainrob.SoftTruncation())
    x = CASES[0].batch()
    weight = layer.weight.detach().clone()

    def gradient(value):
        with torch.no_grad():
            layer.weight.copy_(value)
        loss = losses(layer(x)).mean()
        return torch.autograd.grad(loss, [layer.weight], create_graph=True)[0]

    g = gradient(weight)
    with ct.exact_backward():
        (found,) = torch.autograd.grad(g.sum(), [layer.weight])
    step = torch.zeros_like(weight)
    step[0, 1] = 1e-5
    difference = (gradient(weight + step) - gradient(weight - step)).detach().sum() / 2e-5
    assert float(found[0, 1]) == pytest.approx(float(difference), rel=1e-5)


def test_third_derivative_is_refused():
    layer = ct.robustify(CASES[0].layer(), chainrob.SoftTruncation())
    x = CASES[0].batch().requires_grad_()
    (g,) = torch.autograd.grad(losses(layer(x)).mean(), [layer.weight], create_graph=True)
    (gg,) = torch.autograd.grad(g.square().sum(), [x], create_graph=True)
    with pytest.raises(chainrob.NotDifferentiableError, match="twice, not three times"):
        gg.sum().backward()


def test_no_derivative_of_a_plain_callable():
    layer = ct.robustify(CASES[0].layer(), lambda rows: rows.mean(axis=0))
    x = CASES[0].batch().requires_grad_()
    (g,) = torch.autograd.grad(losses(layer(x)).mean(), [layer.weight], create_graph=True)
    with pytest.raises(chainrob.NotDifferentiableError, match="plain callable"):
        g.sum().backward()
