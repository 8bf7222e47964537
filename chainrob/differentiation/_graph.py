"""A walk through the graph that Chainer has recorded."""

from __future__ import annotations

from collections.abc import Iterator

from chainer import FunctionNode, Variable


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
