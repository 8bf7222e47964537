"""Modules are converted in place, and everything around them stays."""

import copy
import pickle
import warnings

import numpy as np
import pytest
import torch
from torch import nn

import chainrob
import chainrob.torch as ct

X = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))


def gradient(net, x=X):
    net.zero_grad()
    net(x).square().mean().backward()
    return net[0].weight.grad.clone()


def test_identity_state_dict_hooks_and_optimizer_stay():
    net = network()
    before, parameters = net[0], list(net.parameters())
    optimizer = torch.optim.Adam(net.parameters())
    gradient(net)
    optimizer.step()
    seen = []
    net[0].register_forward_hook(lambda *_: seen.append("forward"))
    net[0].weight.register_hook(lambda g: seen.append("gradient"))
    state = {name: value.clone() for name, value in net.state_dict().items()}
    ct.robustify(net, chainrob.GeometricMedian(), scope="model")
    assert net[0] is before
    assert isinstance(net[0], nn.Linear)
    assert all(a is b for a, b in zip(parameters, net.parameters(), strict=True))
    assert net.state_dict().keys() == state.keys()
    gradient(net)
    assert seen == ["forward", "gradient"]
    optimizer.step()
    network().load_state_dict(net.state_dict())
    ct.plain(net)
    assert type(net[0]) is nn.Linear
    assert set(vars(net[0])) == set(vars(network()[0]))


def test_the_default_robustifier():
    net = ct.robustify(network())
    assert {net[0].robustifier, net[2].robustifier} == {chainrob.AdaptiveMean()}
    with_name = ct.robustify(network(), chainrob.AdaptiveMean())
    torch.testing.assert_close(gradient(net), gradient(with_name), rtol=0, atol=0)


@pytest.mark.parametrize("scope", ["layer", "model"])
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_copies_are_robust_and_apart(scope, copied):
    net = ct.robustify(network(), chainrob.GeometricMedian(), scope=scope)
    wanted = gradient(net)
    other = copied(net)
    with torch.no_grad():
        net[0].weight.mul_(3)
    assert torch.equal(gradient(other), wanted)
    if scope == "model":
        assert other[0].group is other[2].group is not net[0].group


def test_layers_by_name_number_and_predicate():
    for layers in ("2", [2], -1, lambda name, one: name == "2", ["2"]):
        net = network()
        if layers == [2]:
            with pytest.raises(KeyError, match="numbers below 2, found 2"):
                ct.robustify(net, chainrob.Mean(), layers=layers)
            continue
        ct.robustify(net, chainrob.Mean(), layers=layers)
        assert type(net[0]) is nn.Linear
        assert type(net[2]) is ct.Linear
    with pytest.raises(KeyError, match=r"found 'head'; there are \['0', '2'\]"):
        ct.robustify(network(), chainrob.Mean(), layers="head")
    with pytest.raises(ValueError, match="at least one module"):
        ct.robustify(network(), chainrob.Mean(), layers=lambda name, one: False)


class Own(nn.Linear):
    """Whose forward may do anything."""


