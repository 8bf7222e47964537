"""The derivatives of elementary operations as text, for the tables of a trace, and their cost.

In a formula ``{0}`` and ``{1}`` are the arguments, ``{y}`` is the result, and ``{c}`` is the
constant.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

__all__ = ["partials", "term"]

# Node class -> for each argument, the partial derivative and its number of operations.
_TABLE: dict[str, tuple[tuple[str, int], ...]] = {
    "Identity": (("1", 0),),
    "Neg": (("-1", 0),),
    "Add": (("1", 0), ("1", 0)),
    "AddConstant": (("1", 0),),
    "Sub": (("1", 0), ("-1", 0)),
    "SubFromConstant": (("-1", 0),),
    "Mul": (("{1}", 0), ("{0}", 0)),
    "MulConstant": (("{c}", 0),),
    "Div": (("1 / {1}", 1), ("-{0} / {1}**2", 3)),
    "DivFromConstant": (("-{c} / {0}**2", 3),),
    "PowVarVar": (("{1} {0}**({1} - 1)", 3), ("{y} log({0})", 2)),
    "PowConstVar": (("log({c}) {y}", 2),),
    "Square": (("2 {0}", 1),),
    "Sqrt": (("1 / (2 {y})", 2),),
    "Exp": (("{y}", 0),),
    "Expm1": (("({y} + 1)", 1),),
    "Log": (("1 / {0}", 1),),
    "Log1p": (("1 / (1 + {0})", 2),),
    "Log2": (("1 / (log(2) {0})", 2),),
    "Log10": (("1 / (log(10) {0})", 2),),
    "Sin": (("cos({0})", 1),),
    "Cos": (("-sin({0})", 2),),
    "Tan": (("(1 + {y}**2)", 2),),
    "Sinh": (("cosh({0})", 1),),
    "Cosh": (("sinh({0})", 1),),
    "Tanh": (("(1 - {y}**2)", 2),),
    "Arcsin": (("1 / sqrt(1 - {0}**2)", 4),),
    "Arccos": (("-1 / sqrt(1 - {0}**2)", 4),),
    "Arctan": (("1 / (1 + {0}**2)", 3),),
    "Sigmoid": (("{y} (1 - {y})", 2),),
    "Softplus": (("1 / (1 + exp(-{0}))", 4),),
    "Absolute": (("sign({0})", 1),),
    "ReLU": (("[{0} > 0]", 1),),
    "Maximum": (("[{0} > {1}]", 1), ("[{1} > {0}]", 1)),
    "Minimum": (("[{0} < {1}]", 1), ("[{1} < {0}]", 1)),
}


def partials(
    node: Any, inputs: Sequence[str], output: str, elementwise: bool, value: int
) -> list[tuple[str, int]]:
    """Partial derivative of a step in each argument, as (text, operations per number).

    An operation that is not in the table gets the symbol of its derivative, such as ``du3/du1``.
    Most such operations are linear or bilinear (a sum, a matrix product). So a product with the
    derivative costs as much as the operation itself: ``value``.
    """
    name = type(node).__name__
    constant: Any = getattr(node, "value", None)
    if name == "PowVarConst" and getattr(constant, "ndim", 0) == 0:
        return [(_power(float(constant), inputs[0]))]
    if name == "MultiAdd":
        return [("1", 0)] * len(inputs)
    if not elementwise or name not in _TABLE or len(_TABLE[name]) != len(inputs):
        return [(f"(d{output}/d{one})", value) for one in inputs]
    scalar = constant is not None and getattr(constant, "ndim", 0) == 0
    shown = f"{float(constant):g}" if scalar else "c"
    return [(text.format(*inputs, y=output, c=shown), count) for text, count in _TABLE[name]]


def _power(exponent: float, name: str) -> tuple[str, int]:
    less = exponent - 1
    if less == 0:
        return "1", 0
    if less == 1:
        return f"2 {name}", 1
    power = f"{name}**{less:g}" if less > 0 else f"{name}**({less:g})"
    return f"{exponent:g} {power}", 2


def term(partial: str, factor: str, *, behind: bool) -> str:
    """The product of a partial derivative and another derivative, as text.

    Args:
        partial: Text of the partial derivative.
        factor: Name of the other derivative.
        behind: Whether the factor comes last, as in forward mode, or first.
    """
    sign, partial = ("-", partial[1:]) if partial.startswith("-") else ("", partial)
    if partial == "1":
        return sign + factor
    if partial.startswith("1 / "):
        return f"{sign}{factor} / {partial[4:]}"
    if " / " in partial and not partial.startswith("("):
        partial = f"({partial})"
    return f"{sign}{partial} {factor}" if behind else f"{sign}{factor} {partial}"


def total(terms: Sequence[str]) -> str:
    """A sum of terms as text, with minus signs instead of '+ -'."""
    return re.sub(r"\+ -", "- ", " + ".join(terms)) if terms else "0"
