"""Points where a function has no derivative, as far as its graph tells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from chainrob.differentiation._graph import function_nodes

Variable = Any


def require_differentiable(y: Variable) -> None:
    """Refuse y where its graph has an absolute value of 0 or a maximum or minimum of equals.

    Raises:
        ValueError: one of these is met; the message names it.
    """
    for node in function_nodes(y):
        arrays = [one.data for one in node.inputs]
        if any(array is None for array in arrays):
            continue
        name = type(node).__name__
        if name == "Absolute" and bool((arrays[0] == 0).any()):
            raise ValueError("function is not differentiable there: an absolute value of 0")
        if name in ("Maximum", "Minimum") and bool((arrays[0] == arrays[1]).any()):
            raise ValueError(
                f"function is not differentiable there: a {name.lower()} of equal values"
            )


def require_finite(y: Variable, xs: Sequence[Variable], products: Sequence[Any]) -> None:
    """Refuse derivatives that are not finite where inputs and output are.

    Raises:
        ValueError: there are such.
    """
    arrays = [getattr(one, "array", one) for one in products]
    if all(bool(y.xp.isfinite(one).all()) for one in arrays):
        return
    if all(bool(y.xp.isfinite(one.array).all()) for one in (y, *xs)):
        raise ValueError(
            "function is not differentiable there (or its derivative overflows): inputs and output "
            "are finite, the derivative is not"
        )
