"""One data set, one method, one seed: all contaminations and candidates in one graph."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

import chainer
from chainrob.experiments.compare.data_sources import parse_data
from chainrob.experiments.compare.linear_fits import fit_cell
from chainrob.experiments.compare.losses import loss_of
from chainrob.experiments.compare.methods import (
    Candidate,
    candidates,
    make_robustifier,
    method_of,
)
from chainrob.experiments.compare.problems import Problem, make_problem, scaled
from chainrob.experiments.compare.replica_network import make_network, patches
from chainrob.experiments.compare.scores import clean_error, validation_score
from chainrob.experiments.descent import descend
from chainrob.links import Ensemble
from chainrob.robustifiers import ConvergenceWarning
from chainrob.training import ReplicaRates, RobustGradient

__all__ = ["train_cell"]

Array = NDArray[Any]

_REPLICAS = 120
"""Number of replicas in one graph. They are enough to hide the overhead of a step, and few enough
for the processor's cache."""

_CHECKS = 5
"""Number of times at which early stopping looks at the validation points."""


def train_cell(
    data: str,
    method: str,
    seed: int,
    contaminations: Sequence[str],
    rates: Sequence[float],
    updates: int,
) -> NDArray[np.float64]:
    """Train every candidate of a method on every contamination.

    The batches and the initial weights depend only on (data, seed).

    Args:
        data: A data set, as ``parse_data`` reads it.
        method: A method, as ``method_of`` reads it.
        seed: Seed of split, contamination, batches and weights.
        contaminations: Contaminations, as ``parse_contamination`` reads them.
        rates: Learning rates of SGD with momentum 0.9; see ``candidates``.
        updates: Number of updates of the parameters.

    Returns:
        array: (contaminations, candidates, 3): score on contaminated validation points, error on
        clean test points, processor seconds for one model.

    Example:
        >>> from chainrob.experiments.compare import train_cell
        >>> train_cell("iris", "plain mean", 0, ["none", "push:0.1"], [0.01, 0.1], 3).shape
        (2, 2, 3)
    """
    problems = [make_problem(data, text, seed) for text in contaminations]
    chosen = candidates(method_of(method), tuple(rates))
    if chosen[0].method.family == "linear fit":
        return fit_cell(method, problems, len(chosen))
    at_once = max(1, _REPLICAS // len(chosen))
    parts = [
        _train_together(data, problems[i : i + at_once], chosen, seed, updates)
        for i in range(0, len(problems), at_once)
    ]
    return np.concatenate(parts)


def _train_together(
    data: str, problems: Sequence[Problem], chosen: list[Candidate], seed: int, updates: int
) -> NDArray[np.float64]:
    source, first = parse_data(data), problems[0]
    begun = time.process_time()
    n, size = len(first.x_train), min(source.batch, len(first.x_train))
    rng = np.random.default_rng(np.random.SeedSequence([seed, 1]))
    cells = [(problem, one) for problem in problems for one in chosen]
    prepared = {
        (id(problem), how): scaled(problem, how)
        for problem in problems
        for how in {one.method.inputs for one in chosen}
    }
    inputs = [prepared[id(problem), one.method.inputs] for problem, one in cells]
    if source.network.startswith("cnn"):
        assert source.pixels is not None
        shown: dict[int, Any] = {}
        for parts in prepared.values():
            shown[id(parts)] = tuple(patches(part, source.pixels) for part in parts)
        inputs = [shown[id(parts)] for parts in inputs]
    x = np.stack([parts[0] for parts in inputs])
    t = np.stack([problem.t_train for problem, _ in cells])
    t = t if first.classification else t.astype(np.float32)
    members = {
        one.method: make_network(
            source.network,
            first.x_train.shape[1],
            first.n_outputs,
            make_robustifier(one.method.robustifier, size),
            one.method.scope,
            source.pixels,
            np.random.SeedSequence([seed, 2]),
        )
        for one in chosen
    }
    model = Ensemble([members[one.method] for _, one in cells])
    optimizer = chainer.optimizers.MomentumSGD(1.0, momentum=0.9).setup(model)
    method = chosen[0].method
    if method.scope == "model" and method.robustifier is not None:
        optimizer.add_hook(RobustGradient(model))
    if method.clip:
        optimizer.add_hook(_ClipLayers([float(one.method.clip) for _, one in cells]))
    optimizer.add_hook(ReplicaRates([one.rate for _, one in cells]))
    loss = loss_of(method.loss, first.classification)[0]
    parameters = [loss_of(one.method.loss, first.classification)[1] for _, one in cells]
    parameter = np.array(parameters, np.float32)[:, None, None]
    batches = [rng.choice(n, size, replace=False) for _ in range(updates)]
    checks = {updates}
    if method.early:
        checks = {max(1, round(updates * (i + 1) / _CHECKS)) for i in range(_CHECKS)}
    found: list[Array] = []

    def backward(step: int, scores: chainer.Variable) -> None:
        _, gradient = loss(scores.array, t[:, batches[step]], parameter)
        scores.grad = (gradient / size).astype(scores.dtype, copy=False)
        scores.backward()

    def updated(done: int) -> None:
        if done in checks:
            found.append(_judge(model, inputs, [problem for problem, _ in cells]))

    with np.errstate(all="ignore"), warnings.catch_warnings():
        # A replica that diverges shows it by its error.
        warnings.simplefilter("ignore", RuntimeWarning)
        warnings.simplefilter("ignore", ConvergenceWarning)
        descend(
            optimizer, updates, lambda step: model(x[:, batches[step]]), backward, updated=updated
        )
    scores = np.stack(found)  # (times, replicas, 2)
    best = scores[..., 0].argmin(axis=0)
    result = np.take_along_axis(scores, best[None, :, None], axis=0)[0]
    seconds = np.full((len(cells), 1), (time.process_time() - begun) / len(cells))
    return np.concatenate([result, seconds], axis=1).reshape(len(problems), len(chosen), 3)


def _judge(model: Any, inputs: Sequence[Any], problems: Sequence[Problem]) -> Array:
    """Validation score and test error of every replica, (replicas, 2)."""
    outputs = []
    for part in (1, 2):
        with chainer.no_backprop_mode():
            outputs.append(model(np.stack([one[part] for one in inputs])).array)
    return np.array(
        [
            (
                validation_score(outputs[0][i], problem.t_validation),
                clean_error(outputs[1][i], problem.t_test),
            )
            for i, problem in enumerate(problems)
        ]
    )


class _ClipLayers:
    """Optimizer hook that clips the norm of each link's batch gradient, W and b together.

    Args:
        limits: One limit per replica.
    """

    name = "ClipLayers"
    timing = "pre"
    call_for_each_param = False

    def __init__(self, limits: Sequence[float]) -> None:
        self.limits = np.array(limits)

    def __call__(self, optimizer: Any) -> None:
        for link in optimizer.target.links():
            own = [one for one in link.params(include_uninit=False) if one.grad is not None]
            if any(True for _ in link.children()) or not own:
                continue
            squares = sum(
                np.square(one.grad, dtype=np.float64).reshape(len(self.limits), -1).sum(axis=1)
                for one in own
            )
            factor = np.minimum(1, self.limits / np.maximum(np.sqrt(squares), 1e-30))
            for one in own:
                one.grad = one.grad * factor.astype(one.dtype).reshape(-1, *[1] * (one.ndim - 1))
