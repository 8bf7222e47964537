"""How a layer turns its sample gradients into gradients: the settings that all fronts share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from chainrob.aggregation.exact import is_exact
from chainrob.aggregation.sample_index import SampleIndex, current_samples
from chainrob.robustifiers.mean import Mean

Scope = Literal["unit", "parameter", "layer", "model"]
Reduction = Literal["mean", "sum"]
SCOPES = ("unit", "parameter", "layer", "model")
REDUCTIONS = ("mean", "sum")


def check_options(robustifier: Any, loss_reduction: str, scope: str) -> None:
    """Raise where the keyword arguments that all robust functions and links share make no sense."""
    if robustifier is not None and not callable(robustifier):
        raise TypeError(
            f"robustifier must be None, a Robustifier or a callable (N, D) -> (D,), "
            f"found {robustifier!r}"
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
