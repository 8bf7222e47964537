"""A plain function of the rows as a robustifier."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from chainrob.robustifiers.estimates import Estimate, together
from chainrob.robustifiers.robustifier import Policy, Robustifier
from chainrob.sample_gradients import SampleGradients
from chainrob.sample_gradients.operator_base import Array


@dataclass(frozen=True, repr=False)
class FromFunction(Robustifier):
    """Any function (N, D) -> (D,) of an array of rows, with the library's checks around it.

    It is what a robust layer makes of a plain callable. The rows of one problem (a unit, a
    parameter, a layer; one replica) are built and handed over in the dtype of the gradients, so the
    memory is N * D numbers; ``MemoryError`` says so above a limit. The answer must have shape (D,).

    Args:
        function: (N, D) -> (D,), NumPy or CuPy.
        nonfinite: as for every robustifier, but ``'propagate'`` by default: the function sees all
            rows.

    Raises:
        TypeError: not a callable.
        ValueError: at the call, an answer of another shape.

    Example:
        >>> import numpy as np
        >>> from chainrob.robustifiers import FromFunction
        >>> def midrange(rows):
        ...     return (rows.min(axis=0) + rows.max(axis=0)) / 2
        >>> FromFunction(midrange)(np.array([[1.0], [2.0], [5.0]]))
        array([3.])
    """

    function: Callable[[Array], Array]
    nonfinite: Policy = field(default="propagate", kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not callable(self.function):
            raise TypeError(f"FromFunction: function must be callable, found {self.function!r}")

    def _estimate(self, gradients: SampleGradients, watch: bool = False) -> Estimate:
        if not gradients.replicas:
            rows = gradients.materialize()
            return Estimate(gradients.unflatten(self._checked(rows, gradients.dtype)))
        parts = [self._estimate(gradients.replica((t,))) for t in range(gradients.replicas[0])]
        return together(gradients.xp.stack, parts)

    def _checked(self, rows: Array, dtype: np.dtype) -> Array:
        result = self.function(rows.astype(dtype, copy=False))
        found = getattr(result, "shape", type(result).__name__)
        if found != rows.shape[1:]:
            raise ValueError(
                f"robustifier {self.function!r} must turn an array of shape {rows.shape} into one "
                f"of shape {rows.shape[1:]}, found {found}"
            )
        return result.astype(dtype, copy=False)
