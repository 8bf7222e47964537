# ruff: noqa: NPY002 (Chainer's initializers and dropout draw from the same state)
"""Networks on words: seq2seq, word2vec, tree LSTM, memory network, transformer."""

from __future__ import annotations

from typing import Any

import numpy as np

import chainrob
import chainer
from chainer import functions as F
from chainer import links as L
from tests.zoo.entry import Data, Entry

WORDS = 12


def numbers_of(sequences: Any) -> np.ndarray:
    """To which sequence each word belongs, where all are written one after the other."""
    return np.repeat(np.arange(len(sequences)), [len(one) for one in sequences])


class Seq2seq(chainer.Chain):
    """An encoder and a decoder over sequences of different lengths."""

    def __init__(self) -> None:
        super().__init__(
            source=L.EmbedID(WORDS, 8),
            target=L.EmbedID(WORDS, 8),
            encoder=L.NStepLSTM(1, 8, 10, 0.1),
            decoder=L.NStepLSTM(1, 8, 10, 0.1),
            out=L.Linear(10, WORDS),
        )

    def embedded(self, embed: Any, sequences: Any) -> Any:
        sections = np.cumsum([len(one) for one in sequences])[:-1]
        with chainrob.samples(numbers_of(sequences)):
            return F.split_axis(embed(np.concatenate(sequences)), sections, axis=0)

    def loss(self, xs: Any, ys: Any) -> chainer.Variable:
        stop = np.zeros(1, np.int32)
        ys_in = [np.concatenate([stop, y]) for y in ys]
        ys_out = [np.concatenate([y, stop]) for y in ys]
        h, c, _ = self.encoder(None, None, self.embedded(self.source, xs))
        _, _, outputs = self.decoder(h, c, self.embedded(self.target, ys_in))
        with chainrob.samples(numbers_of(ys_out)):
            scores = self.out(F.concat(outputs, axis=0))
        losses = F.softmax_cross_entropy(scores, np.concatenate(ys_out), reduce="no")
        return F.sum(losses) / len(xs)


def reversed_words(rng: np.random.Generator, n: int) -> Data:
    xs = [rng.integers(1, WORDS, size=rng.integers(1, 7)).astype(np.int32) for _ in range(n)]
    return xs, [x[::-1].copy() for x in xs]


class SkipGram(chainer.Chain):
    """Words predict their neighbors, among words drawn by chance."""

    n_negative = 4

    def __init__(self) -> None:
        super().__init__(embed=L.EmbedID(200, 10), out=L.EmbedID(200, 10))

    def loss(self, center: Any, contexts: Any) -> chainer.Variable:
        shape = (*contexts.shape, self.n_negative)
        negative = np.random.randint(0, 200, size=shape).astype(np.int32)
        ids = np.concatenate([contexts[..., None], negative], axis=-1)  # (N, C, 1 + n)
        sign = np.where(np.arange(1 + self.n_negative) == 0, 1, -1).astype(chainer.config.dtype)
        e = F.reshape(self.embed(center), (len(center), 1, 1, -1))
        out = self.out(ids)
        scores = F.sum(F.broadcast_to(e, out.shape) * out, axis=-1)
        return F.sum(F.softplus(-scores * np.broadcast_to(sign, scores.shape))) / len(center)


def text(rng: np.random.Generator, n: int) -> Data:
    """Words and their neighbors: even words have even ones."""
    center = rng.integers(0, 200, size=n).astype(np.int32)
    contexts = 2 * rng.integers(0, 100, size=(n, 4)) + center[:, None] % 2
    return center, contexts.astype(np.int32)


class TreeScore(chainer.Chain):
    """A number for each tree of words, from a tree LSTM that runs one node after the other."""

    def __init__(self) -> None:
        super().__init__(
            embed=L.EmbedID(WORDS, 6), cell=L.ChildSumTreeLSTM(6, 8), out=L.Linear(8, 1)
        )

    def forward(self, trees: Any) -> chainer.Variable:
        roots = []
        for number, tree in enumerate(trees):
            with chainrob.samples([number], n_samples=len(trees)):
                roots.append(self.node(tree)[1])
        return self.out(F.concat(roots, axis=0))[:, 0]

    def node(self, tree: Any) -> Any:
        if isinstance(tree, int):
            return self.cell(None, None, self.embed(np.array([tree], np.int32)))
        states = [self.node(child) for child in tree]
        return self.cell(*[c for c, _ in states], *[h for _, h in states], None)

    def loss(self, trees: Any, t: Any) -> chainer.Variable:
        return F.mean((self(trees) - t) ** 2)


