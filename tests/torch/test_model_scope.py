"""One estimate for the whole model, complete when ``backward()`` returns."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import torch.utils.checkpoint
from torch import nn

import chainrob
import chainrob.torch as ct
from tests.oracles import estimators
from tests.torch.cases import apart, joined

MEDIAN = chainrob.GeometricMedian(tolerance=1e-12, max_iterations=1000)


def oracle(rows):
    return estimators.geometric_median(rows, steps=3000)


def rows_of(net, x, loss):
    """{name: (N, *shape)}: one backward pass of the stock net a sample."""
    found = {name: [] for name, _ in net.named_parameters()}
    for n in range(len(x)):
        net.zero_grad()
        loss(net, x[n : n + 1]).backward()
        for name, p in net.named_parameters():
            found[name].append(p.grad.numpy().copy())
    return {name: np.stack(rows) for name, rows in found.items()}


def check(make, x, loss, tolerance=1e-7):
    stock, net = make(), make()
    net.load_state_dict(stock.state_dict())
    wanted = apart(oracle(joined(rows_of(stock, x, loss))), dict(_shapes(stock, len(x))))
    ct.robustify(net, MEDIAN, scope="model")
    for _ in range(2):  # the second pass as the first
        net.zero_grad()
        loss(net, x).backward()
        for name, p in net.named_parameters():
            np.testing.assert_allclose(p.grad, wanted[name], rtol=tolerance, atol=tolerance)
    return net, wanted


def _shapes(net, n):
    for name, p in net.named_parameters():
        yield name, np.empty((n, *p.shape))


def squares(net, x):
    return net(x).square().mean()


def batch(*shape):
    x = torch.randn(8, *shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x[0] *= 20
    return x


class Tied(nn.Module):
    """A layer that is called twice, and a weight that two layers share."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4, bias=False)
        self.second.weight = self.first.weight
        self.double()

    def forward(self, x):
        return self.second(self.first(self.first(x).tanh()).tanh())


class Recurrent(nn.Module):
    def __init__(self, cell):
        super().__init__()
        torch.manual_seed(0)
        self.cell = cell(3, 4)
        self.head = nn.Linear(4, 2)
        self.double()

    def forward(self, x):
        state = None
        for step in x.unbind(1):
            state = self.cell(step, state)
        return self.head(state[0] if isinstance(state, tuple) else state)


def test_tied_weights_and_repeated_calls():
    check(Tied, batch(4), squares)


@pytest.mark.parametrize("cell", [nn.RNNCell, nn.LSTMCell, nn.GRUCell])
def test_recurrent_cells(cell):
    net, wanted = check(lambda: Recurrent(cell), batch(5, 3), squares)
    norm = nn.utils.clip_grad_norm_(net.parameters(), 1e9)
    total = np.sqrt(sum((one**2).sum() for one in wanted.values()))
    assert float(norm) == pytest.approx(total, rel=1e-6)


def test_autograd_grad_gives_the_same():
    net, wanted = check(Tied, batch(4), squares)
    net.zero_grad()
    (found,) = torch.autograd.grad(squares(net, batch(4)), [net.first.bias])
    np.testing.assert_allclose(found, wanted["first.bias"], rtol=1e-7, atol=1e-9)
    assert net.first.bias.grad is None


def test_hooks_of_parameters_see_the_estimate():
    net = ct.robustify(Tied(), MEDIAN, scope="model")
    seen = []
    net.first.bias.register_hook(seen.append)
    net.first.bias.register_post_accumulate_grad_hook(lambda p: seen.append(p.grad))
    squares(net, batch(4)).backward()
    assert len(seen) == 2
    assert torch.equal(*seen)


def test_penalties_and_plain_uses_add_up():
    net, wanted = check(Tied, batch(4), squares)
    net.zero_grad()
    (squares(net, batch(4)) + net.first.bias.square().sum()).backward()
    plain = 2 * net.first.bias.detach().numpy()
    np.testing.assert_allclose(net.first.bias.grad, wanted["first.bias"] + plain, rtol=1e-7)


def test_two_forward_passes_before_their_backward_passes():
    net, wanted = check(Tied, batch(4), squares)
    net.zero_grad()
    first, second = squares(net, batch(4)), squares(net, batch(4))
    first.backward()
    np.testing.assert_allclose(net.first.bias.grad, wanted["first.bias"], rtol=1e-7)
    second.backward(retain_graph=True)
    second.backward()
    np.testing.assert_allclose(net.first.bias.grad, 3 * wanted["first.bias"], rtol=1e-7)


def test_frozen_and_unfrozen_parameters():
    net = ct.robustify(Tied(), chainrob.Mean(), scope="model")
    stock = Tied()
    for one in (net, stock):
        squares(one, batch(4))  # a graph that is thrown away
        one.first.bias.requires_grad_(False)
        squares(one, batch(4)).backward()
        assert one.first.bias.grad is None
        one.first.bias.requires_grad_(True)
        squares(one, batch(4)).backward()
    torch.testing.assert_close(net.first.bias.grad, stock.first.bias.grad)
    torch.testing.assert_close(net.first.weight.grad, stock.first.weight.grad)


def test_exchanged_parameters():
    net = ct.robustify(Tied(), chainrob.Mean(), scope="model")
    squares(net, batch(4)).backward()
    net.first.bias = nn.Parameter(torch.ones(4, dtype=torch.float64))
    squares(net, batch(4)).backward()
    stock = Tied()
    stock.first.bias = nn.Parameter(torch.ones(4, dtype=torch.float64))
    squares(stock, batch(4)).backward()
    torch.testing.assert_close(net.first.bias.grad, stock.first.bias.grad)