class Strange(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.ones(4))


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (nn.BatchNorm1d(4), "mixes the samples"),
        (nn.LSTM(4, 4), "LSTMCell, called once a step"),
        (nn.LSTMCell(4, 4), "scope='model'"),
        (Own(4, 4), "derive it from chainrob.torch.Linear"),
        (Strange(), "its class is not known"),
        (nn.Embedding(3, 4, sparse=True), "sparse=True"),
        (nn.Embedding(3, 4, max_norm=1.0), "max_norm=1.0"),
        (nn.LazyLinear(4), "run one batch through"),
        (nn.InstanceNorm1d(4, affine=True, track_running_stats=True), "track_running_stats"),
        (nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)), "parametrization"),
        (nn.MultiheadAttention(4, 2, kdim=3, batch_first=True), "kdim=3"),
        (nn.Linear(2, 2, dtype=torch.complex64), "complex"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")
def test_strict_names_what_has_no_robust_form(module, reason):
    net = nn.Sequential(nn.Linear(4, 4), module)
    with pytest.raises(ValueError, match=r"modules have no robust form: '1.*' \(.*\)") as error:
        ct.robustify(net, chainrob.Mean())
    assert reason in str(error.value)
    assert type(net[0]) is nn.Linear  # nothing was converted
    with pytest.warns(ct.UnsupportedModuleWarning, match="1 of 2|2 of 3"):
        ct.robustify(net, chainrob.Mean(), strict=False)
    assert type(net[0]) is ct.Linear


def test_bad_arguments():
    with pytest.raises(TypeError, match=r"must be a torch.nn.Module, found int"):
        ct.robustify(3, chainrob.Mean())
    with pytest.raises(TypeError, match="robustifier must be"):
        ct.robustify(network(), 3)
    with pytest.raises(ValueError, match="scope must be one of"):
        ct.robustify(network(), chainrob.Mean(), scope="all")
    with pytest.raises(ValueError, match="sample_axis must be a number from 0 on, found -1"):
        ct.robustify(network(), chainrob.Mean(), sample_axis=-1)
    with pytest.raises(RuntimeError, match="DataParallel"):
        ct.robustify(nn.DataParallel(network()), chainrob.Mean())


@pytest.mark.parametrize(
    ("layer", "x"),
    [
        (nn.Linear(4, 3), torch.ones(4)),
        (nn.Conv2d(1, 1, 2), torch.ones(1, 4, 4)),
        (nn.ConvTranspose1d(1, 1, 2), torch.ones(1, 4)),
        (nn.LayerNorm(4), torch.ones(4)),
        (nn.Embedding(3, 2), torch.tensor(1)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_input_without_a_batch(layer, x):
    layer = ct.robustify(layer, chainrob.Mean())
    with pytest.raises(ValueError, match=r"needs a batch.*found shape"):
        layer(x)
    with torch.no_grad():
        layer(x)  # nothing is estimated


def test_drop_ins_take_the_stock_arguments():
    layer = ct.Linear(4, 3, bias=False, dtype=torch.float64, robustifier=chainrob.TrimmedMean(0.1))
    assert layer.bias is None
    assert "robustifier=TrimmedMean(fraction=0.1)" in repr(layer)
    layer = ct.Conv2d(1, 2, kernel_size=3, padding=1, robustifier=chainrob.Mean(), scope="unit")
    layer(torch.randn(2, 1, 4, 4)).mean().backward()
    with pytest.raises(ValueError, match="no sparse=True"):
        ct.Embedding(3, 2, sparse=True, robustifier=chainrob.Mean())(torch.tensor([1]))


def test_own_module_with_a_robust_form():
    class Doubled(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    class RobustDoubled(ct.RobustModule, Doubled):
        stock = Doubled

        def forward(self, x):
            options = {"robustifier": self.robustifier, "scope": self.scope}
            return 2 * ct.functional.linear(x, self.weight, self.bias, **options)

    torch.manual_seed(0)
    net, stock = Doubled(4, 3), Doubled(4, 3)
    stock.load_state_dict(net.state_dict())
    ct.robustify(net, chainrob.Mean())
    assert type(net) is RobustDoubled
    for one in (net, stock):
        one(X).square().mean().backward()
    torch.testing.assert_close(net.weight.grad, stock.weight.grad)
    assert type(ct.plain(net)) is Doubled


def test_functorch_is_refused():
    net = ct.robustify(network(), chainrob.Mean())
    parameters = dict(net.named_parameters())

    def loss(values):
        return torch.func.functional_call(net, values, (X,)).square().mean()

    with pytest.raises(RuntimeError, match=r"linear '0'.*torch.func"):
        torch.func.grad(loss)(parameters)


@pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")  # of PyTorch itself
def test_forward_mode_and_batched_derivatives_are_refused():
    net = ct.robustify(network(), chainrob.Mean())
    with (
        torch.autograd.forward_ad.dual_level(),
        pytest.raises(RuntimeError, match="linear '0': a robust layer has no forward-mode"),
    ):
        net(torch.autograd.forward_ad.make_dual(X, X))
    with pytest.raises(RuntimeError, match=r"linear '2': .* leave is_grads_batched"):
        torch.autograd.functional.jacobian(net, X, vectorize=True)


def test_other_settings_on_a_second_call():
    net = ct.robustify(network(), chainrob.GeometricMedian(), scope="model")
    ct.robustify(net, chainrob.Mean(), scope="layer")
    assert net[0].group is None
    stock = network()
    torch.testing.assert_close(gradient(net), gradient(stock))
    ct.robustify(net, chainrob.Mean(), layers="0", scope="model")
    ct.robustify(net, chainrob.Mean(), layers="2", scope="model")
    assert net[0].group is net[2].group
    ct.robustify(net, chainrob.Krum(1), layers="2", scope="model")
    with pytest.raises(ValueError, match="one robustifier for all layers"):
        gradient(net)


def test_sampling_is_left_alone_without_gradients():
    net = ct.robustify(network(), chainrob.GeometricMedian(), scope="model")
    net.requires_grad_(False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not net(X).requires_grad
    assert np.isfinite(net(X).numpy()).all()


def test_layers_may_be_frozen_and_unfrozen_between_steps():
    net = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 2))
    ct.robustify(net, chainrob.GeometricMedian(), scope="model")
    for trained in ((0, 2), (2, 4), (0, 2, 4), (4,), (0, 4)):
        net.zero_grad()
        for i in (0, 2, 4):
            net[i].requires_grad_(i in trained)
        net(torch.ones(4, 3)).square().mean().backward()
        assert [i for i in (0, 2, 4) if net[i].weight.grad is not None] == list(trained)


@pytest.mark.parametrize("x", [np.ones((4, 3), np.float32), [[1.0, 2.0, 3.0]], None])
def test_an_input_that_is_no_tensor(x):
    net = ct.robustify(nn.Sequential(nn.Linear(3, 2)), chainrob.GeometricMedian())
    message = f"'0': input must be a torch.Tensor, found {type(x).__name__}$"
    with pytest.raises(TypeError, match=message):
        net(x)


def test_tracers_are_told_to_take_the_plain_model():
    net = ct.robustify(nn.Sequential(nn.Linear(3, 2)), chainrob.GeometricMedian())
    x = torch.ones(4, 3)
    with pytest.raises(RuntimeError, match=r"'0'.*found Proxy; trace chainrob\.torch\.plain"):
        torch.fx.symbolic_trace(net)
    plain = ct.plain(copy.deepcopy(net))
    torch.testing.assert_close(torch.fx.symbolic_trace(plain)(x), net(x))
    torch.testing.assert_close(torch.export.export(plain, (x,)).module()(x), net(x))


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_jit_traces_without_gradients_only():
    net = ct.robustify(nn.Sequential(nn.Linear(3, 2)), chainrob.GeometricMedian())
    x = torch.ones(4, 3)
    with pytest.raises(RuntimeError, match=r"found torch\.jit\.trace; trace chainrob"):
        torch.jit.trace(net, x)
    with torch.no_grad():
        traced = torch.jit.trace(net, x)
    torch.testing.assert_close(traced(x), net(x))
