"""A computation recorded step by step, with forward mode and reverse mode."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

import chainer
from chainrob.differentiation import _recorded, _trace_text
from chainrob.differentiation._closed import as_array, gradients
from chainrob.differentiation._dot import render_dot, to_dot
from chainrob.differentiation._formulas import partials
from chainrob.differentiation._kinks import KinkHook, every_choice, require_finite
from chainrob.differentiation._operations import operations
from chainrob.differentiation._recorded import OperationCounts, Step

__all__ = ["EvaluationTrace", "OperationCounts", "Step", "evaluation_trace"]

Variable = Any


class EvaluationTrace:
    """The recorded computation; made by :func:`evaluation_trace`.

    Attributes:
        inputs: Names of the inputs, ``u{1-n}`` to ``u0``.
        steps: One :class:`Step` per operation, ordered by rank, then as computed.
        values: Value of each name, and of the output under ``y``.
    """

    def __init__(
        self, names: dict[str, Variable], calls: list[tuple[Any, Any]], output: Variable
    ) -> None:
        self.inputs = tuple(names)
        # Chainer frees arrays that no backward pass needs, so take the values from the record.
        data = {
            id(x): array
            for node, given in calls
            for x, array in zip(node.inputs, given, strict=True)
        }
        data[id(output.node)] = output.array
        self._arrays = {name: variable.array for name, variable in names.items()}
        self._labels = {id(variable.node): name for name, variable in names.items()}
        self._alive = (names, output)  # ids stay unique while their owners live
        self.steps: tuple[Step, ...] = ()
        self._nodes: list[Any] = []
        nodes = [node for node, _ in calls]
        for node in sorted(nodes, key=lambda node: node.rank):  # stable: keeps the order in a rank
            self._add(node, data)
        if id(output.node) not in self._labels:
            raise ValueError("function must compute its result from its inputs")
        self.output = self._labels[id(output.node)]
        self.values = {name: _recorded.plain(array) for name, array in self._arrays.items()}
        self.values["y"] = self.values[self.output]

    def _add(self, node: Any, data: Mapping[int, Any]) -> None:
        if not any(id(x) in self._labels for x in node.inputs):
            return  # computed from constants alone
        inputs = tuple(
            self._labels.get(id(x)) or np.array2string(np.asarray(data[id(x)]), precision=4)
            for x in node.inputs
        )
        for k, reference in enumerate(node.outputs):
            y = reference()
            if y is None or id(y) not in data:
                continue  # an output that the function does not use
            name = f"u{len(self._arrays) - len(self.inputs) + 1}"
            expression = _recorded.as_text(node.label, inputs)
            if len(node.outputs) > 1:
                expression += f"[{k}]"
            self._labels[id(y)] = name
            self._arrays[name] = data[id(y)]
            elementwise = all(x.shape in ((), y.shape) for x in node.inputs)
            cost = operations(node)
            slopes = partials(node, inputs, name, elementwise, cost)
            moving = [
                one for one, x in zip(slopes, node.inputs, strict=True) if id(x) in self._labels
            ]
            self.steps += (
                Step(
                    name,
                    expression,
                    inputs,
                    node.rank + 1,
                    tuple(text for text, _ in slopes),
                    _recorded.count(moving, cost, data[id(y)].size),
                ),
            )
        self._nodes.append(node)

    def _output_names(self, node: Any) -> list[str | None]:
        return [self._labels.get(id(reference())) for reference in node.outputs]

    def forward(self, *tangents: Any, digits: int | None = None) -> dict[str, Any]:
        r"""Forward mode: the derivative of every value along a direction of the inputs.

        .. math:: \dot u_k = \sum_{j \to k} \frac{\partial u_k}{\partial u_j} \dot u_j

        Args:
            tangents: One per input, of its shape.
            digits: Round every derivative to this many digits after the point before it is used, as
                in a calculation by hand. Default: no rounding.

        Returns:
            Name to tangent, for every input, step and ``y``.

        Raises:
            ValueError: If their number is not the number of inputs, or if a value has no derivative
                (see :func:`subgradient`).
        """
        if len(tangents) != len(self.inputs):
            raise ValueError(f"tangents must be {len(self.inputs)}, found {len(tangents)}")

        def sweep() -> dict[str, Any]:
            table: dict[str, Any] = {}
            for name, tangent in zip(self.inputs, tangents, strict=True):
                value = self._arrays[name]
                table[name] = np.broadcast_to(np.asarray(tangent, value.dtype), value.shape).copy()
            for node in self._nodes:
                pushed = self._push(node, table)
                table.update({name: _recorded.rounded(one, digits) for name, one in pushed.items()})
            return table

        table = self._finite(every_choice(self._nodes, sweep))
        plain = {name: _recorded.plain(value) for name, value in table.items()}
        return {**plain, "y": plain[self.output]}

    def _finite(self, table: dict[str, Any]) -> dict[str, Any]:
        names, output = self._alive
        require_finite(output, list(names.values()), list(table.values()))
        return table

    def _push(self, node: Any, table: dict[str, Any]) -> dict[str, Any]:
        """The tangents of a node's outputs. Its own backward is linear; they are its transpose."""
        names = self._output_names(node)
        weights = tuple(
            None if name is None else chainer.Variable(np.ones_like(self._arrays[name]))
            for name in names
        )
        # Constants get a zero tangent, because some of Chainer's nodes (maximum) have gradients
        # that can only be differentiated together.
        indexes = list(range(len(node.inputs)))
        with chainer.force_backprop_mode():
            pulled = _recorded.node_backward(node, indexes, weights)
            pairs = [
                (
                    chainer.functions.identity(g),
                    table.get(self._labels.get(id(x), ""), np.zeros_like(g.array)),
                )
                for x, g in zip(node.inputs, pulled, strict=True)
                if g is not None
            ]
            used = [w for w in weights if w is not None]
            pushed = gradients(
                [g for g, _ in pairs], used, [chainer.Variable(tangent) for _, tangent in pairs]
            )
        used_names = [name for name in names if name is not None]
        return {name: g.array for name, g in zip(used_names, pushed, strict=True)}

    def reverse(self, adjoint: Any = None, *, digits: int | None = None) -> dict[str, Any]:
        r"""Reverse mode: the derivative of the output in every value.

        .. math:: \bar u_j = \sum_{k : j \to k} \bar u_k \frac{\partial u_k}{\partial u_j}

        The sum runs over all steps that use u_j, also distant ones.

        Args:
            adjoint: The adjoint of the output. Default: ones.
            digits: As for :meth:`forward`.

        Returns:
            Name to adjoint, output first, as reverse mode finds them.

        Raises:
            ValueError: If the output has no derivative in a value (see :func:`subgradient`).
        """
        return self._reverse(adjoint, digits, bundled=False)

    def bundled_reverse(self) -> dict[str, Any]:
        r"""A wrong reverse mode, layer by layer, for comparison with :meth:`reverse`.

        It bundles all values of one rank into a vector and multiplies the Jacobians of neighboring
        bundles, :math:`\bar u^{(r-1)} = \bar u^{(r)} \, \partial u^{(r)} / \partial u^{(r-1)}`.
        This is right for a network of layers. If a later bundle uses a value again, this use is
        lost without an error.

        Returns:
            As :meth:`reverse`.

        Example:
            >>> import chainer.functions as F
            >>> trace = evaluation_trace(lambda x: F.exp(x) * x, 0.0)  # x jumps over exp(x)
            >>> trace.reverse()["u0"], trace.bundled_reverse()["u0"]
            (1.0, 0.0)
        """
        return self._reverse(None, None, bundled=True)

    def _reverse(self, adjoint: Any, digits: int | None, bundled: bool) -> dict[str, Any]:
        table = self._finite(
            every_choice(self._nodes, lambda: self._pull(adjoint, digits, bundled))
        )
        order = [step.name for step in reversed(self.steps)] + list(reversed(self.inputs))
        plain = {name: _recorded.plain(table[name]) for name in order}
        return {"y": plain[self.output], **plain}

    def _pull(self, adjoint: Any, digits: int | None, bundled: bool) -> dict[str, Any]:
        ranks = dict.fromkeys(self.inputs, 0) | {step.name: step.rank for step in self.steps}
        table = {name: np.zeros_like(array) for name, array in self._arrays.items()}
        final = self._arrays[self.output]
        table[self.output] = (
            np.ones_like(final)
            if adjoint is None
            else np.broadcast_to(np.asarray(adjoint, final.dtype), final.shape).copy()
        )
        for node in reversed(self._nodes):
            names = self._output_names(node)
            for name in names:
                if name is not None:  # all uses of this value have been visited
                    table[name] = _recorded.rounded(table[name], digits)
            weights = tuple(
                None if name is None else chainer.Variable(table[name]) for name in names
            )
            moved = [i for i, x in enumerate(node.inputs) if id(x) in self._labels]
            with chainer.no_backprop_mode():
                pulled = _recorded.node_backward(node, moved, weights)
            for i, g in zip(moved, pulled, strict=True):
                name = self._labels[id(node.inputs[i])]
                if g is not None and not (bundled and ranks[name] != node.rank):
                    table[name] = np.asarray(table[name] + g.array)  # 0-d sums are not arrays
        return {name: _recorded.rounded(value, digits) for name, value in table.items()}

    def expression(self, name: str) -> str:
        """The meaning of a name."""
        if name == "y":
            return self.output
        for step in self.steps:
            if step.name == name:
                return step.expression
        return f"x{self.inputs.index(name) + 1}"

    def formula(self, name: str, mode: str = "evaluation") -> str:
        """The right-hand side of one line of a table.

        Args:
            name: ``u1``, ``y`` and so on.
            mode: ``'evaluation'``, ``'forward'`` or ``'reverse'``.

        Returns:
            Text; in it ``u2'`` is the tangent of u2, ``u2~`` its adjoint, ``du3/du1`` a derivative
            that has no formula here, and ``[u1 > 0]`` is 1 where that is true and 0 elsewhere.

        Example:
            >>> import chainer.functions as F
            >>> trace = evaluation_trace(lambda a, b: a**3 / b + F.sin(a * b), 1.5, 3.0)
            >>> trace.formula("u4", "forward"), trace.formula("u0", "reverse")
            ("cos(u2) u2'", 'u2~ u-1 - u3~ (u1 / u0**2)')
        """
        return _trace_text.formula(self, name, mode)

    def operations(self) -> OperationCounts:
        """Operations of all steps, and of the additions where paths meet.

        Example:
            >>> import chainer.functions as F
            >>> evaluation_trace(lambda a, b: a**3 / b + F.sin(a * b), 1.5, 3.0).operations()
            OperationCounts(evaluation=5, forward=16, reverse=15)
        """
        uses: dict[str, int] = {}
        for step in self.steps:
            for name in step.inputs:
                uses[name] = uses.get(name, 0) + 1
        meet = sum(
            (uses[name] - 1) * self._arrays[name].size for name in uses if name in self.values
        )
        counts = [step.operations for step in self.steps]
        return OperationCounts(
            sum(one.evaluation for one in counts),
            sum(one.forward for one in counts),
            sum(one.reverse for one in counts) + meet,
        )

    def table(
        self, mode: str = "evaluation", *arguments: Any, digits: int = 4, rounded: bool = False
    ) -> str:
        """One table as text.

        Args:
            mode: ``'evaluation'``, ``'forward'`` (arguments: the tangents) or ``'reverse'``.
            arguments: Arguments of that mode.
            digits: Digits after the point.
            rounded: Calculate with the rounded numbers that are shown, as in the tutorial's Table
                3, instead of with all digits.

        Returns:
            One line per value: its name, the formula, the number.

        Raises:
            ValueError: If the mode is unknown, or there is no derivative.

        Example:
            >>> import chainer.functions as F
            >>> trace = evaluation_trace(lambda a, b: a**3 / b + F.sin(a * b), 1.5, 3.0)
            >>> print(trace.table("forward", 1, 0))
            u-1' | x1'                       | 1.0000
            u0'  | x2'                       | 0.0000
            u1'  | 3 u-1**2 u-1'             | 6.7500
            u2'  | u0 u-1' + u-1 u0'         | 3.0000
            u3'  | u1' / u0 - (u1 / u0**2) u0' | 2.2500
            u4'  | cos(u2) u2'               | -0.6324
            u5'  | u3' + u4'                 | 1.6176
            y'   | u5'                       | 1.6176
        """
        return _trace_text.table(self, mode, arguments, digits, rounded)

    def __str__(self) -> str:
        return _trace_text.everything(self)

    def to_dot(self, mode: str = "evaluation", *arguments: Any) -> str:
        """The graph in Graphviz's language, with value and derivative in its nodes.

        Args:
            mode: As for :meth:`table`; ``'evaluation'`` shows only the values, ``'reverse'``
                reverses the arrows.
            arguments: Arguments of that mode.

        Returns:
            Text for ``dot``.
        """
        return to_dot(self, mode == "reverse", self.node_numbers(mode, *arguments))

    def node_numbers(self, mode: str = "evaluation", *arguments: Any) -> dict[str, list[str]]:
        """The content of the nodes of a graph, as lines of text.

        Args:
            mode: As for :meth:`to_dot`.
            arguments: Arguments of that mode.

        Returns:
            Name to lines: the value, and in two modes the derivative, as ``'u2~ = -0.2108'``.
        """
        return _trace_text.node_numbers(self, mode, arguments)

    def render(self, path: str | Path, mode: str = "evaluation", *arguments: Any) -> Path:
        """Draw the graph with Graphviz. The ending of ``path`` (svg, png, pdf) sets the format.

        Raises:
            RuntimeError: If Graphviz is not installed, or fails.
        """
        return render_dot(self.to_dot(mode, *arguments), path)


