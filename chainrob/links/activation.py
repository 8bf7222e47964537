"""Drop-ins for the activations of ``chainer.links`` that have parameters."""

from __future__ import annotations

from typing import Any

import chainer
from chainrob.functions.activation_functions import prelu, swish
from chainrob.links.robust_link import RobustLink


class PReLU(RobustLink, chainer.links.PReLU):
    """Parametric ReLU with a robust gradient of its slopes: see ``chainrob.functions.prelu``.

    It takes the arguments of ``chainer.links.PReLU``, holds the same parameter under the same name,
    and reads and writes the same files. With ``robustifier=None`` it is that link.

    Args:
        shape, init: as in ``chainer.links.PReLU``.
        robustifier: a ``chainrob.Robustifier``, any callable (N, D) -> (D,), or None (the plain
            sum).
        loss_reduction: ``'mean'`` or ``'sum'``, the loss's reduction over the samples.
        scope: ``'unit'``, ``'parameter'``, ``'layer'`` or ``'model'``.

    Example:
        >>> import numpy as np, chainrob
        >>> layer = chainrob.links.PReLU((3,), robustifier=chainrob.TrimmedMean(0.1))
        >>> layer(np.zeros((5, 3), np.float32)).shape
        (5, 3)
    """

    stock = chainer.links.PReLU

    def forward(self, x: Any) -> chainer.Variable:
        """y, of the shape of x."""
        return prelu(x, self.W, robustifier=self.aggregation)


class Swish(RobustLink, chainer.links.Swish):
    """Swish with a robust gradient of beta: see ``chainrob.functions.swish``.

    It takes the arguments of ``chainer.links.Swish``, holds the same parameter under the same name,
    and reads and writes the same files. With ``robustifier=None`` it is that link.

    Args:
        beta_shape, beta_init: as in ``chainer.links.Swish``.
        robustifier, loss_reduction, scope: as in ``PReLU``.

    Example:
        >>> import numpy as np, chainrob
        >>> layer = chainrob.links.Swish((3,), robustifier=chainrob.TrimmedMean(0.1))
        >>> layer(np.zeros((5, 3), np.float32)).shape
        (5, 3)
    """

    stock = chainer.links.Swish

    def forward(self, x: Any) -> chainer.Variable:
        """y, of the shape of x."""
        if self.beta.array is None:
            self.beta.initialize(x.shape[1:])
        return swish(x, self.beta, robustifier=self.aggregation)
