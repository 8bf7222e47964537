"""How a layer turns its sample gradients into gradients: the settings that all fronts share, and
the switch back to plain sums.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from chainrob.aggregation.sample_index import SampleIndex, current_samples
from chainrob.robustifiers.mean import Mean

Scope = Literal["unit", "parameter", "layer", "model"]
Reduction = Literal["mean", "sum"]
SCOPES = ("unit", "parameter", "layer", "model")
REDUCTIONS = ("mean", "sum")

_state = threading.local()


def check_options(robustifier: Any, loss_reduction: str, scope: str) -> None:
    """Raise where the keyword arguments that all robust functions and links share make no sense."""
    if robustifier is not None and not callable(robustifier):
        cure = ""
        if isinstance(robustifier, str):
            cure = f"; chainrob.robustifiers.get({robustifier!r}) makes one from its name"
        raise TypeError(
            f"robustifier must be None, a Robustifier or a callable (N, D) -> (D,), "
            f"found {robustifier!r}{cure}"
        )
    if isinstance(robustifier, type):
        raise TypeError(f"robustifier must be an instance, found the class {robustifier.__name__}")
    if loss_reduction not in REDUCTIONS:
        raise ValueError(f"loss_reduction must be one of {REDUCTIONS}, found {loss_reduction!r}")
    if scope not in SCOPES:
        raise ValueError(f"scope must be one of {SCOPES}, found {scope!r}")


@dataclass(frozen=True, eq=False)
class Aggregation:
    """How a layer turns its sample gradients into gradients: what all robust functions share.

    Args:
        robustifier: a Robustifier, any callable (N, D) -> (D,), or None for the plain sum.
        loss_reduction: ``'mean'`` or ``'sum'``.
        scope: ``'unit'``, ``'parameter'``, ``'layer'``; ``'model'`` only with an owner.
        owner: the layer that runs the function (a Chainer link, a PyTorch module), by which
            observers and recorders know it.
        samples: which rows are one sample: what ``chainrob.samples`` says when the layer is run.
    """

    robustifier: Callable[[Any], Any] | None
    loss_reduction: Reduction = "mean"
    scope: Scope = "layer"
    owner: Any = None
    samples: SampleIndex | None = field(default_factory=current_samples)

    def __post_init__(self) -> None:
        check_options(self.robustifier, self.loss_reduction, self.scope)
        if self.scope == "model" and self.owner is None:
            raise ValueError(
                "scope='model' joins the links of a model, so a function by itself has none; "
                "use the robust link, or another scope"
            )

    @classmethod
    def of(cls, robustifier: Any, loss_reduction: Reduction, scope: Scope) -> Aggregation:
        """The settings as one object; itself where ``robustifier`` is one already, as from a
        layer that hands over its own.
        """
        if isinstance(robustifier, Aggregation):
            return robustifier
        return cls(robustifier, loss_reduction, scope)

    def axis_of(self, n_batch_axes: int) -> int:
        """Which of a layer's batch axes counts the samples: the first, unless
        ``chainrob.samples`` says another and the layer has it.
        """
        axis = 0 if self.samples is None else self.samples.axis
        return axis if axis < n_batch_axes else 0

    def now(self) -> Aggregation:
        """The settings themselves; those of the plain sum inside ``exact_backward``, or where there
        is no robustifier.
        """
        if self.robustifier is not None and not is_exact():
            return self
        return Aggregation(
            Mean(nonfinite="propagate"), self.loss_reduction, "parameter", None, None
        )


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