def evaluation_trace(function: Callable[..., Any], *inputs: Any) -> EvaluationTrace:
    """Record a computation of Chainer operations.

    Args:
        function: Takes one Variable per input, returns a Variable.
        inputs: Numbers, arrays or Variables; numbers become float64.

    Returns:
        An :class:`EvaluationTrace`; print it for the tables.

    Raises:
        ValueError: If there is no input, or the result does not depend on the inputs.

    Example:
        >>> import chainer.functions as F
        >>> trace = evaluation_trace(lambda a, b: a**3 / b + F.sin(a * b), 1.5, 3.0)
        >>> print(trace.table())
        u-1 | x1       | 1.5000
        u0  | x2       | 3.0000
        u1  | u-1 ** 3 | 3.3750
        u2  | u-1 * u0 | 4.5000
        u3  | u1 / u0  | 1.1250
        u4  | sin(u2)  | -0.9775
        u5  | u3 + u4  | 0.1475
        y   | u5       | 0.1475

    References:
        A. Griewank and A. Walther, Evaluating Derivatives (2008), chapter 2.
    """
    if not inputs:
        raise ValueError("inputs must hold at least one point, found none")
    names = {}
    for k, x in enumerate(inputs):
        array = as_array(getattr(x, "array", x))
        if array.dtype.kind != "f":
            raise TypeError(f"inputs must be of a floating-point dtype, found {array.dtype}")
        names[f"u{k + 1 - len(inputs)}"] = chainer.Variable(array)
    recorder = _recorded.Recorder()
    with chainer.force_backprop_mode(), recorder, KinkHook():
        output = function(*names.values())
    if not isinstance(output, chainer.Variable):
        raise TypeError(f"function must return a chainer.Variable, found {type(output).__name__}")
    return EvaluationTrace(names, _recorded.ancestors(output, recorder.calls), output)
