"""Drop-ins for the normalizations of ``chainer.links`` that do not mix samples."""

from __future__ import annotations

from typing import Any

import chainer
from chainrob.functions.gradient_node import runs_plainly
from chainrob.functions.normalization_functions import group_normalization, layer_normalization
from chainrob.links.robust_link import RobustLink


class LayerNormalization(RobustLink, chainer.links.LayerNormalization):
    """Layer normalization with robust gradients of gamma and beta.

    It takes the arguments of ``chainer.links.LayerNormalization``, holds the same parameters under
    the same names, and reads and writes the same files. With ``robustifier=None`` it is that link.

    Args:
        size, eps, initial_gamma, initial_beta: as in ``chainer.links.LayerNormalization``.
        robustifier: a ``chainrob.Robustifier``, any callable (N, D) -> (D,), or None (the plain
            sum).
        loss_reduction: ``'mean'`` or ``'sum'``, the loss's reduction over the samples.
        scope: ``'unit'`` (one channel), ``'parameter'``, ``'layer'`` or ``'model'``.

    Example:
        >>> import numpy as np, chainrob
        >>> layer = chainrob.links.LayerNormalization(3, robustifier=chainrob.GeometricMedian())
        >>> layer(np.zeros((5, 3), np.float32)).shape
        (5, 3)
    """

    stock = chainer.links.LayerNormalization

    def forward(self, x: Any) -> chainer.Variable:
        """y, of the shape (N, C) of x."""
        if runs_plainly(self.aggregation):
            return super().forward(x)
        if self.gamma.array is None:
            super().forward(x)  # initializes the link from the size of x
        return layer_normalization(x, self.gamma, self.beta, self.eps, robustifier=self.aggregation)


class GroupNormalization(RobustLink, chainer.links.GroupNormalization):
    """Group normalization with robust gradients of gamma and beta.

    It takes the arguments of ``chainer.links.GroupNormalization``, holds the same parameters under
    the same names, and reads and writes the same files. With ``robustifier=None`` it is that link.

    Args:
        groups, size, eps, initial_gamma, initial_beta: as in ``chainer.links.GroupNormalization``.
        robustifier, loss_reduction, scope: as in ``LayerNormalization``.

    Example:
        >>> import numpy as np, chainrob
        >>> layer = chainrob.links.GroupNormalization(2, 4, robustifier=chainrob.GeometricMedian())
        >>> layer(np.zeros((5, 4, 6), np.float32)).shape
        (5, 4, 6)
    """

    stock = chainer.links.GroupNormalization

    def forward(self, x: Any) -> chainer.Variable:
        """y, of the shape (N, C, ...) of x."""
        if runs_plainly(self.aggregation):
            return super().forward(x)
        if self.gamma.array is None:
            super().forward(x)
        return group_normalization(
            x, self.groups, self.gamma, self.beta, self.eps, robustifier=self.aggregation
        )
