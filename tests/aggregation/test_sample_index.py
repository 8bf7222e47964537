# ruff: noqa: NPY002 (Chainer's initializers and dropout draw from the same state)
"""Rows that are not samples: models whose samples are named, against each sample run alone."""

from __future__ import annotations

import threading
import warnings

import numpy as np
import pytest

import chainrob
import chainer
from chainer import functions as F
from chainer import links as L
from chainrob.training import RobustGradient

MEDIAN = chainrob.GeometricMedian()
N = 5


@pytest.fixture(autouse=True)
def _float64():
    np.random.seed(0)
    with chainer.using_config("dtype", np.dtype(np.float64)):
        yield


class Model(chainer.Chain):
    """A model whose loss of a list of samples is the mean of their losses."""

    def samples(self):
        raise NotImplementedError

    def loss(self, batch):
        raise NotImplementedError


class Shrinking(Model):
    """Sequences sorted by length; a step runs those that have not ended."""

    def __init__(self):
        super().__init__(step=L.Linear(5, 3), out=L.Linear(3, 1))

    def samples(self):
        rng = np.random.default_rng(1)
        return [rng.normal(size=(n, 2)) for n in (6, 4, 4, 2, 1)]

    def loss(self, batch):
        h, done = np.zeros((len(batch), 3)), []
        for x in F.transpose_sequence(batch):
            if len(x) < len(h):
                h, rest = F.split_axis(h, [len(x)], axis=0)
                done.insert(0, rest)
            with chainrob.samples(n_samples=len(batch)):
                h = F.tanh(self.step(F.concat([x, h])))
        h = F.concat([h, *done], axis=0)
        return F.sum(self.out(h) ** 2) / len(batch)


class Masked(Model):
    """Only the steps that are there are run, in one row each."""

    def __init__(self):
        super().__init__(a=L.Linear(2, 3), b=L.Linear(3, 1))

    def samples(self):
        rng = np.random.default_rng(1)
        return [rng.normal(size=(n, 2)) for n in (3, 6, 1, 2, 4)]

    def loss(self, batch):
        index = np.repeat(np.arange(len(batch)), [len(x) for x in batch])
        with chainrob.samples(index):
            h = F.tanh(self.a(np.concatenate(batch)))
            mean = np.stack([(index == n) / (index == n).sum() for n in range(len(batch))])
            return F.sum(self.b(F.matmul(mean, h)) ** 2) / len(batch)


class Words(Model):
    """All words of all sentences in one embedding, as Chainer's text examples have it."""

    def __init__(self):
        super().__init__(embed=L.EmbedID(9, 3), out=L.Linear(3, 2))

    def samples(self):
        rng = np.random.default_rng(1)
        return [rng.integers(0, 9, size=n).astype(np.int32) for n in (3, 6, 1, 2, 4)]

    def loss(self, batch):
        index = np.repeat(np.arange(len(batch)), [len(x) for x in batch])
        with chainrob.samples(index):
            rows = self.embed(F.concat(batch, axis=0))
            sections = np.cumsum([len(x) for x in batch])[:-1]
            means = [F.mean(x, axis=0) for x in F.split_axis(rows, sections, 0)]
            return F.sum(F.sin(self.out(F.stack(means)))) / len(batch)


class Tree(Model):
    """One node after the other, one row each; the roots are scored together."""

    def __init__(self):
        super().__init__(leaf=L.EmbedID(9, 3), cell=L.ChildSumTreeLSTM(3, 3), out=L.Linear(3, 2))

    def samples(self):
        return [[1, [2, 3]], [[4, 5], [6, 7]], 8, [[[1, 2], 0], 3], [5, 5]]

    def loss(self, batch):
        roots = []
        for number, tree in enumerate(batch):
            with chainrob.samples([number], n_samples=len(batch)):
                roots.append(self.node(tree)[1])
        with chainrob.samples():
            return F.sum(self.out(F.concat(roots, axis=0)) ** 2) / len(batch)

    def node(self, tree):
        if isinstance(tree, int):
            x = self.leaf(np.array([tree], np.int32))
            return self.cell(None, None, x)
        (c1, h1), (c2, h2) = (self.node(one) for one in tree)
        return self.cell(c1, c2, h1, h2, np.zeros((1, 3)))


class Layers(Tree):
    """The nodes of one depth of all trees in one call, each with its tree's number."""

    def samples(self):
        return [[1, [2, 3]], [4, [6, 7]], [8, [1, 3]], [3, [0, 0]], [5, [5, 2]]]

    def loss(self, batch):
        leaves = np.array([word for a, (b, c) in batch for word in (a, b, c)], np.int32)
        n = len(batch)
        with chainrob.samples(np.repeat(np.arange(n), 3), n_samples=n):
            c, h = self.cell(None, None, self.leaf(leaves))
        (ca, cb, cc), (ha, hb, hc) = ([v[number::3] for number in range(3)] for v in (c, h))
        inner = self.cell(cb, cc, hb, hc, np.zeros((n, 3)))
        _, root = self.cell(ca, inner[0], ha, inner[1], np.zeros((n, 3)))
        return F.sum(self.out(root) ** 2) / n


