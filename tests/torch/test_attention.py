"""Attention and Transformers: their projections are layers over positions."""

import numpy as np
import pytest
import torch
from torch import nn

import chainrob
import chainrob.torch as ct
from tests.oracles import estimators
from tests.torch.cases import apart, joined

E, HEADS, N, S = 8, 2, 5, 4


def tensors(*shapes):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in shapes]


def attention(batch_first=True, **options):
    torch.manual_seed(0)
    layer = nn.MultiheadAttention(E, HEADS, batch_first=batch_first, **options).double()
    with torch.no_grad():
        for p in layer.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return layer


MASKS = {
    "none": {},
    "bool mask": {"attn_mask": torch.ones(S, S).triu(1).bool()},
    "causal": {"attn_mask": torch.ones(S, S).triu(1).bool(), "is_causal": True},
    "float mask by head": {"attn_mask": torch.randn(N * HEADS, S, S).double()},
    "padding": {"key_padding_mask": torch.arange(S).expand(N, S) > 2},
    "both": {
        "attn_mask": torch.ones(S, S).triu(2).bool(),
        "key_padding_mask": torch.arange(S).expand(N, S) > 2,
    },
}


@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("masks", MASKS.values(), ids=MASKS)
def test_mean_is_stock(masks, batch_first, need_weights):
    stock, layer = attention(batch_first), attention(batch_first)
    ct.robustify(layer, chainrob.Mean(), sample_axis=None if batch_first else 1)
    (x,) = tensors((N, S, E) if batch_first else (S, N, E))
    answers = []
    for one in (stock, layer):
        y, weights = one(x, x, x, need_weights=need_weights, **masks)
        y.square().mean().backward()
        answers.append((y, weights))
    torch.testing.assert_close(*(y for y, _ in answers))
    if need_weights:
        torch.testing.assert_close(*(weights for _, weights in answers))
    for name, p in stock.named_parameters():
        torch.testing.assert_close(layer.get_parameter(name).grad, p.grad)


@pytest.mark.parametrize("same", ["keys are values", "all differ"])
@pytest.mark.parametrize("batch_first", [True, False])
def test_cross_attention(same, batch_first):
    stock, layer = attention(batch_first), attention(batch_first)
    ct.robustify(layer, chainrob.Mean(), scope="model", sample_axis=0 if batch_first else 1)
    q, k, v = tensors((N, 3, E), (N, S, E), (N, S, E))
    if not batch_first:
        q, k, v = (one.transpose(0, 1) for one in (q, k, v))
    v = k if same == "keys are values" else v
    for one in (stock, layer):
        one(q, k, v, average_attn_weights=False)[0].square().mean().backward()
    for name, p in stock.named_parameters():
        torch.testing.assert_close(layer.get_parameter(name).grad, p.grad)


def test_only_the_output_projection():
    layer = ct.robustify(attention(), chainrob.CoordinateMedian(), layers="out_proj")
    (x,) = tensors((N, S, E))
    x[0] *= 1e3
    layer(x, x, x)[0].mean().backward()
    stock = attention()
    stock(x, x, x)[0].mean().backward()
    torch.testing.assert_close(layer.in_proj_weight.grad, stock.in_proj_weight.grad)
    assert (layer.out_proj.weight.grad - stock.out_proj.weight.grad).abs().max() > 1e-3


def test_errors():
    layer = ct.robustify(attention(), chainrob.Mean())
    (x,) = tensors((S, E))
    with pytest.raises(ValueError, match="query must have 3 axes, found shape"):
        layer(x, x, x)
    with pytest.raises(ValueError, match=r"batch_first=False.*sample_axis=1"):
        ct.robustify(attention(batch_first=False), chainrob.Mean())
    with pytest.raises(ValueError, match="sample_axis must be 1 for"):
        ct.robustify(attention(batch_first=False), chainrob.Mean(), sample_axis=0)


class Classifier(nn.Module):
    """A small Transformer on text: which of two words comes more often?"""

    def __init__(self, batch_first=True, dropout=0.0):
        super().__init__()
        torch.manual_seed(1)
        self.batch_first = batch_first
        self.embed = nn.Embedding(12, E)
        layer = nn.TransformerEncoderLayer(E, HEADS, 16, dropout, batch_first=batch_first)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(E, 2)
        self.double()

    def forward(self, ids):
        h = self.encoder(self.embed(ids if self.batch_first else ids.t()))
        h = self.head(h)
        return h.mean(dim=1 if self.batch_first else 0)


def text(n, seed=0):
    ids = torch.randint(0, 12, (n, 6), generator=torch.Generator().manual_seed(seed))
    return ids, ((ids == 1).sum(1) > (ids == 2).sum(1)).long()


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("scope", ["layer", "model"])
def test_transformer_with_the_mean_is_stock(scope, batch_first):
    ids, t = text(N)
    stock, net = Classifier(batch_first), Classifier(batch_first)
    ct.robustify(net, chainrob.Mean(), scope=scope, sample_axis=0 if batch_first else 1)
    for one in (stock, net):
        nn.functional.cross_entropy(one(ids), t).backward()
    for name, p in stock.named_parameters():
        torch.testing.assert_close(net.get_parameter(name).grad, p.grad, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("batch_first", [True, False])
def test_transformer_against_rows(batch_first):
    ids, t = text(N)
    stock, net = Classifier(batch_first), Classifier(batch_first)
    rows = {name: [] for name, _ in stock.named_parameters()}
    for n in range(N):
        stock.zero_grad()
        nn.functional.cross_entropy(stock(ids[n : n + 1]), t[n : n + 1]).backward()
        for name, p in stock.named_parameters():
            rows[name].append(p.grad.numpy().copy())
    rows = {name: np.stack(one) for name, one in rows.items()}
    wanted = apart(estimators.geometric_median(joined(rows), steps=2000), rows)
    median = chainrob.GeometricMedian(tolerance=1e-12, max_iterations=1000)
    ct.robustify(net, median, scope="model", sample_axis=0 if batch_first else 1)
    nn.functional.cross_entropy(net(ids), t).backward()
    for name, value in wanted.items():
        np.testing.assert_allclose(net.get_parameter(name).grad, value, rtol=1e-6, atol=1e-8)


def test_transformer_learns_in_spite_of_bad_samples():
    ids, t = text(96)
    hostile = torch.ones(96, dtype=torch.float64)
    hostile[::48] = -1e6  # samples whose loss pulls the other way, with all their might
    losses = []
    for robustifier in (chainrob.Mean(), chainrob.MultiKrum(8)):
        net = ct.robustify(Classifier(), robustifier, scope="model")
        optimizer = torch.optim.Adam(net.parameters(), 5e-3)
        for _ in range(20):
            optimizer.zero_grad()
            each = nn.functional.cross_entropy(net(ids), t, reduction="none")
            (each * hostile).mean().backward()
            optimizer.step()
        with torch.no_grad():
            losses.append(float(nn.functional.cross_entropy(net(ids), t)))
    assert losses[1] < 0.6 < 1.0 < losses[0]


def test_decoder_layer():
    torch.manual_seed(0)
    stock = nn.TransformerDecoderLayer(E, HEADS, 16, 0.0, batch_first=True).double()
    net = nn.TransformerDecoderLayer(E, HEADS, 16, 0.0, batch_first=True).double()
    net.load_state_dict(stock.state_dict())
    ct.robustify(net, chainrob.Mean())
    x, memory = tensors((N, 3, E), (N, S, E))
    for one in (stock, net):
        one(x, memory).square().mean().backward()
    for name, p in stock.named_parameters():
        torch.testing.assert_close(net.get_parameter(name).grad, p.grad)
