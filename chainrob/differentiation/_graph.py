"""Walks through the graph that Chainer has recorded: what a function depends on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from chainer import FunctionNode, Variable

__all__ = ["function_nodes", "require_dependence", "variable_nodes"]


def function_nodes(y: Variable) -> Iterator[FunctionNode]:
    """The function nodes that y comes from, each once; in no order that means anything."""
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
    """The nodes of the Variables that y comes from with a gradient, itself among them, by their id.

    The walk takes the nodes of ``stop`` in and does not look behind them.
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
    """Refuse y = f(xs) that does not depend on its arguments, for its derivative says nothing.

    The arguments are leaves, or identities of the Variables that a caller gave. A function that
    reads such a Variable from elsewhere and not from its argument is refused as well, even where it
    depends on others.

    Raises:
        ValueError: If that is so.
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
        "write the function with its arguments; a model is made one by "
        "chainrob.differentiation.functional(model)"
    )
    if past:
        named = ", ".join(f"{one.name!r} of shape {one.shape}" for one in past)
        raise ValueError(
            f"function does not use the arguments that it is given for {named}, but reads these "
            f"Variables itself, so their derivatives would be zero: {remedy}"
        )
    if missing and len(missing) == len(xs):
        raise ValueError(
            f"function does not depend on its inputs, so its derivatives would be zero: {remedy}"
        )