class Decoder(Model):
    """Several draws a sample, in front of the batch axis, as VAE's have it."""

    def __init__(self):
        super().__init__(encoder=L.Linear(2, 3), decoder=L.Linear(3, 2))

    def samples(self):
        return list(np.random.default_rng(1).normal(size=(N, 2)))

    def loss(self, batch):
        x = np.stack(batch)
        with chainrob.samples(axis=1):
            z = F.tanh(self.encoder(x))
            draws = np.array([0.5, 1.0, 2.0])[:, None, None]
            z = F.broadcast_to(z, (3, *z.shape)) * np.broadcast_to(draws, (3, *z.shape))
            y = self.decoder(z, n_batch_axes=2)
            assert y.shape == (3, len(batch), 2)
            return F.sum((y - np.broadcast_to(x, y.shape)) ** 2) / len(batch)


class TimeMajor(Model):
    """Ids (T, N), embedded at once."""

    def __init__(self):
        super().__init__(embed=L.EmbedID(9, 3), out=L.Linear(3, 2))

    def samples(self):
        return list(np.random.default_rng(1).integers(0, 9, size=(N, 4)).astype(np.int32))

    def loss(self, batch):
        with chainrob.samples(axis=1):
            y = self.out(self.embed(np.stack(batch).T), n_batch_axes=2)
        return F.sum(F.sin(y)) / len(batch)


MODELS = [Shrinking, Masked, Words, Tree, Layers, Decoder, TimeMajor]


def rows_of(model):
    """Each sample run alone through the plain model: name to (N, D)."""
    found = {name: [] for name, _ in model.namedparams()}
    for sample in model.samples():
        model.cleargrads()
        model.loss([sample]).backward()
        for name, parameter in model.namedparams():
            grad = np.zeros_like(parameter.array) if parameter.grad is None else parameter.grad
            found[name].append(grad.ravel())
    return {name: np.stack(rows) for name, rows in found.items()}


