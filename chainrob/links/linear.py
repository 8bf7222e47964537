"""Drop-in for ``chainer.links.Linear``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import chainer
from chainrob.aggregation import Reduction, Scope
from chainrob.functions.linear_function import linear
from chainrob.links.robust_link import RobustLink


class Linear(RobustLink, chainer.links.Linear):
    """Linear layer with robust gradients of W and b.

    It takes the arguments of ``chainer.links.Linear``, holds the same parameters under the same
    names, and reads and writes the same files. With ``robustifier=None`` it is that link, bit for
    bit.

    Args:
        in_size: P, the number of inputs. None reads it off the first batch.
        out_size: Q, the number of outputs.
        nobias: leave out b.
        initialW: initializer of W.
        initial_bias: initializer of b.
        robustifier: a ``chainrob.Robustifier``, any callable (N, D) -> (D,), or None (the plain
            sum). Change it at any time with ``link.robustifier = ...``.
        loss_reduction: ``'mean'`` or ``'sum'``, the loss's reduction over the samples; see
            ``chainrob.functions.linear``.
        scope: ``'unit'``, ``'parameter'``, ``'layer'`` or ``'model'``: which gradients form one row
            for a weighting robustifier. ``'model'`` needs ``chainrob.training.RobustGradient``.

    Example:
        >>> import numpy as np, chainrob
        >>> layer = chainrob.links.Linear(4, 3, robustifier=chainrob.SoftTruncation(delta=0.005))
        >>> layer(np.zeros((5, 4), np.float32)).shape
        (5, 3)
    """

    stock = chainer.links.Linear

    def __init__(
        self,
        in_size: int | None,
        out_size: int | None = None,
        nobias: bool = False,
        initialW: Any = None,
        initial_bias: Any = None,
        *,
        robustifier: Callable[[Any], Any] | None = None,
        loss_reduction: Reduction = "mean",
        scope: Scope = "layer",
    ) -> None:
        super().__init__(
            in_size,
            out_size,
            nobias,
            initialW,
            initial_bias,
            robustifier=robustifier,
            loss_reduction=loss_reduction,
            scope=scope,
        )

    def forward(self, x: Any, n_batch_axes: int = 1) -> chainer.Variable:
        """y = x W^T + b, (N, ..., Q) for x (N, ..., P)."""
        if self.W.array is None:
            in_size = 1
            for extent in x.shape[n_batch_axes:]:
                in_size *= extent
            self._initialize_params(in_size)
        return linear(x, self.W, self.b, n_batch_axes, robustifier=self.aggregation)
