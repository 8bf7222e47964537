"""Norms, Gram matrices and suspects from a backward pass; micro-batches as one batch."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

import chainrob
import chainrob.torch as ct
from tests.torch.cases import CASES, IDS, joined, losses, sample_rows

MEDIAN = chainrob.GeometricMedian(tolerance=1e-12, max_iterations=1000)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()


def batch(n=12):
    x = torch.randn(n, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x[0] *= 20
    return x


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_norms_and_gram_of_a_plain_module(case):
    layer, x = case.layer(), case.batch()
    rows = joined(sample_rows(layer, x))
    before = type(layer)
    with ct.per_sample_norms(layer) as norms, ct.gram(layer) as gram:
        losses(layer(x)).mean().backward()
    np.testing.assert_allclose(norms.total, np.linalg.norm(rows, axis=1), rtol=1e-9)
    np.testing.assert_allclose(gram.total, rows @ rows.T, rtol=1e-9, atol=1e-14)
    assert type(layer) is before
    stock = case.layer()
    losses(stock(x)).mean().backward()
    for p, q in zip(layer.parameters(), stock.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad)


@pytest.mark.parametrize("scope", ["layer", "model"])
def test_measures_of_a_robust_module_with_shared_weights(scope):
    net = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4)).double()
    net[2].weight = net[0].weight
    rows = joined(sample_rows(net, batch()))
    ct.robustify(net, MEDIAN, scope=scope)
    with ct.per_sample_norms(net) as norms, ct.gram(net) as gram:
        losses(net(batch())).mean().backward()
    np.testing.assert_allclose(norms.total, np.linalg.norm(rows, axis=1), rtol=1e-9)
    np.testing.assert_allclose(gram.total, rows @ rows.T, rtol=1e-9)
    assert set(norms.layers) == {"0", "2"}


def test_nothing_measured():
    with ct.per_sample_norms(network()) as norms:
        pass
    with pytest.raises(RuntimeError, match="no backward pass has been measured"):
        norms.total  # noqa: B018


@pytest.mark.parametrize("scope", ["parameter", "layer", "model"])
@pytest.mark.parametrize("sizes", [(6, 6), (5, 4, 3)])
def test_accumulated_micro_batches_are_one_batch(scope, sizes):
    whole = ct.robustify(network(), MEDIAN, scope=scope)
    parts = copy.deepcopy(whole)
    losses(whole(batch())).mean().backward()
    targets = losses  # the same targets, sample by sample
    x = batch()
    with ct.accumulate_samples(parts):
        start = 0
        for size in sizes:
            y = parts(x[start : start + size])
            full = torch.zeros(12, 3, dtype=torch.float64)
            full = torch.cat([full[:start], y, full[start + size :]])
            (targets(full)[start : start + size].sum() / 12).backward()
            start += size
            assert parts[0].weight.grad is None
    for p, q in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-9, atol=1e-12)
    losses(parts(batch())).mean().backward()  # as ever afterwards, and it adds up
    torch.testing.assert_close(parts[0].weight.grad, 2 * whole[0].weight.grad)


def test_accumulated_mean_is_what_pytorch_accumulates():
    net, stock = ct.robustify(network(), chainrob.Mean()), network()
    with ct.accumulate_samples(net):
        for part in batch().split([7, 5]):
            net(part).square().mean().backward()
    for part in batch().split([7, 5]):
        stock(part).square().mean().backward()
    torch.testing.assert_close(net[0].weight.grad, stock[0].weight.grad)


def test_sequences_of_different_lengths_accumulate():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Embedding(6, 4), nn.Linear(4, 3)).double()
    stock = copy.deepcopy(net)
    ct.robustify(net, chainrob.Mean(), scope="model")
    ids = [torch.randint(0, 6, (3, 5)), torch.randint(0, 6, (4, 2))]
    ct.robustify(net, chainrob.Mean(), layers="1", scope="layer")
    ct.plain(net[0])
    with ct.accumulate_samples(net):
        for one in ids:
            net(one).mean(dim=1).square().mean().backward()
    for one in ids:
        stock(one).mean(dim=1).square().mean().backward()
    torch.testing.assert_close(net[1].weight.grad, stock[1].weight.grad)


def accumulated(net, steps):
    with ct.accumulate_samples(net):
        for step in steps:
            step()


def test_errors_of_accumulation():
    net = ct.robustify(network(), chainrob.Mean())
    with pytest.raises(RuntimeError, match="accumulates samples already"):
        accumulated(net, [lambda: accumulated(net, [])])
    x = batch()
    with pytest.raises(RuntimeError, match="linear '0' was changed in place"):
        accumulated(net, [lambda: net(x).mean().backward(), x.zero_])
    convolution = ct.robustify(nn.Conv1d(1, 1, 2), chainrob.Mean())
    short, long = torch.randn(2, 1, 4), torch.randn(2, 1, 5)
    passes = [lambda x=x: convolution(x).mean().backward() for x in (short, long)]
    with pytest.raises(ValueError, match="differ in the number of samples only"):
        accumulated(convolution, passes)
    once = lambda: net(batch()).mean().backward()  # noqa: E731
    twice = lambda: (net(batch()) + net(batch())).mean().backward()  # noqa: E731
    with pytest.raises(ValueError, match="called equally often"):
        accumulated(net, [once, twice])
    net.zero_grad()
    once()
    assert net[0].weight.grad is not None


@pytest.mark.parametrize("scope", ["layer", "model"])
@pytest.mark.parametrize("n_workers", [0, 2])
def test_suspects_follow_a_loader(scope, n_workers):
    x = batch(40)
    data = torch.utils.data.TensorDataset(x, (x[:, 0] > 0).long())
    generator = torch.Generator().manual_seed(0)
    options = {"shuffle": True, "generator": generator, "num_workers": n_workers}
    loader = torch.utils.data.DataLoader(data, 10, **options)
    net = ct.robustify(network(), MEDIAN, scope=scope)
    with ct.Suspects(net, 40) as suspects:
        for _ in range(1 if n_workers else 3):
            for x, t in suspects.follow(loader):
                nn.functional.cross_entropy(net(x), t).backward()
    assert suspects.ranking()[0] == 0
    assert (suspects.averages.counts() == (1 if n_workers else 3)).all()
    other = ct.Suspects(net, 40)
    other.load_state_dict(suspects.state_dict())
    np.testing.assert_array_equal(other.relative(), suspects.relative())


def test_suspects_do_not_change_the_gradient():
    net = ct.robustify(network(), MEDIAN, scope="model")
    losses(net(batch())).mean().backward()
    wanted = net[0].weight.grad.clone()
    net.zero_grad()
    with ct.Suspects(net, 12) as suspects:
        suspects.next(range(12))
        losses(net(batch())).mean().backward()
    assert torch.equal(net[0].weight.grad, wanted)
    assert suspects.averages.layers == ["model"]


@pytest.mark.parametrize("scope", ["layer", "model"])
def test_suspicion_finds_wrong_labels_beside_the_plain_mean(scope):
    generator = torch.Generator().manual_seed(0)
    t = torch.arange(60) % 3
    x = torch.randn(60, 5, generator=generator) + 3.0 * torch.eye(3, 5)[t]
    wrong = torch.arange(6)
    t[wrong] = (t[wrong] + 1) % 3
    data = torch.utils.data.TensorDataset(x, t)
    torch.manual_seed(0)
    stock, net = nn.Linear(5, 3), nn.Linear(5, 3)
    net.load_state_dict(stock.state_dict())
    ct.robustify(net, chainrob.Mean(), scope=scope)
    with ct.Suspects(net, 60, rank_by="suspicion") as suspects:
        for one in (stock, net):
            loader = torch.utils.data.DataLoader(
                data, 30, shuffle=True, generator=torch.Generator().manual_seed(1)
            )
            optimizer = torch.optim.SGD(one.parameters(), 0.2)
            for _ in range(10):
                for xs, ts in loader if one is stock else suspects.follow(loader):
                    optimizer.zero_grad()
                    nn.functional.cross_entropy(one(xs), ts).backward()
                    optimizer.step()
    torch.testing.assert_close(net.weight, stock.weight)  # the training is the plain one
    assert set(suspects.ranking()[:6].tolist()) == set(range(6))


def test_errors_of_suspects():
    with pytest.raises(ValueError, match="rank_by must be 'weight' or 'suspicion', found 'loss'"):
        ct.Suspects(ct.robustify(network(), MEDIAN), 12, rank_by="loss")
    with pytest.raises(ValueError, match="no robust layer"):
        ct.Suspects(network(), 12)
    net = ct.robustify(network(), MEDIAN)
    suspects = ct.Suspects(net, 12)
    with pytest.raises(RuntimeError, match="which samples the batch holds"):
        net(batch()).mean().backward()
    with pytest.raises(ValueError, match="numbers from 0 to 11, found"):
        suspects.next([12])
    suspects.next([1, 2])
    with pytest.raises(ValueError, match="saw 12 samples in a batch of 2"):
        net(batch()).mean().backward()
    with pytest.raises(TypeError, match="draws batches of indices"):
        next(suspects.follow(torch.utils.data.DataLoader(batch(), batch_size=None)))
    with pytest.raises(TypeError, match="needs a torch DataLoader, found list"):
        next(suspects.follow([batch()]))
    suspects.close()
    net(batch()).mean().backward()


@pytest.mark.parametrize("scope", ["layer", "model"])
def test_measures_of_a_partly_robust_module_are_of_all_its_layers(scope):
    net = network()
    rows = joined(sample_rows(net, batch()))
    ct.robustify(net, MEDIAN, layers="0", scope=scope)
    with ct.per_sample_norms(net) as norms:
        losses(net(batch())).mean().backward()
    np.testing.assert_allclose(norms.total, np.linalg.norm(rows, axis=1), rtol=1e-9)
    assert set(norms.layers) == {"0", "2"}
    assert type(net[2]) is nn.Linear
    assert net[0].robustifier == MEDIAN


def test_layers_without_a_robustifier_stay_so_after_a_measure():
    net = ct.robustify(network(), None, scope="model")
    with ct.per_sample_norms(net) as norms:
        losses(net(batch())).mean().backward()
    assert norms.total.shape == (12,)
    assert [type(net[i]) for i in (0, 2)] == [ct.Linear] * 2
    assert net[0].robustifier is None
    assert net[0].scope == "model"


def test_measures_leave_out_what_is_frozen_and_what_has_no_robust_form():
    net = network()
    net[0].requires_grad_(False)
    rows = joined({name: value for name, value in sample_rows(net, batch()).items() if "2" in name})
    with ct.per_sample_norms(net) as norms:
        losses(net(batch())).mean().backward()
    np.testing.assert_allclose(norms.total, np.linalg.norm(rows, axis=1), rtol=1e-9)
    mixed = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)).double()
    ct.robustify(mixed, MEDIAN, layers="2")
    with pytest.warns(ct.UnsupportedModuleWarning, match="BatchNorm1d"):
        ct.per_sample_norms(mixed).close()


def test_measures_of_a_plain_recurrent_cell():
    torch.manual_seed(0)
    cell = nn.RNNCell(4, 3).double()

    def loss(x):
        return cell(x, cell(x, torch.zeros(len(x), 3, dtype=x.dtype))).square().sum(dim=1)

    rows = []
    for x in batch().split(1):
        found = torch.autograd.grad(loss(x).sum(), list(cell.parameters()))
        rows.append(torch.cat([one.reshape(-1) for one in found]).norm())
    with ct.per_sample_norms(cell) as norms:
        loss(batch()).mean().backward()
    torch.testing.assert_close(norms.total, torch.stack(rows))


def test_suspects_of_accumulated_micro_batches():
    whole = ct.robustify(network(), MEDIAN)
    parts = copy.deepcopy(whole)
    one, other = ct.Suspects(whole, 12), ct.Suspects(parts, 12)
    one.next(range(12))
    whole(batch()).square().mean().backward()
    for _ in range(2):
        with ct.accumulate_samples(parts):
            for rows in range(0, 12, 4):
                other.next(range(rows, rows + 4))
                (parts(batch()[rows : rows + 4]).square().mean() / 3).backward()
    np.testing.assert_allclose(other.weights(), one.weights(), rtol=1e-9)
    assert (other.averages.counts() == 2).all()


def test_empty_sequences_accumulate_beside_others():
    net = ct.robustify(nn.Linear(4, 3), chainrob.Mean(), scope="model")
    stock = nn.Linear(4, 3)
    with ct.accumulate_samples(net):
        for length in (0, 3):
            net(torch.ones(2, length, 4)).sum().backward()
    stock(torch.ones(2, 3, 4)).sum().backward()
    torch.testing.assert_close(net.weight.grad, stock.weight.grad)