def gradients(model, hook=None):
    model.cleargrads()
    model.loss(model.samples()).backward()
    if hook is not None:
        hook()
    return {name: parameter.grad.ravel() for name, parameter in model.namedparams()}


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize(
    "robustifier",
    [chainrob.Mean(), MEDIAN, chainrob.TrimmedMean(0.2), chainrob.SoftTruncation()],
    ids=repr,
)
def test_one_row_a_sample_of_the_whole_model(kind, robustifier):
    model = kind()
    rows = rows_of(model)
    names = sorted(rows)
    expected = robustifier(np.hstack([rows[name] for name in names]))
    chainrob.robustify(model, robustifier, scope="model")
    found = gradients(model, RobustGradient(model))
    found = np.concatenate([found[name] for name in names])
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("kind", [Masked, Words, Decoder, TimeMajor])
@pytest.mark.parametrize("scope", ["parameter", "layer", "unit"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_one_row_a_sample_of_a_layer(kind, scope, reduction):
    model = kind()
    rows = rows_of(model)
    chainrob.robustify(model, chainrob.CoordinateMedian(), scope=scope, loss_reduction=reduction)
    found = gradients(model)
    for name, one in rows.items():
        # The loss divides by N; of 'sum' the raw rows' estimate is given back N times.
        np.testing.assert_allclose(found[name], np.median(one, axis=0), atol=1e-9, err_msg=name)


def test_without_the_index_the_message_says_what_to_do():
    model = chainrob.robustify(Layers(), MEDIAN, scope="model")
    hook = RobustGradient(model)
    tree = model.samples()
    leaves = model.leaf(np.array([1, 2, 3, 4, 5, 6], np.int32))
    c, h = model.cell(None, None, leaves)
    _, root = model.cell(c[:3], c[3:], h[:3], h[3:], np.zeros((3, 3)))
    model.cleargrads()
    F.sum(root).backward()
    with pytest.raises(ValueError, match=r"say with chainrob\.samples which rows are one sample"):
        hook()
    assert tree


def test_a_single_sample_is_noticed_once():
    model = chainrob.robustify(Decoder(), MEDIAN)
    y = model.decoder(np.ones((1, N, 3)), n_batch_axes=2)
    message = "Linear 'decoder' saw a single sample, of which every estimate is the plain gradient"
    with pytest.warns(chainrob.SampleAxisWarning, match=message):
        F.sum(y).backward()
    F.sum(model.decoder(np.ones((1, N, 3)), n_batch_axes=2)).backward()


def test_numbers_of_samples_that_change_within_a_step():
    layer = chainrob.links.Linear(2, 1, robustifier=MEDIAN)
    for n in (4, 3):  # the last batch of an epoch
        layer.cleargrads()
        F.sum(layer(np.ones((n, 2)))).backward()
    with pytest.warns(chainrob.SampleAxisWarning, match="saw 3 samples and then 2 in one step"):
        F.sum(layer(np.ones((2, 2)))).backward()


def test_nothing_is_said_where_it_does_not_matter():
    layer = chainrob.links.Linear(2, 1, robustifier=chainrob.Mean())
    F.sum(layer(np.ones((1, 2)))).backward()
    layer.robustifier = MEDIAN
    with warnings.catch_warnings(), chainrob.samples([0, 0]):
        warnings.simplefilter("error")
        y = layer(np.ones((2, 2)))
    F.sum(y).backward()


def test_the_index_is_that_of_the_forward_pass():
    layer = chainrob.links.Linear(2, 1, robustifier=MEDIAN)
    with chainrob.samples([0, 1, 1]):
        y = layer(np.ones((3, 2)))
    layer.cleargrads()
    with chainrob.samples([0, 1, 2, 3]):
        F.sum(y).backward()
    with chainrob.exact_backward(), chainrob.samples([0]):
        layer.cleargrads()
        z = layer(np.ones((3, 2)))
        F.sum(z).backward()
    np.testing.assert_allclose(layer.b.grad, [3.0])


def test_it_belongs_to_one_thread_and_one_block():
    seen = []
    layer = chainrob.links.Linear(2, 1, robustifier=MEDIAN)
    with chainrob.samples([0, 1, 1]):
        thread = threading.Thread(target=lambda: seen.append(layer.aggregation.samples))
        thread.start()
        thread.join()
        with chainrob.samples(n_samples=7):
            assert layer.aggregation.samples.n_samples == 7
        assert layer.aggregation.samples.n_samples == 2
    assert seen == [None]
    assert layer.aggregation.samples is None


def test_second_derivatives_go_through_the_index():
    """Against finite differences of the robust gradient."""
    layer = chainrob.links.Linear(2, 1, robustifier=chainrob.SoftTruncation())
    index = [0, 1, 1, 2, 0]
    x = np.random.default_rng(0).normal(size=(5, 2))

    def gradient(x):
        with chainrob.samples(index):
            y = layer(x)
        (gW,) = chainer.grad([F.sum(F.sin(y))], [layer.W], enable_double_backprop=True)
        return F.sum(gW**2)

    v = chainer.Variable(x)
    gradient(v).backward()
    for where in [(0, 0), (2, 1), (3, 0)]:
        ends = []
        for sign in (1, -1):
            moved = x.copy()
            moved[where] += sign * 1e-6
            ends.append(float(gradient(chainer.Variable(moved)).array))
        np.testing.assert_allclose(v.grad[where], (ends[0] - ends[1]) / 2e-6, rtol=1e-4)


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        (([0.5, 1.0],), {}, "a vector of integers, found float64"),
        (([[0, 1]],), {}, r"a vector of integers, found int64 of shape \(1, 2\)"),
        (([0, -1],), {}, "must count from 0, found -1"),
        (([0, 1], [1, 0]), {}, r"different lengths, found \[2, 2\]"),
        (([0, 3],), {"n_samples": 3}, "above all numbers in the index, found 3 and 3"),
        (([0],), {"axis": 1}, "an index or n_samples, or an axis, found both"),
        ((), {"axis": -1}, "axis must be an integer from 0, found -1"),
    ],
)
def test_what_makes_no_sense(args, kwargs, message):
    with pytest.raises(ValueError, match=message), chainrob.samples(*args, **kwargs):
        pass


def test_rows_that_no_index_fits():
    layer = chainrob.links.Linear(2, 1, robustifier=MEDIAN)
    with chainrob.samples([0, 1, 1]):
        y = layer(np.ones((4, 2)))
    with pytest.raises(ValueError, match=r"has 4 rows, .* an index \(\[3\]\) or n_samples \(2\)"):
        F.sum(y).backward()


def test_a_static_graph_is_refused():
    class Net(chainer.Chain):
        def __init__(self):
            super().__init__(l=chainrob.links.Linear(2, 1, robustifier=MEDIAN))

        @chainer.static_graph
        def __call__(self, x):
            return self.l(x)

    net, x = Net(), chainer.Variable(np.ones((3, 2)))
    with chainer.using_config("use_static_graph", True), chainrob.samples([0, 1, 1]):
        y = net(x)
        with pytest.raises(RuntimeError, match="@static_graph would keep the index"):
            F.sum(y).backward()
