"""Robust layers under ``torch.compile``: no graph break, and the numbers of eager programs."""

import copy

import numpy as np
import pytest
import torch
import torch.utils.checkpoint
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

import chainrob
import chainrob.torch as ct
from chainrob.torch import compiled_layers
from tests.torch.cases import CASES, losses

pytestmark = [
    pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel"),
    # Dynamo asks every tensor that it meets for .grad.
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf"),
]

SCOPES = ["layer", "model"]


@pytest.fixture(autouse=True)
def _forget():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def mlp(robustifier, scope, dtype=torch.float64):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.LayerNorm(4), nn.Linear(4, 2)).to(dtype)
    return ct.robustify(net, robustifier, scope=scope)


def compiled(net, backend="aot_eager"):
    """The module as one graph, with the operators' own derivatives traced too, or as they are
    (``"eager"``, which costs less).
    """
    return torch.compile(net, backend=backend, fullgraph=True)


def batch(n=6, seed=0):
    x = torch.randn(n, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    x[0] *= 20
    return x


def gradients(net, forward, x):
    net.zero_grad()
    forward(x).square().mean().backward()
    return [p.grad.clone() for p in net.parameters()]


def check(found, wanted):
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("scope", ["unit", *SCOPES])
def test_one_graph_with_the_numbers_of_eager(scope):
    net = mlp(chainrob.GeometricMedian(), scope)
    wanted = gradients(net, net, batch())
    forward = compiled(net)  # with fullgraph=True a graph break is an error
    for _ in range(2):
        check(gradients(net, forward, batch()), wanted)
    x, z = batch().requires_grad_(), batch().requires_grad_()
    forward(x).sum().backward()
    net(z).sum().backward()
    torch.testing.assert_close(x.grad, z.grad)


LAYERS = [(case, "layer") for case in CASES]
LAYERS += [(case, "model") for case in CASES if case.name in ("conv2d", "embedding", "rms_norm")]


@pytest.mark.parametrize(("case", "scope"), LAYERS, ids=lambda one: getattr(one, "name", one))
def test_every_layer(case, scope):
    layer, x = case.layer(), case.batch()
    ct.robustify(layer, chainrob.GeometricMedian(), scope=scope)
    losses(layer(x)).mean().backward()
    wanted = [p.grad.clone() for p in layer.parameters()]
    layer.zero_grad()
    losses(compiled(layer)(x)).mean().backward()
    check([p.grad for p in layer.parameters()], wanted)


@pytest.mark.parametrize(
    ("robustifier", "scope"),
    [
        (chainrob.AdaptiveMean(), "layer"),
        (chainrob.TrimmedMean(0.2), "model"),
        (chainrob.ClipNorm(0.1) >> chainrob.Mean(), "model"),
        (lambda rows: np.median(rows, axis=0), "layer"),
    ],
    ids=["adaptive", "trimmed", "clipped", "callable"],
)
def test_a_training_with_batches_of_several_sizes(robustifier, scope):
    eager, net = mlp(robustifier, scope), mlp(robustifier, scope)
    counter = CompileCounterWithBackend("aot_eager")
    forward = torch.compile(net, backend=counter, fullgraph=True, dynamic=True)
    for one, run in ((eager, eager), (net, forward)):
        optimizer = torch.optim.Adam(one.parameters(), 0.01)
        for step, n in enumerate([6, 9, 5, 6, 11]):
            optimizer.zero_grad()
            run(batch(n, step)).square().mean().backward()
            optimizer.step()
    check(list(net.parameters()), list(eager.parameters()))
    assert counter.frame_count <= 2  # as often as the stock network: once more, when .grad is there


@pytest.mark.parametrize("scope", SCOPES)
def test_watched_while_compiled(scope):
    answers = []
    for compiling in (False, True):
        net = mlp(chainrob.GeometricMedian(), scope)
        forward = compiled(net) if compiling else net
        with ct.Suspects(net, 12) as suspects, ct.gram(net) as gram:
            for start in (0, 6):
                suspects.next(np.arange(start, start + 6))
                gradients(net, forward, batch(6, start))
        answers.append((suspects.weights(), gram.total.numpy()))
    for found, wanted in zip(*answers, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-9)


class Repeated(nn.Module):
    """A layer that is called twice with one input, and a weight that two layers share."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3, bias=False)
        self.second.weight = self.first.weight
        self.double()

    def forward(self, x):
        return self.second(self.first(x) + self.first(x))


@pytest.mark.parametrize("scope", SCOPES)
def test_equal_calls_are_not_taken_for_one(scope):
    net = ct.robustify(Repeated(), chainrob.GeometricMedian(), scope=scope)
    check(gradients(net, compiled(net), batch()), gradients(net, net, batch()))


@pytest.mark.parametrize("scope", SCOPES)
def test_parameters_and_settings_may_change(scope):
    net = mlp(chainrob.GeometricMedian(), scope)
    forward = compiled(net, "eager")
    gradients(net, forward, batch())
    net[0].bias.requires_grad_(False)
    net.zero_grad()
    forward(batch()).square().mean().backward()
    assert net[0].bias.grad is None
    net[0].bias.requires_grad_(True)
    net[3].weight = nn.Parameter(2 * net[3].weight.detach())
    check(gradients(net, forward, batch()), gradients(net, net, batch()))
    ct.robustify(net, chainrob.TrimmedMean(0.2), scope=scope)
    check(gradients(net, forward, batch()), gradients(net, net, batch()))
    with torch.no_grad():
        assert forward(batch()).grad_fn is None
    ct.robustify(net, None)
    check(gradients(net, forward, batch()), gradients(net, net, batch()))


def test_layers_that_are_compiled_one_by_one_may_be_unfrozen():
    nets = []
    for _ in range(2):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
        nets.append(ct.robustify(net, chainrob.GeometricMedian(), scope="model"))
    for layer in (nets[0][0], nets[0][2]):
        layer.compile(backend="eager")
    for trained in (False, True, False):
        for net in nets:
            net[2].weight.requires_grad_(trained)
            net.zero_grad()
            net(batch()).square().mean().backward()
        assert (nets[0][2].weight.grad is not None) == trained
        for one, other in zip(*[net.parameters() for net in nets], strict=True):
            assert not one.requires_grad or torch.allclose(one.grad, other.grad, rtol=1e-12)


def test_a_copy_is_another_layer():
    net = mlp(chainrob.GeometricMedian(), "model")
    wanted = gradients(net, net, batch())
    other = copy.deepcopy(net)
    net.zero_grad()
    check(gradients(other, compiled(other, "eager"), batch()), wanted)
    assert net[0].weight.grad is None


@pytest.mark.parametrize("scope", SCOPES)
def test_rows_that_belong_to_samples(scope):
    index = np.array([0, 0, 1, 2, 2, 3])
    answers = []
    for compiling in (False, True):
        net = mlp(chainrob.GeometricMedian(), scope)
        forward = compiled(net, "eager") if compiling else net
        gradients(net, forward, batch())  # traced outside
        with chainrob.samples(index):
            loss = forward(batch()).square().sum() / 4
        net.zero_grad()
        loss.backward()
        answers.append([p.grad for p in net.parameters()])
    check(*answers)


@pytest.mark.parametrize("scope", SCOPES)
def test_accumulated_samples(scope):
    net = mlp(chainrob.GeometricMedian(), scope)
    wanted = gradients(net, net, batch())
    forward = compiled(net)
    net.zero_grad()
    with ct.accumulate_samples(net):
        for part in batch().split(3):
            (forward(part).square().mean() / 2).backward()
    check([p.grad for p in net.parameters()], wanted)


@pytest.mark.parametrize("scope", SCOPES)
def test_autocast(scope):
    net = mlp(chainrob.GeometricMedian(), scope, torch.float32)
    x = batch().float()

    def step(forward):
        net.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            y = forward(x)
        assert y.dtype == torch.bfloat16
        y.float().square().mean().backward()
        return [p.grad.clone() for p in net.parameters()]

    check(step(compiled(net)), step(net))


def test_checkpoints_without_reentrance():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = nn.Linear(3, 4), nn.Linear(4, 2)
            self.double()

        def forward(self, x):
            h = torch.utils.checkpoint.checkpoint(self.body, x, use_reentrant=False)
            return self.head(h.tanh())

    net = ct.robustify(Net(), chainrob.GeometricMedian(), scope="model")
    check(gradients(net, compiled(net), batch()), gradients(net, net, batch()))


def test_attention_and_cells():
    torch.manual_seed(0)
    net = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True).double()
    ct.robustify(net, chainrob.GeometricMedian())
    x = torch.randn(5, 3, 4, dtype=torch.float64)
    check(gradients(net, compiled(net), x), gradients(net, net, x))
    cell = ct.robustify(nn.GRUCell(3, 4).double(), chainrob.GeometricMedian(), scope="model")
    check(gradients(cell, compiled(cell), batch()), gradients(cell, cell, batch()))


def test_a_kind_of_ones_own_breaks_the_graph_once():
    kind = ct.layers.layer_kinds.linear()

    class Own(ct.RobustModule, nn.Linear):
        def forward(self, input):
            return self.run(kind, input, self.weight, self.bias)

    net = Own(3, 2, robustifier=chainrob.GeometricMedian()).double()
    assert torch._dynamo.explain(net)(batch()).graph_break_count <= 1
    forward = torch.compile(net, backend="aot_eager")
    check(gradients(net, forward, batch()), gradients(net, net, batch()))


def test_functions_break_the_graph_once():
    W = torch.ones(2, 3, dtype=torch.float64, requires_grad=True)

    @torch.compile(backend="aot_eager")
    def forward(x):
        return ct.functional.linear(x * 2, W, robustifier=chainrob.CoordinateMedian()) + 1

    forward(batch()).sum(dim=1).mean().backward()
    np.testing.assert_allclose(W.grad[0], np.median(2 * batch().numpy(), axis=0))


class TestRefusals:
    def test_an_input_without_a_batch(self):
        net = ct.robustify(nn.Linear(3, 2), chainrob.GeometricMedian())
        with pytest.raises(ValueError, match="needs a batch"):
            compiled(net)(torch.ones(3))

    def test_all_rows_bad(self):
        net = mlp(chainrob.GeometricMedian(nonfinite="raise"), "layer")
        x = batch()
        x[1] = torch.nan
        with pytest.raises(chainrob.robustifiers.NonFiniteGradientError):
            gradients(net, compiled(net), x)

    def test_double_backward(self):
        net = mlp(chainrob.GeometricMedian(), "layer")
        for backend in ("aot_eager", "eager"):
            y = torch.compile(net, backend=backend)(batch()).square().mean()
            (gradient,) = torch.autograd.grad(y, net[0].weight, create_graph=True)
            with pytest.raises(RuntimeError, match=r"double backward|no autograd formula"):
                gradient.sum().backward()

    def test_reentrant_checkpoints(self):
        body = mlp(chainrob.GeometricMedian(), "model")
        forward = torch.compile(body[0], backend="aot_eager", fullgraph=True)
        y = torch.utils.checkpoint.checkpoint(forward, batch().requires_grad_(), use_reentrant=True)
        with pytest.raises(RuntimeError, match="reentrant checkpointing"):
            body[3](y).square().mean().backward()

    def test_a_forward_pass_that_is_too_long_ago(self, monkeypatch):
        monkeypatch.setattr(compiled_layers, "KEPT", 2)
        net = ct.robustify(nn.Linear(3, 2).double(), chainrob.GeometricMedian())
        forward, answers = compiled(net), []
        for _ in range(3):
            with chainrob.samples([0, 0, 1, 1, 2, 2]):
                answers.append(forward(batch()).sum())
        answers[-1].backward()
        with pytest.raises(RuntimeError, match="must come before 2 more forward passes"):
            answers[0].backward()

    def test_transforms(self):
        net = ct.robustify(nn.Linear(3, 2).double(), chainrob.GeometricMedian())
        parameters = dict(net.named_parameters())

        @torch.compile(backend="aot_eager")
        def slope(values):
            return torch.func.grad(lambda v: torch.func.functional_call(net, v, (batch(),)).sum())(
                values
            )

        with pytest.raises(Exception, match=r"cannot run under torch\.func"):
            slope(parameters)


@pytest.mark.parametrize("scope", SCOPES)
def test_exact_gradients(scope):
    net = mlp(chainrob.GeometricMedian(), scope)
    found = []
    for forward in (net, compiled(net)):
        net.zero_grad()
        loss = forward(batch()).square().mean()
        with ct.exact_backward():
            loss.backward()
        found.append([p.grad.clone() for p in net.parameters()])
    check(*found)
    stock = gradients(ct.plain(net), net, batch())
    check(found[1], stock)


class Overflow(torch.autograd.Function):
    """The identity; on the way back nothing remains finite in float16."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gy):
        return gy * 1e9


@pytest.mark.parametrize("overflow", [False, True])
@pytest.mark.parametrize("whole", [False, True], ids=["one layer", "all layers"])
def test_an_overflow_reaches_the_scaler(whole, overflow):
    torch.manual_seed(0)
    first, last = nn.Linear(3, 4), nn.Linear(4, 2)
    net = ct.robustify(nn.ModuleList([first, last]), chainrob.GeometricMedian(), scope="model")
    for layer in net:
        layer.compile(backend="aot_eager")
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    ct.use_grad_scaler(net, scaler)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    before = last.weight.detach().clone()
    with torch.autocast("cpu", torch.float16):
        hidden = first(torch.randn(8, 3)).tanh()
        if overflow and not whole:
            hidden = Overflow.apply(hidden)
        y = last(hidden)
        if overflow and whole:
            y = Overflow.apply(y)
    scaler.scale(y.float().square().mean()).backward()
    scaler.step(optimizer)
    scaler.update()
    assert torch.equal(before, last.weight) == overflow
    assert scaler.get_scale() == (512.0 if overflow else 1024.0)


@pytest.mark.parametrize("scope", SCOPES)
def test_blocks_that_are_alike_share_a_graph(scope):
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(3, 3, dtype=torch.float64)

        def forward(self, x):
            return x + self.inner(x).tanh()

    torch.manual_seed(0)
    net = ct.robustify(
        nn.Sequential(*[Block() for _ in range(12)]), chainrob.GeometricMedian(), scope=scope
    )
    wanted = gradients(net, net, batch())
    counter = CompileCounterWithBackend("eager")
    for block in net:
        block.compile(backend=counter, fullgraph=True)
    check(gradients(net, net, batch()), wanted)
    assert counter.frame_count <= 2  # the first block's input needs no gradient
