"""Training of many trials in one graph, and their errors during the training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

import chainer
from chainrob.experiments.descent import descend, misclassified, start_backward
from chainrob.experiments.iris.protocol import IrisSettings
from chainrob.experiments.iris.trials import initial_parameters, trial_data
from chainrob.experiments.iris.unfinished import Unfinished
from chainrob.links import MLP, Ensemble

__all__ = ["make_model", "train"]


def train(
    settings: IrisSettings,
    methods: Sequence[Sequence[Any]],
    trials: Sequence[int],
    device: Any = None,
    advance: Callable[[int], object] | None = None,
    unfinished: Unfinished | None = None,
) -> NDArray[np.float64]:
    """Train some methods on some trials, all of them in one graph.

    The result for a method and a trial does not depend on the other replicas in the graph: no
    operation mixes replicas, and the loss is the sum of the replicas' mean losses.

    A point whose scores are not all finite counts as misclassified, so a trial that diverges shows
    an error of 1.

    Args:
        settings: The run's settings.
        methods: For each method a sequence with one robustifier per layer, or None for the plain
            sum.
        trials: Numbers of the trials.
        device: The device that computes; None is NumPy.
        advance: Called with the number of trials after every update.
        unfinished: The saved state to continue from, and to update during the training.

    Returns:
        array: Shape (methods, trials, recorded times, 2), training and test error after
        ``settings.recorded`` updates.

    Example:
        >>> from chainrob.experiments.iris import iris_settings, train
        >>> settings = iris_settings(iterations=5, record_every=5)
        >>> train(settings, list(settings.methods().values()), [0, 1, 2]).shape
        (2, 3, 2, 2)
    """
    device = device or chainer.get_device("@numpy")
    data = [trial_data(settings, trial) for trial in trials]

    def replicated(name: str, dtype: Any) -> Any:
        """One field of the data: (methods * trials, ...)."""
        array = np.stack([getattr(one, name) for one in data]).astype(dtype)
        return device.send(np.concatenate([array] * len(methods)))

    x_train, x_test = (replicated(name, settings.dtype) for name in ("x_train", "x_test"))
    t_train, t_test = (replicated(name, np.int32) for name in ("t_train", "t_test"))
    model = Ensemble(
        [make_model(settings, layers, trial) for layers in methods for trial in trials]
    )
    model.to_device(device)
    optimizer = chainer.optimizers.SGD(settings.learning_rate).setup(model)
    with chainer.using_device(device):
        errors = device.xp.zeros((len(methods) * len(data), len(settings.recorded), 2))
    column = {time: index for index, time in enumerate(settings.recorded)}

    def observe(time: int, scores: chainer.Variable) -> None:
        if time in column:
            errors[:, column[time], 0] = misclassified(scores.array, t_train)
            with chainer.no_backprop_mode():
                errors[:, column[time], 1] = misclassified(model(x_test).array, t_test)

    def backward(_: int, scores: chainer.Variable) -> None:
        flat = chainer.functions.reshape(scores, (t_train.size, scores.shape[-1]))
        losses = chainer.functions.softmax_cross_entropy(flat, t_train.ravel(), reduce="no")
        start_backward(losses, scores.shape[1])

    def updated(time: int) -> None:
        if advance is not None:
            advance(len(data))
        if unfinished is not None:
            unfinished.keep(time, model, errors)

    # A trial may diverge. Then its numbers overflow, and its error shows it.
    with np.errstate(over="ignore", invalid="ignore"), chainer.using_device(device):
        begin = unfinished.restore(model, errors) if unfinished else 0
        if advance is not None and begin:
            advance(begin * len(data))
        descend(
            optimizer, settings.iterations, lambda _: model(x_train), backward,
            begin=begin, observe=observe, updated=updated,
        )  # fmt: skip
    result: NDArray[np.float64] = chainer.get_device("@numpy").send(errors)
    return result.reshape(len(methods), len(data), *result.shape[1:])


def make_model(settings: IrisSettings, robustifiers: Sequence[Any], trial: int) -> MLP:
    """The network of one trial before its first update.

    Example:
        >>> from chainrob.experiments.iris import iris_settings, make_model
        >>> make_model(iris_settings(), [None, None, None], trial=3).l1.W.shape
        (10, 2)
    """
    dtype = np.dtype(settings.dtype)
    with chainer.using_config("dtype", dtype):
        model = MLP(settings.dims, robustifiers, scope=settings.scope)
    for layer, (W, b) in zip(model.layers, initial_parameters(settings, trial), strict=True):
        layer.W.array[...] = W
        layer.b.array[...] = b
    return model
