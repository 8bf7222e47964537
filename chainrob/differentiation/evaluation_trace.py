"""A computation written down step by step, with its forward and its reverse mode."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

import chainer
from chainrob.differentiation._closed import as_array, gradients
from chainrob.differentiation._dot import to_dot
from chainrob.differentiation._graph import function_nodes

__all__ = ["EvaluationTrace", "Step", "evaluation_trace"]

Variable = Any


@dataclasses.dataclass(frozen=True)
class Step:
    """One line of the table: ``name = expression``.

    Attributes:
        name: ``u1``, ``u2``, ...
        expression: What was computed from which names.
        inputs: Names of the arguments; a constant is written out as its value.
        rank: Length of the longest path from the inputs.
    """

    name: str
    expression: str
    inputs: tuple[str, ...]
    rank: int


class _Recorder(chainer.FunctionHook):
    """Keeps the nodes in the order in which they were computed, and the arrays they were given."""

    name = "chainrob.evaluation_trace"

    def __init__(self) -> None:
        self.calls: list[tuple[Any, tuple[Any, ...]]] = []

    def forward_postprocess(self, function: Any, in_data: Any) -> None:
        self.calls.append((function, tuple(in_data)))


class EvaluationTrace:
    """The recorded computation; made by :func:`evaluation_trace`.

    Attributes:
        inputs: Names of the inputs, ``u{1-n}`` to ``u0``.
        steps: One :class:`Step` an operation, ordered by rank, then as computed.
        values: Value of each name, and of the output under ``y``.
    """

    def __init__(
        self, names: dict[str, Variable], calls: list[tuple[Any, Any]], output: Variable
    ) -> None:
        self.inputs = tuple(names)
        # Chainer frees what no backward needs, so the values come from the recorded arguments.
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
        for node in sorted(nodes, key=lambda node: node.rank):  # stable: keeps the order within
            self._add(node, data)
        if id(output.node) not in self._labels:
            raise ValueError("function must compute its result from its inputs")
        self.output = self._labels[id(output.node)]
        self.values = {name: _plain(array) for name, array in self._arrays.items()}
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
            expression = _expression(node.label, inputs)
            if len(node.outputs) > 1:
                expression += f"[{k}]"
            self._labels[id(y)] = name
            self._arrays[name] = data[id(y)]
            self.steps += (Step(name, expression, inputs, node.rank + 1),)
        self._nodes.append(node)

    def _output_names(self, node: Any) -> list[str | None]:
        return [self._labels.get(id(reference())) for reference in node.outputs]

    def forward(self, *tangents: Any) -> dict[str, Any]:
        r"""Forward mode: the derivative of every value along a direction of the inputs.

        .. math:: \dot u_k = \sum_{j \to k} \frac{\partial u_k}{\partial u_j} \dot u_j

        Args:
            tangents: One an input, of its shape.

        Returns:
            Name to tangent, for every input, step and ``y``.

        Raises:
            ValueError: If their number is not the number of inputs.
        """
        if len(tangents) != len(self.inputs):
            raise ValueError(f"tangents must be {len(self.inputs)}, found {len(tangents)}")
        table: dict[str, Any] = {}
        for name, tangent in zip(self.inputs, tangents, strict=True):
            value = self._arrays[name]
            table[name] = np.broadcast_to(np.asarray(tangent, value.dtype), value.shape).copy()
        for node in self._nodes:
            table.update(self._push(node, table))
        plain = {name: _plain(value) for name, value in table.items()}
        return {**plain, "y": plain[self.output]}

    def _push(self, node: Any, table: dict[str, Any]) -> dict[str, Any]:
        """The tangents of a node's outputs: its own backward, which is linear, transposed."""
        names = self._output_names(node)
        weights = tuple(
            None if name is None else chainer.Variable(np.ones_like(self._arrays[name]))
            for name in names
        )
        # Constants take part with a tangent of zero: the gradients of some of Chainer's nodes
        # (maximum's) can be differentiated only all at once.
        indexes = list(range(len(node.inputs)))
        with chainer.force_backprop_mode():
            pulled = _backward(node, indexes, weights)
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

    def reverse(self, adjoint: Any = None) -> dict[str, Any]:
        r"""Reverse mode: the derivative of the output in every value.

        .. math:: \bar u_j = \sum_{k : j \to k} \bar u_k \frac{\partial u_k}{\partial u_j}

        The sum runs over all steps that use u_j, at whatever distance.

        Args:
            adjoint: That of the output. Default: ones.

        Returns:
            Name to adjoint, output first, as reverse mode finds them.
        """
        table = {name: np.zeros_like(array) for name, array in self._arrays.items()}
        final = self._arrays[self.output]
        table[self.output] = (
            np.ones_like(final)
            if adjoint is None
            else np.broadcast_to(np.asarray(adjoint, final.dtype), final.shape).copy()
        )
        for node in reversed(self._nodes):
            weights = tuple(
                None if name is None else chainer.Variable(table[name])
                for name in self._output_names(node)
            )
            moved = [i for i, x in enumerate(node.inputs) if id(x) in self._labels]
            with chainer.no_backprop_mode():
                pulled = _backward(node, moved, weights)
            for i, g in zip(moved, pulled, strict=True):
                if g is not None:
                    name = self._labels[id(node.inputs[i])]
                    table[name] = np.asarray(table[name] + g.array)  # 0-d sums are no arrays
        order = [step.name for step in reversed(self.steps)] + list(reversed(self.inputs))
        plain = {name: _plain(table[name]) for name in order}
        return {"y": plain[self.output], **plain}

    def expression(self, name: str) -> str:
        """What a name stands for."""
        if name == "y":
            return self.output
        for step in self.steps:
            if step.name == name:
                return step.expression
        return f"x{self.inputs.index(name) + 1}"

    def table(self, mode: str = "evaluation", *arguments: Any, digits: int = 4) -> str:
        """One table as text.

        Args:
            mode: ``'evaluation'``, ``'forward'`` (arguments: the tangents) or ``'reverse'``.
            arguments: Of that mode.
            digits: Digits after the point.

        Returns:
            One line a value: its name, the expression, the number.
        """
        if mode == "evaluation":
            values: Mapping[str, Any] = self.values
        elif mode == "forward":
            values = self.forward(*arguments)
        elif mode == "reverse":
            values = self.reverse(*arguments)
        else:
            raise ValueError(f"mode must be 'evaluation', 'forward' or 'reverse', found {mode!r}")
        mark = {"evaluation": "", "forward": "'", "reverse": "~"}[mode]
        rows = [
            (name + mark, self.expression(name), _show(values[name], digits)) for name in values
        ]
        widths = [max(len(row[k]) for row in rows) for k in range(2)]
        return "\n".join(f"{n:<{widths[0]}} | {e:<{widths[1]}} | {v}" for n, e, v in rows)

    def __str__(self) -> str:
        parts = ["Evaluation", self.table()]
        for k, name in enumerate(self.inputs):
            tangents = [float(k == j) for j in range(len(self.inputs))]
            parts += ["", f"Forward mode, derivatives in {self.expression(name)} ({name})"]
            parts.append(self.table("forward", *tangents))
        return "\n".join([*parts, "", "Reverse mode, derivatives of y", self.table("reverse")])

    def to_dot(self, mode: str = "evaluation", *arguments: Any) -> str:
        """The graph in Graphviz's language, with the numbers of ``mode`` in its nodes.

        Args:
            mode: As for :meth:`table`; ``'reverse'`` turns the arrows round.
            arguments: Of that mode.

        Returns:
            Text for ``dot``.
        """
        values = {
            "evaluation": lambda: self.values,
            "forward": lambda: self.forward(*arguments),
            "reverse": lambda: self.reverse(*arguments),
        }
        if mode not in values:
            raise ValueError(f"mode must be one of {list(values)}, found {mode!r}")
        return to_dot(self, values[mode](), reverse=mode == "reverse")

    def render(self, path: str | Path, mode: str = "evaluation", *arguments: Any) -> Path:
        """Draw the graph by Graphviz; the ending of ``path`` (svg, png, pdf) is the format.

        Raises:
            RuntimeError: If Graphviz is not installed, or fails.
        """
        path = Path(path)
        program = shutil.which("dot")
        if program is None:
            raise RuntimeError("Graphviz is not installed (no program 'dot'); use to_dot() instead")
        part = path.with_name(path.name + ".part")
        command = [program, f"-T{path.suffix[1:]}", "-o", str(part)]
        text = self.to_dot(mode, *arguments)
        done = subprocess.run(command, input=text, text=True, capture_output=True, check=False)
        if done.returncode:
            part.unlink(missing_ok=True)
            raise RuntimeError(f"dot failed: {done.stderr.strip()}")
        return part.replace(path)


