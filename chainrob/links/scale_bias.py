"""Drop-ins for ``chainer.links.Scale`` and ``chainer.links.Bias``."""

from __future__ import annotations

from typing import Any

import chainer
from chainrob.functions.gradient_node import runs_plainly
from chainrob.functions.scale_bias_functions import bias, scale
from chainrob.links.robust_link import RobustLink


def _check_inputs(link: chainer.Link, name: str, xs: tuple[Any, ...]) -> None:
    """Raise if the number of inputs does not fit; in debug mode, the stock link's error."""
    expected = 1 if hasattr(link, name) else 2
    if len(xs) != expected:
        holds = f"holds {name}" if expected == 1 else f"holds no {name}"
        error = AssertionError if chainer.is_debug() else TypeError
        raise error(
            f"{type(link).__name__}: a link that {holds} takes {expected} input"
            f"{'s' if expected > 1 else ''}, found {len(xs)}"
        )


class Bias(RobustLink, chainer.links.Bias):
    """Add b along some axes, with a robust gradient of b.

    It takes the arguments of ``chainer.links.Bias``, holds the same parameter under the same name,
    and reads and writes the same files. With ``robustifier=None``, or without a parameter
    (``shape=None``), it is that link.

    Args:
        axis, shape: as in ``chainer.links.Bias``; with a robustifier, axis must be at least 1.
        robustifier: a ``chainrob.Robustifier``, any callable (N, D) -> (D,), or None (the plain
            sum).
        loss_reduction: ``'mean'`` or ``'sum'``, the loss's reduction over the samples.
        scope: ``'unit'``, ``'parameter'``, ``'layer'`` or ``'model'``.

    Example:
        >>> import numpy as np, chainrob
        >>> layer = chainrob.links.Bias(1, (3,), robustifier=chainrob.CoordinateMedian())
        >>> layer(np.zeros((5, 3, 2), np.float32)).shape
        (5, 3, 2)
    """

    stock = chainer.links.Bias

    def forward(self, *xs: Any) -> chainer.Variable:
        """The sum of x and b, or of two inputs."""
        _check_inputs(self, "b", xs)
        if runs_plainly(self.aggregation) or not hasattr(self, "b"):
            return super().forward(*xs)
        (x,) = xs
        return bias(x, self.b, self.axis, robustifier=self.aggregation)


class Scale(RobustLink, chainer.links.Scale):
    """Multiply by W along some axes, with a robust gradient of W.

    It takes the arguments of ``chainer.links.Scale``, holds the same parameters under the same
    names, and reads and writes the same files. With ``robustifier=None``, or without a parameter,
    it is that link. The bias term is a child link with its own settings. At first they are the
    same.

    Args:
        axis, W_shape, bias_term, bias_shape: as in ``chainer.links.Scale``; with a robustifier,
            axis must be at least 1.
        robustifier, loss_reduction, scope: as in ``Bias``.

    Example:
        >>> import numpy as np, chainrob
        >>> layer = chainrob.links.Scale(1, (3,), True, robustifier=chainrob.CoordinateMedian())
        >>> layer(np.zeros((5, 3, 2), np.float32)).shape
        (5, 3, 2)
    """

    stock = chainer.links.Scale

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if hasattr(self, "bias"):
            self.bias.__class__ = Bias
            self.bias.set_aggregation(self.robustifier, self.loss_reduction, self.scope)

    def forward(self, *xs: Any) -> chainer.Variable:
        """The product of x and W, or of two inputs, and the bias where there is one."""
        _check_inputs(self, "W", xs)
        if runs_plainly(self.aggregation) or not hasattr(self, "W"):
            return super().forward(*xs)
        (x,) = xs
        y = scale(x, self.W, self.axis, robustifier=self.aggregation)
        return self.bias(y) if hasattr(self, "bias") else y
