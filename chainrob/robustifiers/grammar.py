"""How a robustifier is written as text: on the command line, in a TOML file, for scikit-learn.

The one grammar, wherever a robustifier is named:

- ``NAME``: a class's name in snake case or as it is, ``trimmed_mean`` or ``TrimmedMean``;
- ``NAME(PARAMETER=VALUE, ...)``: with Python literals, which is also what ``repr`` prints;
- ``NAME:PARAMETER=VALUE,...``: the same without quotes for a shell to eat; a value that is no
  Python literal is a string, as in ``soft_truncation:pilot=median``;
- ``A >> B``: a pre-aggregation and what follows it, each written in any of these ways.
"""

from __future__ import annotations

import ast
import re
from typing import Any, NamedTuple

__all__ = ["Step", "read_steps"]

_COLON = re.compile(r"\s*([A-Za-z_]\w*)\s*:(.*)", re.DOTALL)


class Step(NamedTuple):
    """One robustifier or pre-aggregation of an expression."""

    name: str
    arguments: tuple[Any, ...] = ()
    parameters: dict[str, Any] | None = None
    """None for a name alone."""


def read_steps(text: str) -> list[Step]:
    """The steps of an expression in their order, at least one; names are not looked up.

    Raises:
        ValueError: the text is no expression of the grammar; the message has it.

    Example:
        >>> from chainrob.robustifiers.grammar import read_steps
        >>> for step in read_steps("bucketing:size=3 >> trimmed_mean(0.1) >> mean"):
        ...     print(*step)
        bucketing () {'size': 3}
        trimmed_mean (0.1,) {}
        mean () None
    """
    called = " >> ".join(_as_call(part).strip() for part in text.split(">>"))
    try:
        tree = ast.parse(called, mode="eval").body
    except (SyntaxError, ValueError) as error:
        raise _refusal(text) from error
    return _steps(tree, text)


def _as_call(part: str) -> str:
    """``NAME:PARAMETER=VALUE,...`` as a call; anything else as it is."""
    match = _COLON.fullmatch(part)
    if match is None:
        return part
    parameters = []
    for item in filter(None, (item.strip() for item in match[2].split(","))):
        key, equals, value = (piece.strip() for piece in item.partition("="))
        if not equals or not key.isidentifier():
            raise ValueError(f"parameters are written NAME=VALUE, found {item!r}")
        try:
            ast.literal_eval(value)
        except (ValueError, SyntaxError):
            value = repr(value)
        parameters.append(f"{key}={value}")
    return f"{match[1]}({', '.join(parameters)})"


def _steps(node: ast.expr, text: str) -> list[Step]:
    if isinstance(node, ast.Name):
        return [Step(node.id)]
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.RShift):
        return _steps(node.left, text) + _steps(node.right, text)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        try:
            arguments = tuple(ast.literal_eval(item) for item in node.args)
            # ``**`` has no name: left out, it would be a parameter that silently does nothing.
            if any(item.arg is None for item in node.keywords):
                raise ValueError("** in a call")
            parameters = {str(item.arg): ast.literal_eval(item.value) for item in node.keywords}
        except ValueError as error:
            raise ValueError(f"parameters must be literals, found {text!r}") from error
        return [Step(node.func.id, arguments, parameters)]
    raise _refusal(text)


def _refusal(text: str) -> ValueError:
    return ValueError(
        f"name must be a name or an expression like 'krum(f=2)', 'krum:f=2' or "
        f"'bucketing(size=2) >> krum(f=1)', found {text!r}"
    )
