"""The options that all functions with robust gradients share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from chainrob.aggregation import Aggregation, Reduction, Scope
from chainrob.torch.robust_call import LayerKind, run

__all__ = ["Runner", "runner_of"]

Runner = Callable[..., Tensor]
"""``run`` with everything filled in but the kind, the input and the parameters."""


def runner_of(
    robustifier: Callable[[Any], Any] | None = None,
    loss_reduction: Reduction = "mean",
    scope: Scope = "layer",
    sample_axis: int = 0,
) -> Runner:
    """``run`` with the options of a function."""
    plan = Aggregation(robustifier, loss_reduction, scope)

    def runner(kind: LayerKind, x: Tensor, *parameters: Tensor | None) -> Tensor:
        return run(kind, x, parameters, plan, sample_axis=sample_axis)

    return runner
