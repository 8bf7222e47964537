"""Layers whose rows look as if they were no samples say so, once; ordinary models never."""

import warnings

import pytest
import torch
from torch import nn

import chainrob
import chainrob.torch as ct


def backward(net, *xs):
    sum(net(x).square().mean() for x in xs).backward()


class Tokens(nn.Module):
    """Embeds sentences, and puts their words below one another before the head."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(9, 4)
        self.head = nn.Linear(4, 2)

    def forward(self, ids):
        return self.head(self.embed(ids).view(-1, 4))


class Experts(nn.Module):
    """Each sample visits one of two layers."""

    def __init__(self):
        super().__init__()
        self.gate = nn.Linear(3, 4)
        self.experts = nn.ModuleList([nn.Linear(4, 2), nn.Linear(4, 2)])

    def forward(self, x):
        h = self.gate(x)
        return torch.cat([self.experts[0](h[:2]), self.experts[1](h[2:])])


@pytest.mark.parametrize("scope", ["layer", "unit", "parameter"])
def test_positions_below_one_another(scope):
    net = ct.robustify(Tokens(), chainrob.GeometricMedian(), scope=scope)
    ids = torch.randint(0, 9, (6, 5))
    message = "Linear 'head' saw 30 samples, and the layer 'embed' before it 6"
    with pytest.warns(chainrob.SampleAxisWarning, match=message):
        backward(net, ids)
    backward(net, ids)  # once


class Positions(nn.Module):
    """Adds a vector a position to the words, as most transformers do."""

    def __init__(self, each):
        super().__init__()
        self.words, self.places = nn.Embedding(9, 4), nn.Embedding(5, 4)
        self.each = each

    def forward(self, ids):
        places = torch.arange(ids.shape[1])
        return self.words(ids) + self.places(places.expand(len(ids), -1) if self.each else places)


def test_positions_that_all_samples_share():
    ids = torch.randint(0, 9, (7, 5))
    net = ct.robustify(Positions(each=False), chainrob.GeometricMedian())
    message = (
        r"Embedding 'places' saw the ids 0 to 4 in order.*each id is a sample of its own.*"
        r"positions that all samples share, ids\.expand\(n_samples, -1\)"
    )
    with pytest.warns(chainrob.SampleAxisWarning, match=message):
        backward(net, ids)
    backward(net, ids)  # once
    for scope in ("layer", "model"):
        backward(ct.robustify(Positions(each=True), chainrob.GeometricMedian(), scope=scope), ids)


def test_positions_after_a_first_batch_of_length_1():
    places = ct.robustify(nn.Embedding(5, 4), chainrob.GeometricMedian())
    with pytest.warns(chainrob.SampleAxisWarning, match="saw a single sample"):
        backward(places, torch.arange(1))
    with pytest.warns(chainrob.SampleAxisWarning, match="saw the ids 0 to 4 in order"):
        backward(places, torch.arange(5))
    backward(places, torch.arange(5))  # once


def test_a_single_sample():
    net = ct.robustify(nn.Sequential(nn.Linear(3, 2)), chainrob.GeometricMedian())
    with pytest.warns(chainrob.SampleAxisWarning, match="Linear '0' saw a single sample"):
        backward(net, torch.randn(1, 3))
    backward(net, torch.randn(1, 3))


def test_other_numbers_in_one_pass():
    net = ct.robustify(nn.Sequential(nn.Linear(3, 2)), chainrob.TrimmedMean(0.1))
    with pytest.warns(chainrob.SampleAxisWarning, match="saw 5 samples and then 4 in one step"):
        backward(net, torch.randn(4, 3), torch.randn(5, 3))


def test_ordinary_training_is_silent():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        net = ct.robustify(nn.Sequential(nn.Linear(3, 2)), chainrob.GeometricMedian())
        backward(net, torch.randn(4, 3))
        backward(net, torch.randn(3, 3))  # the last batch of an epoch
        with ct.accumulate_samples(net):
            for _ in range(2):
                backward(net, torch.randn(1, 3))
        with chainrob.exact_backward():
            backward(net, torch.randn(1, 3))
        backward(ct.robustify(net, chainrob.Mean()), torch.randn(1, 3))
        backward(ct.robustify(Experts(), chainrob.GeometricMedian()), torch.randn(8, 3))


def test_who_uses_samples_has_said_it():
    net = ct.robustify(Tokens(), chainrob.GeometricMedian())
    with chainrob.samples():
        backward(net, torch.randint(0, 9, (6, 5)))
    index = torch.arange(6).repeat_interleave(5)
    with chainrob.samples(index.numpy()):
        backward(net, torch.randint(0, 9, (6, 5)))


def test_the_scope_of_the_model_raises_instead():
    net = ct.robustify(Tokens(), chainrob.GeometricMedian(), scope="model")
    with pytest.raises(ValueError, match="all parameters must see the same samples"):
        backward(net, torch.randint(0, 9, (6, 5)))
