"""Second derivatives in the parameters: a switch from estimates back to exact sums."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

_state = threading.local()


@contextmanager
def exact_backward() -> Iterator[None]:
    r"""Inside, backward passes through robust layers give exact derivatives: plain sums.

    A robust layer hands an estimate to its parameters whenever a backward pass comes by. That is
    what training wants, also of a loss with a gradient penalty: a sample's row is then all that it
    adds to the objective. But the derivative of a robust gradient g(W) in W,

    .. math:: \frac{d}{dW} \phi\big(g(W)\big),

    goes through the layer once more, and there the sum over the samples belongs: an estimate in its
    place would be no derivative. Compute the robust gradient outside and differentiate it inside.
    In x and gy the derivatives are the same with and without. The switch belongs to one thread.

    Example:
        >>> import numpy as np, chainrob
        >>> import chainer
        >>> layer = chainrob.links.Linear(2, 1, robustifier=chainrob.SoftTruncation())
        >>> loss = chainer.functions.mean(layer(np.eye(2, dtype=np.float32)) ** 2)
        >>> (gW,) = chainer.grad([loss], [layer.W], enable_double_backprop=True)
        >>> with chainrob.exact_backward():
        ...     (ggW,) = chainer.grad([chainer.functions.sum(gW**2)], [layer.W])
        >>> ggW.shape
        (1, 2)
    """
    before = is_exact()
    _state.exact = True
    try:
        yield
    finally:
        _state.exact = before


def is_exact() -> bool:
    """Whether this thread is inside ``exact_backward``."""
    return getattr(_state, "exact", False)
