# ruff: noqa: NPY002 (Chainer's initializers and dropout draw from the same state)
"""Networks on vectors and images: MLP, CNN with batch normalization, VAE, DCGAN."""

from __future__ import annotations

from typing import Any

import numpy as np

import chainrob
import chainer
from chainer import functions as F
from chainer import links as L
from tests.zoo.entry import Data, Entry


class MLP(chainer.Chain):
    """Two hidden layers."""

    def __init__(self) -> None:
        super().__init__(l1=L.Linear(8, 20), l2=L.Linear(20, 20), l3=L.Linear(20, 3))

    def forward(self, x: Any) -> chainer.Variable:
        return self.l3(F.relu(self.l2(F.relu(self.l1(x)))))

    def loss(self, x: Any, t: Any) -> chainer.Variable:
        return F.softmax_cross_entropy(self(x), t)


def points(rng: np.random.Generator, n: int) -> Data:
    t = rng.integers(0, 3, size=n).astype(np.int32)
    centers = 2 * np.eye(3, 8)
    return (centers[t] + 0.5 * rng.normal(size=(n, 8))).astype(chainer.config.dtype), t


def far_away(x: Any, t: Any) -> Data:
    """Inputs far away, with the wrong class."""
    return 50 * x, (t + 1) % 3


def wrong_classes(model: Any, x: Any, t: Any) -> float:
    with chainer.using_config("train", False):
        return float((model(x).array.argmax(axis=1) != t).mean())


class CNN(chainer.Chain):
    """Convolution, batch normalization, convolution, pooling."""

    def __init__(self) -> None:
        super().__init__(
            c1=L.Convolution2D(1, 6, 3, pad=1, nobias=True),
            bn1=L.BatchNormalization(6),
            c2=L.Convolution2D(6, 8, 3, pad=1),
            out=L.Linear(8 * 4, 3),
        )

    def forward(self, x: Any) -> chainer.Variable:
        h = F.max_pooling_2d(F.relu(self.bn1(self.c1(x))), 2)
        return self.out(F.max_pooling_2d(F.relu(self.c2(h)), 2))

    def loss(self, x: Any, t: Any) -> chainer.Variable:
        return F.softmax_cross_entropy(self(x), t)


def images(rng: np.random.Generator, n: int) -> Data:
    """Bars that lie, stand, or lean."""
    t = rng.integers(0, 3, size=n).astype(np.int32)
    x = 0.3 * rng.normal(size=(n, 1, 8, 8))
    for one, kind, place in zip(x[:, 0], t, rng.integers(1, 7, size=n), strict=True):
        if kind == 0:
            one[place] += 1
        elif kind == 1:
            one[:, place] += 1
        else:
            one[np.arange(8), (np.arange(8) + place) % 8] += 1
    return x.astype(chainer.config.dtype), t


class VAE(chainer.Chain):
    """Several draws a sample, which lie before the batch axis."""

    draws = 2

    def __init__(self) -> None:
        super().__init__(
            encoder=L.Linear(12, 10),
            mean=L.Linear(10, 2),
            log_deviation=L.Linear(10, 2),
            decoder=L.Linear(2, 10),
            output=L.Linear(10, 12),
        )

    def decode(self, z: Any) -> chainer.Variable:
        h = F.tanh(self.decoder(z, n_batch_axes=2))
        return self.output(h, n_batch_axes=2)

    def loss(self, x: Any) -> chainer.Variable:
        with chainrob.samples(axis=1):  # the samples lie behind the draws
            h = F.tanh(self.encoder(x))
            mean, log_deviation = self.mean(h), self.log_deviation(h)
            shape = (self.draws, *mean.shape)
            noise = np.random.normal(size=shape).astype(x.dtype)
            deviation = F.broadcast_to(F.exp(log_deviation), shape)
            y = self.decode(F.broadcast_to(mean, shape) + deviation * noise)
        n = len(x)
        misfit = F.sum((y - np.broadcast_to(x, y.shape)) ** 2) / (self.draws * n)
        return misfit + 0.1 * F.gaussian_kl_divergence(mean, 2 * log_deviation) / n


def curve(rng: np.random.Generator, n: int) -> Data:
    """Points of a surface of two dimensions in twelve."""
    z = rng.normal(size=(n, 2))
    A = np.random.default_rng(7).normal(size=(2, 12))
    return ((np.tanh(z @ A) + 0.05 * rng.normal(size=(n, 12))).astype(chainer.config.dtype),)


def burst(x: Any) -> Data:
    return (300 * np.ones_like(x),)


def misfit(model: Any, x: Any) -> float:
    mean = model.mean(F.tanh(model.encoder(x)))
    return float(((model.decode(F.expand_dims(mean, 0)).array[0] - x) ** 2).sum(axis=1).mean())


class Generator(chainer.Chain):
    """Noise to images."""

    def __init__(self) -> None:
        super().__init__(start=L.Linear(4, 6 * 16), up=L.Deconvolution2D(6, 1, 4, 2, 1))

    def forward(self, z: Any) -> chainer.Variable:
        h = F.relu(self.start(z)).reshape((len(z), 6, 4, 4))
        return self.up(h)


class Discriminator(chainer.Chain):
    """Images to a score."""

    def __init__(self) -> None:
        super().__init__(down=L.Convolution2D(1, 6, 4, 2, 1), out=L.Linear(6 * 16, 1))

    def forward(self, x: Any) -> chainer.Variable:
        return self.out(F.leaky_relu(self.down(x)))


class DCGAN(chainer.Chain):
    """Two parts with a loss each."""

    parts = ("dis", "gen")

    def __init__(self) -> None:
        super().__init__(gen=Generator(), dis=Discriminator())

    def losses(self, x: Any, _: Any) -> Any:
        n = len(x)
        fake = self.gen(np.random.normal(size=(n, 4)).astype(x.dtype))
        # Real and made-up images in one pass: a sample is a pair, and its row is their sum.
        with chainrob.samples(np.tile(np.arange(n), 2)):
            real_score, fake_score = F.split_axis(self.dis(F.concat([x, fake], axis=0)), 2, axis=0)
        yield self.dis, F.sum(F.softplus(-real_score) + F.softplus(fake_score)) / n
        fake_score = self.dis(self.gen(np.random.normal(size=(n, 4)).astype(x.dtype)))
        yield self.gen, F.sum(F.softplus(-fake_score)) / n


VISION = [
    Entry("MLP", MLP, points, spoil=far_away, error=wrong_classes),
    Entry("CNN with BatchNormalization", CNN, images, on_unsupported="skip"),
    Entry("VAE", VAE, curve, scope="model", spoil=burst, error=misfit, rate=0.01),
    Entry("DCGAN", DCGAN, images),
]
