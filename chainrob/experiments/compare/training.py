"""One data set, one robustifier, one seed: all contaminations and learning rates in one graph."""

from __future__ import annotations

import warnings
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

import chainer
from chainrob.experiments.compare.problems import Problem, make_problem
from chainrob.experiments.compare.settings import CompareSettings, make_robustifier
from chainrob.links import MLP, Ensemble
from chainrob.robustifiers import ConvergenceWarning
from chainrob.training import ReplicaRates

__all__ = ["ERROR_LIMIT", "train_cell"]

Array = NDArray[Any]

ERROR_LIMIT = 10.0
"""A regression's error is cut off here; a network that diverged has this error, or 1 if it
classifies."""


def train_cell(
    settings: CompareSettings, data: str, robustifier: str, seed: int
) -> NDArray[np.float64]:
    """Train on every contamination at every learning rate; validation and test errors.

    The error is the share of misclassified points, or 1 - R^2 for a regression. Which points make
    up a batch and the initial weights depend on (settings.seed, data, seed) alone.

    Args:
        settings: The comparison.
        data: Name of the data set.
        robustifier: As in the settings; the same on all layers.
        seed: Number of the seed.

    Returns:
        array: Shape (contaminations, learning rates, 2).

    Example:
        >>> from chainrob.experiments.compare import CompareSettings, train_cell
        >>> settings = CompareSettings(contaminations=("none", "push"), updates=3,
        ...     learning_rates=(0.1, 0.3))
        >>> train_cell(settings, "iris", "mean", 0).shape
        (2, 2, 2)
    """
    number = settings.seed * 1_000_003 + seed
    problems = [make_problem(data, text, number) for text in settings.contaminations]
    first, rates = problems[0], settings.learning_rates
    n, size = len(first.x_train), min(settings.batch, len(first.x_train))
    estimator = make_robustifier(robustifier, size, settings.assumed)
    rng = np.random.default_rng(np.random.SeedSequence([number, 1]))
    dims = (first.x_train.shape[1], settings.hidden, first.n_outputs)
    start = [rng.normal(scale=p**-0.5, size=(q, p)) for p, q in pairwise(dims)]
    member = MLP(dims, [estimator] * (len(dims) - 1))
    for layer, W in zip(member.layers, start, strict=True):
        layer.W.array[...] = W
        layer.b.array[...] = 0
    model = Ensemble([member] * (len(problems) * len(rates)))
    optimizer = chainer.optimizers.SGD(1.0).setup(model)
    optimizer.add_hook(ReplicaRates(list(rates) * len(problems)))
    x, t = (np.repeat(_stacked(problems, f), len(rates), axis=0) for f in ("x_train", "t_train"))
    with np.errstate(all="ignore"), warnings.catch_warnings():
        # What diverges shows it by its error.
        warnings.simplefilter("ignore", RuntimeWarning)
        warnings.simplefilter("ignore", ConvergenceWarning)
        for _ in range(settings.updates):
            batch = rng.choice(n, size, replace=False)
            model.cleargrads()
            _backward(model(x[:, batch]), t[:, batch], first.classification)
            optimizer.update()
        errors = [
            _errors(model, getattr(first, f"x_{part}"), getattr(first, f"t_{part}"))
            for part in ("validation", "test")
        ]
    return np.stack(errors, axis=-1).reshape(len(problems), len(rates), 2)


def _stacked(problems: list[Problem], field: str) -> Array:
    return np.stack([getattr(one, field) for one in problems])


def _backward(scores: Any, t: Array, classification: bool) -> None:
    """Back-propagate the sum over replicas of each one's mean loss."""
    replicas, points, outputs = scores.shape
    flat = chainer.functions.reshape(scores, (replicas * points, outputs))
    target = t.reshape(replicas * points, *t.shape[2:])
    if classification:
        losses = chainer.functions.softmax_cross_entropy(flat, target, reduce="no")
    else:
        losses = 0.5 * chainer.functions.squared_error(flat, target)
    losses.grad = np.full_like(losses.array, 1 / points)
    losses.backward()


def _errors(model: Any, x: Array, t: Array) -> Array:
    """The error of every replica on clean points."""
    with chainer.no_backprop_mode():
        y = model(np.broadcast_to(x, (model.n_replicas, *x.shape))).array
    if t.dtype.kind == "i":
        wrong = (y.argmax(axis=-1) != t) | ~np.isfinite(y).all(axis=-1)
        return np.asarray(wrong.mean(axis=-1), np.float64)
    residual = ((y.astype(np.float64) - t) ** 2).mean(axis=(1, 2)) / t.var(dtype=np.float64)
    return np.minimum(np.where(np.isfinite(residual), residual, ERROR_LIMIT), ERROR_LIMIT)
