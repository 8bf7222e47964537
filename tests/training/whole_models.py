"""Models with shared parameters and time steps, and the rows of their whole gradients."""

from __future__ import annotations

import numpy as np

import chainer
from chainer import functions as F
from chainer import links as L

N = 6


class Tied(chainer.Chain):
    """An embedding that is also the output matrix, a layer that is used twice, a convolution."""

    def __init__(self):
        super().__init__()
        with self.init_scope():
            self.embed = L.EmbedID(7, 4)
            self.conv = L.Convolution1D(4, 4, 3, pad=1)
            self.twice = L.Linear(4, 4)
            self.norm = L.LayerNormalization(4)
            self.out = L.Linear(4, 7)
        self.out.W = self.embed.W

    def forward(self, ids):
        h = F.transpose(self.embed(ids), (0, 2, 1))
        h = F.mean(F.tanh(self.conv(h)), axis=2)
        for _ in range(2):
            h = F.tanh(self.twice(h))
        return self.out(self.norm(h))

    def inputs(self, rng, n):
        return rng.integers(0, 7, size=(n, 5)).astype(np.int32), rng.integers(0, 7, size=n)


class Recurrent(chainer.Chain):
    """An LSTM and a GRU unrolled over time."""

    def __init__(self):
        super().__init__()
        with self.init_scope():
            self.lstm = L.LSTM(3, 4)
            self.gru = L.StatefulGRU(4, 3)
            self.out = L.Linear(3, 3)

    def forward(self, xs):
        self.lstm.reset_state()
        self.gru.reset_state()
        for t in range(xs.shape[1]):
            h = self.gru(self.lstm(xs[:, t]))
        return self.out(h)

    def inputs(self, rng, n):
        return rng.normal(size=(n, 4, 3)), rng.integers(0, 3, size=n)


def make(kind, seed=0):
    with chainer.using_config("dtype", np.dtype(np.float64)):
        model = kind()
    rng = np.random.default_rng(seed)
    for _, parameter in sorted(model.namedparams()):
        parameter.array = rng.normal(scale=0.7, size=parameter.shape)
    x, t = model.inputs(rng, N)
    return model, x, t.astype(np.int32)


def gradients(model):
    return {name: parameter.grad.copy() for name, parameter in sorted(model.namedparams())}


def oracle_rows(model, x, t):
    """Each sample alone through the stock model: name to rows (N, D); a shared one once."""
    unique = {}
    for name, parameter in sorted(model.namedparams()):
        unique.setdefault(id(parameter), name)
    rows = {name: [] for name in unique.values()}
    for n in range(len(x)):
        model.cleargrads()
        F.softmax_cross_entropy(model(x[n : n + 1]), t[n : n + 1]).backward()
        grads = gradients(model)
        for name, row in rows.items():
            row.append(grads[name].ravel())
    return {name: np.stack(row) for name, row in rows.items()}


def joint(robustifier, rows):
    names = list(rows)
    estimate = robustifier(np.concatenate([rows[name] for name in names], axis=1))
    ends = np.cumsum([rows[name].shape[1] for name in names])[:-1]
    return dict(zip(names, np.split(estimate, ends), strict=True))


def run(model, hook, x, t, reduction="mean", extra=None):
    model.cleargrads()
    loss = F.softmax_cross_entropy(model(x), t, reduce="no")
    loss = F.mean(loss) if reduction == "mean" else F.sum(loss)
    if extra is not None:
        loss = loss + extra()
    loss.backward()
    hook()
    return gradients(model)
