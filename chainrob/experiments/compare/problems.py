"""A problem: contaminated points for training and validation, and clean points for the test."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from chainrob.experiments.compare.corruption import corrupt
from chainrob.experiments.compare.data_sources import load_sample, parse_data

__all__ = ["Problem", "make_problem", "scaled"]

Array = NDArray[Any]


class Problem(NamedTuple):
    """Training and validation points are contaminated alike; test points are clean."""

    x_train: Array
    t_train: Array
    x_validation: Array
    t_validation: Array
    x_test: Array
    t_test: Array
    n_outputs: int
    classification: bool
    alike: bool
    """Whether all features have one unit, like pixels, and are scaled together."""


def make_problem(data: str, contamination: str, seed: int) -> Problem:
    """Split into 60% training, 20% validation and 20% test points, and contaminate the first two.

    The split and the bad points depend only on (data, seed). The bad points of a larger share
    include those of a smaller one. Inputs are divided by their clean deviations before they are
    contaminated. This only sets the size of the contamination: every method scales them again, by
    the contaminated training points (``scaled``).

    Args:
        data: A data set, as ``parse_data`` reads it.
        contamination: A contamination, as ``parse_contamination`` reads it.
        seed: Seed of split and contamination.

    Returns:
        Problem: float64 inputs (n, d); int32 classes (n,), or float64 responses (n, 1), of unit
        variance over the clean training points.

    Example:
        >>> from chainrob.experiments.compare import make_problem
        >>> problem = make_problem("iris", "labels:0.2", seed=0)
        >>> problem.x_train.shape, problem.n_outputs, problem.classification
        ((90, 4), 3, True)
    """
    source, sample = parse_data(data), load_sample(data)
    x, t, truth = sample
    streams = np.random.SeedSequence([seed, *data.encode()]).spawn(3)
    order = np.random.default_rng(streams[0]).permutation(len(x))
    a, b = int(0.6 * len(x)), int(0.8 * len(x))
    train, validation, test = order[:a], order[a:b], order[b:]
    alike = source.pixels is not None
    deviation = x[train].std() if alike else x[train].std(axis=0)
    x = (x - x[train].mean(axis=0)) / np.where(deviation > 0, deviation, 1.0)
    if not source.classification:
        middle, spread = t[train].mean(), t[train].std()
        t, truth = (t - middle) / spread, (truth - middle) / spread
    parts: list[Array] = []
    for rows, stream in ((train, streams[1]), (validation, streams[2])):
        parts += corrupt(contamination, x[rows], t[rows], stream)
    parts += (x[test], truth[test])
    kind = np.int32 if source.classification else np.float64
    targets: list[Array] = [one.astype(kind) for one in parts[1::2]]
    if not source.classification:
        targets = [one[:, None] for one in targets]
    outputs = int(t.max()) + 1 if source.classification else 1
    return Problem(
        parts[0], targets[0], parts[2], targets[1], parts[4], targets[2], outputs,
        source.classification, alike,
    )  # fmt: skip


def scaled(problem: Problem, how: str) -> tuple[Array, Array, Array]:
    """Training, validation and test inputs as a method sees them, float32.

    Args:
        problem: The problem. Its contaminated training points set the scale.
        how: ``'robust'``: by median and quartiles; if the quartiles of a feature coincide, its
            scale is the median scale of the others. ``'standard'``: by mean and standard deviation.
            ``'clipped=C'``: robust, then clipped at C deviations from the median.

    Returns:
        tuple: Three arrays (n, d). Values are clipped at +-1e30, so that float32 can hold them.
    """
    kind, _, limit = how.partition("=")
    axis = None if problem.alike else 0
    x = problem.x_train
    if kind == "standard":
        center, spread = x.mean(axis=axis), np.asarray(x.std(axis=axis))
    else:
        low, center, high = np.quantile(x, (0.25, 0.5, 0.75), axis=axis)
        spread = np.asarray(high - low) / 1.349
        known = spread[spread > 0] if spread.ndim else spread
        fallback = np.median(known) if np.size(known) and np.all(known) else 1.0
        spread = np.where(spread > 0, spread, fallback)
    spread = np.where(spread > 0, spread, 1.0)
    bound = float(limit) if kind == "clipped" else 1e30
    return tuple(
        np.clip((part - center) / spread, -bound, bound).astype(np.float32)
        for part in (x, problem.x_validation, problem.x_test)
    )
