"""The network of the estimators, and the losses of its samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

import chainer
import chainer.functions as F
from chainrob.aggregation import Scope
from chainrob.functions import huber, mean_absolute_error, mean_squared_error
from chainrob.links import MLP

__all__ = ["ACTIVATIONS", "LOSSES", "Network", "sample_losses"]

ACTIVATIONS: dict[str, Callable[[Any], Any]] = {
    "identity": lambda x: x,
    "logistic": F.sigmoid,
    "tanh": F.tanh,
    "relu": F.relu,
}

LOSSES = ("log_loss", "squared_error", "absolute_error", "huber")


class Network(MLP):
    """An MLP with a choice of activations and scikit-learn's initial weights.

    Args:
        dims: Numbers of units from the input to the output.
        robustifier: The robustifier of all layers, or None for the plain sum.
        scope: Which gradients form one row, see ``chainrob.functions.linear``.
        activation: A name in ``ACTIVATIONS``.
        dtype: The dtype of the parameters.
        rng: Generator of the initial weights (uniform, Glorot and Bengio).
    """

    def __init__(
        self,
        dims: Sequence[int],
        robustifier: Callable[[Any], Any] | None,
        scope: Scope,
        activation: str,
        dtype: Any,
        rng: np.random.RandomState,
    ) -> None:
        with chainer.using_config("dtype", np.dtype(dtype)):
            super().__init__(dims, robustifier, initialW=0, initial_bias=0, scope=scope)
        self.activation = activation
        for layer in self.layers:
            fan_out, fan_in = layer.W.shape
            bound = np.sqrt((2.0 if activation == "logistic" else 6.0) / (fan_in + fan_out))
            layer.W.array[...] = rng.uniform(-bound, bound, layer.W.shape)
            layer.b.array[...] = rng.uniform(-bound, bound, layer.b.shape)

    def forward(self, x: Any) -> chainer.Variable:
        """Scores (N, dims[-1]) of inputs (N, dims[0])."""
        activate = ACTIVATIONS[self.activation]
        *hidden, last = self.layers
        for layer in hidden:
            x = activate(layer(x))
        return last(x)


def sample_losses(
    loss: str, scores: chainer.Variable, targets: NDArray[Any], *, classes: bool, delta: float
) -> chainer.Variable:
    r"""The loss of every sample: (N,).

    For classes it is the cross entropy, or the sum over the classes of the loss of p - e. Here p is
    the softmax of the scores and e is the unit vector of the class. For numbers it is the mean over
    the outputs. The squared error is halved, as in scikit-learn.

    Args:
        loss: A name in ``LOSSES``.
        scores: (N, Q).
        targets: Classes (N,), int32; or numbers (N, Q) in the dtype of the scores.
        classes: Whether the targets are classes.
        delta: The error at which Huber's loss turns from a square into a line.
    """
    if loss == "log_loss":
        return F.softmax_cross_entropy(scores, targets, reduce="no")
    if classes:
        onehot = np.zeros(scores.shape, scores.dtype)
        onehot[np.arange(len(targets)), targets] = 1
        scores, targets = F.softmax(scores), onehot
    if loss == "huber":
        means = huber(scores, targets, delta, reduce="no")
    elif loss == "absolute_error":
        means = mean_absolute_error(scores, targets, reduce="no")
    else:
        means = 0.5 * mean_squared_error(scores, targets, reduce="no")
    return scores.shape[1] * means if classes else means