def evaluation_trace(function: Callable[..., Any], *inputs: Any) -> EvaluationTrace:
    """Record a computation of Chainer operations.

    Args:
        function: Takes one Variable an input, returns a Variable.
        inputs: Numbers, arrays or Variables; numbers become float64.

    Returns:
        An :class:`EvaluationTrace`; print it for the tables.

    Raises:
        ValueError: If there is no input, or the result does not come from the inputs.

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
    recorder = _Recorder()
    with chainer.force_backprop_mode(), recorder:
        output = function(*names.values())
    if not isinstance(output, chainer.Variable):
        raise TypeError(f"function must return a chainer.Variable, found {type(output).__name__}")
    return EvaluationTrace(names, _ancestors(output, recorder.calls), output)


def _ancestors(output: Variable, calls: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    """The recorded calls that the output comes from, in their order."""
    needed = {id(node) for node in function_nodes(output)}
    return [call for call in calls if id(call[0]) in needed]


def _backward(node: Any, indexes: list[int], weights: tuple[Any, ...]) -> Any:
    """A node's own backward; Chainer lets it answer for all inputs instead of those asked for."""
    pulled = node.backward(tuple(indexes), weights)
    if len(pulled) == len(node.inputs):
        return [pulled[i] for i in indexes]
    return pulled


def _expression(label: str, inputs: tuple[str, ...]) -> str:
    if label.count("_") == len(inputs) and (" " in label or label.startswith("-")):
        for name in inputs:
            label = label.replace("_", name, 1)
        return label
    return f"{label}({', '.join(inputs)})"


def _plain(array: Any) -> Any:
    return float(array) if array.ndim == 0 else array


def _show(value: Any, digits: int) -> str:
    if isinstance(value, float):
        return f"{value:.{digits}f}"
    return np.array2string(np.asarray(value), precision=digits, separator=", ").replace("\n", "")