def test_a_module_that_is_moved_to_another_dtype():
    net, stock = ct.robustify(Tied().float(), chainrob.Mean(), scope="model"), Tied()
    squares(net, batch(4).float()).backward()
    net.double().load_state_dict(stock.state_dict())
    for one in (net, stock):
        one.zero_grad()
        squares(one, batch(4)).backward()
    torch.testing.assert_close(net.first.weight.grad, stock.first.weight.grad, rtol=1e-12, atol=0)


def test_parameters_that_change_within_a_forward_pass_are_refused():
    net = ct.robustify(Tied(), chainrob.Mean(), scope="model")
    net.first.bias.requires_grad_(False)
    h = net.first(batch(4))
    net.first.bias.requires_grad_(True)
    with pytest.raises(RuntimeError, match="between two layers"):
        net.second(net.first(h)).mean().backward()


def test_an_error_in_a_pass_leaves_nothing_behind():
    net, wanted = check(Tied, batch(4), squares)

    def fail(grad):
        raise KeyError("stop")

    net.zero_grad()
    y = net.first(batch(4))
    y.register_hook(fail)
    with pytest.raises(KeyError):
        net.second(y).mean().backward()
    net.zero_grad()
    squares(net, batch(4)).backward()
    np.testing.assert_allclose(net.first.bias.grad, wanted["first.bias"], rtol=1e-7)


def test_different_numbers_of_samples_are_refused():
    net = ct.robustify(
        nn.Sequential(nn.Linear(4, 4), nn.Flatten(0), nn.Unflatten(0, (4, -1)), nn.Linear(8, 2)),
        chainrob.GeometricMedian(),
        scope="model",
    )
    with pytest.raises(
        ValueError, match=r"same samples.*'0.weight': 8.*'3.weight': 4|same samples"
    ):
        net(torch.randn(8, 4)).mean().backward()


def test_second_derivative_is_refused_not_zero():
    net = ct.robustify(Tied(), chainrob.GeometricMedian(), scope="model")
    (g,) = torch.autograd.grad(squares(net, batch(4)), [net.first.weight], create_graph=True)
    with pytest.raises(chainrob.NotDifferentiableError, match="scope='model'"):
        g.square().sum().backward()


def test_checkpointing():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)).double()
    ct.robustify(net, MEDIAN, scope="model")
    squares(net, batch(4)).backward()
    wanted = [p.grad.clone() for p in net.parameters()]

    def run(reentrant):
        net.zero_grad()
        x = batch(4).requires_grad_()
        for layer in net:
            x = torch.utils.checkpoint.checkpoint(layer, x, use_reentrant=reentrant)
        x.square().mean().backward()

    run(False)
    for p, one in zip(net.parameters(), wanted, strict=True):
        torch.testing.assert_close(p.grad, one)
    with pytest.raises(RuntimeError, match="use_reentrant=False"):
        run(True)


def test_weights_that_a_hook_computes_are_refused():
    layer = nn.Linear(4, 4)
    weight = layer.weight
    del layer.weight
    layer.register_forward_pre_hook(lambda one, _: setattr(one, "weight", 2 * weight))
    layer.weight = 2 * weight
    ct.robustify(layer, chainrob.Mean(), scope="model")
    with pytest.raises(RuntimeError, match="leaves of the graph"):
        layer(torch.randn(3, 4))


def test_passes_of_several_threads_are_apart():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    ct.robustify(net, MEDIAN, scope="model")

    def gradients(number):
        return torch.autograd.grad(squares(net, batch(4) * number), list(net.parameters()))

    wanted = [gradients(number) for number in range(1, 5)]
    with ThreadPoolExecutor(4) as threads:
        for _ in range(10):
            for found, one in zip(threads.map(gradients, range(1, 5)), wanted, strict=True):
                torch.testing.assert_close(found, one)


def test_a_pass_inside_another_one_is_refused():
    net = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    ct.robustify(net, MEDIAN, scope="model")
    inner = squares(net, batch(4))

    class Inside(torch.autograd.Function):
        @staticmethod
        def forward(ctx, h):
            return h.clone()

        @staticmethod
        def backward(ctx, gh):
            torch.autograd.grad(inner, list(net.parameters()))
            return gh

    with pytest.raises(RuntimeError, match="another one through the same layers ran inside it"):
        squares(net[2], Inside.apply(net[:2](batch(4)))).backward()
    squares(net, batch(4)).backward()  # and the next one is as ever


def test_the_scale_of_a_normalization_is_no_bias_of_another_layer():
    torch.manual_seed(0)
    make = lambda: nn.Sequential(nn.RMSNorm(4), nn.Linear(4, 3, bias=False)).double()  # noqa: E731
    stock, net = make(), make()
    net.load_state_dict(stock.state_dict())

    def loss(net, x):  # the last sample has a signal far out
        return (net(x).square().mean(dim=1) * (1 + 1e3 * (x[:, 0] == batch(4)[-1, 0]))).mean()

    rows = rows_of(stock, batch(4), loss)
    wanted = apart(chainrob.AdaptiveMean()(joined(rows)), rows)
    ct.robustify(net, scope="model")
    loss(net, batch(4)).backward()
    for name, p in net.named_parameters():
        np.testing.assert_allclose(p.grad, wanted[name], rtol=1e-9, atol=1e-12)