def trees(rng: np.random.Generator, n: int) -> Data:
    """The target is the mean of the words' values."""
    found, targets = [], []
    for _ in range(n):
        nodes = [int(one) for one in rng.integers(0, WORDS, size=rng.integers(2, 4))]
        targets.append(np.mean(nodes) / WORDS)
        while len(nodes) > 1:
            k = rng.integers(len(nodes) - 1)
            nodes[k : k + 2] = [[nodes[k], nodes[k + 1]]]
        found.append(nodes[0])
    return found, np.array(targets, chainer.config.dtype)


def far_targets(x: Any, t: Any) -> Data:
    return x, t + 200


def squared_error(model: Any, x: Any, t: Any) -> float:
    return float(((model(x).array - t) ** 2).mean())


class MemoryNetwork(chainer.Chain):
    """A question looks up sentences."""

    n_slots = 5

    def __init__(self) -> None:
        super().__init__(
            A=L.EmbedID(WORDS, 8),
            C=L.EmbedID(WORDS, 8),
            T=L.EmbedID(self.n_slots, 8),
            Q=L.EmbedID(WORDS, 8),
            out=L.Linear(8, WORDS),
        )

    def loss(self, sentences: Any, question: Any, answer: Any) -> chainer.Variable:
        n = len(sentences)
        # One row a slot would serve all samples: it is looked up once a sample.
        slots = np.broadcast_to(np.arange(self.n_slots, dtype=np.int32), (n, self.n_slots))
        memory = F.sum(self.A(sentences), axis=2) + self.T(slots)
        output = F.sum(self.C(sentences), axis=2)
        u = F.sum(self.Q(question), axis=1)
        attention = F.softmax(F.matmul(memory, F.expand_dims(u, -1)), axis=1)
        found = F.squeeze(F.matmul(output, attention, transa=True), axis=-1)
        return F.softmax_cross_entropy(self.out(found + u), answer)


def stories(rng: np.random.Generator, n: int) -> Data:
    """Pairs of words; the question is the first of one of them, the answer its second."""
    pairs = np.stack([rng.permuted(np.arange(WORDS).reshape(2, 6), axis=1) for _ in range(n)])
    sentences = pairs.transpose((0, 2, 1))[:, :5]
    which = rng.integers(0, 5, size=n)
    chosen = sentences[np.arange(n), which]
    question, answer = chosen[:, :1], chosen[:, 1]
    return tuple(one.astype(np.int32) for one in (sentences, question, answer))


class Transformer(chainer.Chain):
    """One block of attention and a feed-forward layer; the mean of its outputs is scored."""

    length = 6

    def __init__(self) -> None:
        super().__init__(
            embed=L.EmbedID(WORDS, 8),
            position=L.EmbedID(self.length, 8),
            qkv=L.Linear(8, 24),
            joined=L.Linear(8, 8),
            norm1=L.LayerNormalization(8),
            up=L.Linear(8, 16),
            down=L.Linear(16, 8),
            norm2=L.LayerNormalization(8),
            out=L.Linear(8, 1),
        )

    def forward(self, ids: Any) -> chainer.Variable:
        n, length = ids.shape
        places = np.broadcast_to(np.arange(length, dtype=np.int32), ids.shape)
        x = self.embed(ids) + self.position(places)
        with chainrob.samples(np.repeat(np.arange(n), length)):  # normalization wants (N * T, C)
            flat = F.reshape(x, (n * length, 8))
            q, k, v = F.split_axis(F.reshape(self.qkv(flat), (n, length, 24)), 3, axis=2)
            weights = F.softmax(F.matmul(q, k, transb=True) / 8**0.5, axis=2)
            mixed = F.reshape(F.matmul(weights, v), (n * length, 8))
            flat = self.norm1(flat + self.joined(mixed))
            flat = self.norm2(flat + self.down(F.relu(self.up(flat))))
        return self.out(F.mean(F.reshape(flat, (n, length, 8)), axis=1))[:, 0]

    def loss(self, ids: Any, t: Any) -> chainer.Variable:
        return F.mean((self(ids) - t) ** 2)


def sentences(rng: np.random.Generator, n: int) -> Data:
    """The target is the mean of the words' values."""
    ids = rng.integers(0, WORDS, size=(n, Transformer.length)).astype(np.int32)
    return ids, (ids.mean(axis=1) / WORDS - 0.5).astype(chainer.config.dtype)


LANGUAGE = [
    Entry("seq2seq with NStepLSTM", Seq2seq, reversed_words, scope="model"),
    Entry("word2vec with negative sampling", SkipGram, text, batch=50),
    Entry(
        "tree LSTM",
        TreeScore,
        trees,
        scope="model",
        spoil=far_targets,
        error=squared_error,
        rate=0.1,
        epochs=2,
        batch=10,
    ),
    Entry("memory network", MemoryNetwork, stories, scope="model"),
    Entry(
        "transformer",
        Transformer,
        sentences,
        scope="model",
        spoil=far_targets,
        error=squared_error,
        rate=0.05,
    ),
]
