"""Walks through the graph that Chainer recorded, to find what a function depends on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from chainer import FunctionNode, Variable

__all__ = ["function_nodes", "require_dependence", "variable_nodes"]


def function_nodes(y: Variable) -> Iterator[FunctionNode]:
    """The function nodes behind y, each once, in an arbitrary order."""
    seen: set[int] = set()
    pending = [y.creator_node]
    while pending:
        node = pending.pop()
        if node is None or id(node) in seen:
            continue
        seen.add(id(node))
        pending.extend(one.creator_node for one in node.inputs)
        yield node


def variable_nodes(y: Variable, stop: Sequence[Variable] = ()) -> dict[int, Any]:
    """The Variable nodes behind y that require a gradient, by their id; y's own node is included.

    The walk includes the nodes of ``stop`` and does not go behind them.
    """
    ends = {id(one.node) for one in stop}
    found: dict[int, Any] = {}
    pending = [y.node]
    while pending:
        node = pending.pop()
        if id(node) in found or not node.requires_grad:
            continue
        found[id(node)] = node
        if node.creator_node is not None and id(node) not in ends:
            pending.extend(node.creator_node.inputs)
    return found


def require_dependence(y: Variable, xs: Sequence[Variable]) -> None:
    """Refuse y = f(xs) if it does not depend on its arguments: its derivatives would be zero.

    The arguments are leaves, or identities of the caller's Variables. A function that reads such a
    Variable itself, instead of its argument, is refused too, even if it depends on other arguments.

    Raises:
        ValueError: If the function is refused.
    """
    reached = variable_nodes(y, xs)
    missing = [x for x in xs if id(x.node) not in reached]
    past = [
        origin
        for x in missing
        if x.creator_node is not None
        for origin in x.creator_node.inputs
        if id(origin) in reached
    ]
    remedy = (
        "use the arguments inside the function; chainrob.differentiation.functional(model) makes "
        "such a function from a model"
    )
    if past:
        named = ", ".join(f"{one.name!r} of shape {one.shape}" for one in past)
        raise ValueError(
            f"function does not use its arguments for {named}, but reads these Variables itself, "
            f"so their derivatives would be zero: {remedy}"
        )
    if missing and len(missing) == len(xs):
        raise ValueError(
            f"function does not depend on its inputs, so its derivatives would be zero: {remedy}"
        )
