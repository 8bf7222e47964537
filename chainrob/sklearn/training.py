"""The training loop of the estimators: epochs, stopping, and the weights of the samples."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning

import chainer
from chainrob.aggregation.observers import RankBy
from chainrob.sklearn.network_choice import Network
from chainrob.training import Observation, RobustGradient, WeightAverages, observe

__all__ = ["Course", "batches", "make_optimizer", "run_epoch", "train"]

TRUSTED = 0.9
"""Training goes on while the mean of this share of the losses, the smallest, improves."""


class Course:
    """Whether training still improves: the best value so far, and how long ago it was found."""

    def __init__(self, tol: float, patience: int) -> None:
        self.tol = tol
        self.patience = patience
        self.best = np.inf
        self.waited = 0

    def improved(self, value: float) -> bool:
        """Take the next value. Smaller is better; True if it is the best so far."""
        self.waited = 0 if value < self.best - self.tol else self.waited + 1
        if value < self.best:
            self.best = value
            return True
        return False

    @property
    def finished(self) -> bool:
        """Whether there was no improvement for longer than the patience."""
        return self.waited > self.patience


def make_optimizer(
    solver: str, rate: float, momentum: float, beta_1: float, beta_2: float, epsilon: float
) -> chainer.Optimizer:
    """Chainer's optimizer for a solver's name."""
    if solver == "sgd":
        return chainer.optimizers.SGD(rate)
    if solver == "momentum":
        return chainer.optimizers.MomentumSGD(rate, momentum)
    return chainer.optimizers.Adam(rate, beta_1, beta_2, eps=epsilon)


def batches(order: NDArray[np.int64], batch_size: int) -> Iterator[NDArray[np.int64]]:
    """Cut an order into as few batches as possible, of nearly equal sizes.

    A last batch of one or two samples would be too small for a robustifier.
    """
    yield from np.array_split(order, max(1, -(-len(order) // batch_size)))


def run_epoch(
    network: Network,
    optimizer: chainer.Optimizer,
    losses_of: Callable[[Any, NDArray[np.int64]], chainer.Variable],
    inputs_of: Callable[[NDArray[np.int64]], NDArray[Any]],
    order: NDArray[np.int64],
    batch_size: int,
    alpha: float,
    averages: WeightAverages | None,
    rank_by: RankBy,
) -> NDArray[Any]:
    """Train for one epoch, in this order of the samples.

    Args:
        network, optimizer: The network and its optimizer.
        losses_of: Function from scores and row numbers to the samples' losses.
        inputs_of: Function from row numbers to inputs.
        order: Row numbers, each once.
        batch_size: Largest number of samples in a batch.
        alpha: L2 penalty of the weights. As in scikit-learn, a batch of B samples uses alpha / B.
        averages: Collects the samples' weights, or None.
        rank_by: What it collects: ``'weight'`` or ``'suspicion'``.

    Returns:
        The loss of every sample at the time of its batch, in the order of ``order``.
    """
    losses = []
    rows = order

    def keep(observation: Observation) -> None:
        weights = observation.measure(rank_by)
        if weights is not None and averages is not None:
            averages.add(observation.name, rows, weights)

    with ExitStack() as stack:
        if averages is not None:
            stack.enter_context(observe(network, keep))
        if network.layers[0].scope == "model" and network.layers[0].robustifier is not None:
            # Links report to a hook only while it exists, and it is not pickled.
            hook = RobustGradient(network)
            optimizer.add_hook(hook)
            stack.callback(optimizer.remove_hook, hook.name)
        for rows in batches(order, batch_size):
            one_by_one = losses_of(network(inputs_of(rows)), rows)
            network.cleargrads()
            chainer.functions.mean(one_by_one).backward()
            for layer in network.layers:
                # Added to the estimate, not to the rows: the penalty belongs to no sample.
                layer.W.grad += layer.W.dtype.type(alpha / len(rows)) * layer.W.array
            optimizer.update()
            losses.append(one_by_one.array)
    return np.concatenate(losses)


def train(estimator: Any, epoch: Callable[[], NDArray[Any]], score: Any, copy: Any) -> None:
    """Run epochs until there is no improvement, and set the attributes of scikit-learn's MLP.

    Args:
        estimator: Holds the parameters and gets the attributes.
        epoch: Runs one epoch and returns the losses.
        score: Gives the score on the held-out samples, or None without early stopping.
        copy: Gives a copy of the parameters. Called with a copy, restores it.
    """
    course = Course(estimator.tol, estimator.n_iter_no_change)
    best = None
    begin = time.monotonic()
    for _ in range(estimator.max_iter):
        losses = epoch()
        estimator.n_iter_ += 1
        estimator.t_ += len(losses)
        estimator.loss_ = float(losses.mean(dtype=np.float64))
        estimator.loss_curve_.append(estimator.loss_)
        if score is None:
            count = max(1, int(TRUSTED * len(losses)))
            course.improved(float(np.partition(losses, count - 1)[:count].mean(dtype=np.float64)))
        else:
            estimator.validation_scores_.append(score())
            if course.improved(-estimator.validation_scores_[-1]):
                estimator.best_validation_score_ = estimator.validation_scores_[-1]
                best = copy()
        if estimator.verbose:
            scores = estimator.validation_scores_
            checked = f", validation score = {scores[-1]:.4f}" if scores else ""
            print(
                f"Iteration {estimator.n_iter_}, loss = {estimator.loss_:.8f}{checked}, "
                f"{time.monotonic() - begin:.1f} s",
                flush=True,
            )
        if course.finished:
            if estimator.verbose:
                print(
                    f"Nothing better by tol={estimator.tol} for {estimator.n_iter_no_change} "
                    f"iterations; stopping."
                )
            break
    else:
        warnings.warn(
            f"{type(estimator).__name__} reached max_iter={estimator.max_iter} iterations and was "
            f"still improving",
            ConvergenceWarning,
            stacklevel=3,
        )
    if best is not None:
        copy(best)
