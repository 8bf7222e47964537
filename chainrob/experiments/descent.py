"""Gradient descent of many replicas in one graph: the loop that all experiments share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import chainer

__all__ = ["descend", "misclassified", "start_backward"]


def descend(
    optimizer: Any,
    updates: int,
    forward: Callable[[int], chainer.Variable],
    backward: Callable[[int, chainer.Variable], object],
    *,
    begin: int = 0,
    observe: Callable[[int, chainer.Variable], object] | None = None,
    updated: Callable[[int], object] | None = None,
) -> None:
    """Run some updates of the optimizer's target.

    Args:
        optimizer: An optimizer that is set up with the model.
        updates: The number of the last update.
        forward: A function of ``time`` that returns the scores after ``time`` updates.
        backward: A function of ``(time, scores)`` that back-propagates their loss.
        begin: Number of updates that were done before.
        observe: Called with ``(time, scores)`` before each update, and once more at the end.
        updated: Called with the number of updates after each of them.

    Example:
        >>> import numpy as np
        >>> import chainer
        >>> from chainrob.experiments.descent import descend, start_backward
        >>> model = chainer.links.Linear(1, 1, initialW=0.0)
        >>> x = np.ones((2, 1), np.float32)
        >>> optimizer = chainer.optimizers.SGD(0.5).setup(model)
        >>> descend(optimizer, 9, lambda time: model(x),
        ...     lambda time, y: start_backward(0.5 * (y - 3) ** 2))
        >>> round(float(model(x).array[0, 0]), 2)
        3.0
    """
    for time in range(begin, updates + 1):
        if observe is None and time == updates:
            break
        scores = forward(time)
        if observe is not None:
            observe(time, scores)
        if time == updates:
            break
        optimizer.target.cleargrads()
        backward(time, scores)
        optimizer.update()
        if updated is not None:
            updated(time + 1)


def start_backward(losses: chainer.Variable, points: int | None = None) -> None:
    """Back-propagate the sum of the replicas' mean losses.

    Every loss gets the gradient 1 / points. So a replica has the same numbers, bit for bit, for any
    number of replicas. A mean over all losses, times the number of replicas, would be rounded
    differently for each number.

    Args:
        losses: One loss per point, in any shape.
        points: Number of points in one replica's batch; None is the length of the first axis.
    """
    losses.grad = losses.xp.full_like(losses.array, 1 / (points or len(losses)))
    losses.backward()


def misclassified(scores: Any, t: Any) -> Any:
    """Share of misclassified points of each replica, from scores (T, N, classes).

    A point with a non-finite score counts as misclassified, so a diverged replica has the error 1.
    """
    xp = chainer.backend.get_array_module(scores)
    wrong = (scores.argmax(axis=-1) != t) | ~xp.isfinite(scores).all(axis=-1)
    return wrong.mean(axis=-1)
