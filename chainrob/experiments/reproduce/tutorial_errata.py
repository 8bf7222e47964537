"""The errors in the tutorial, and a warning from its source. A check that runs confirms each."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

import chainer
import chainer.functions as F
from chainrob import SoftTruncation
from chainrob.differentiation import EvaluationTrace, evaluation_trace
from chainrob.experiments.report.document import Section, Table, Text, Verdict
from chainrob.functions import linear

__all__ = [
    "Erratum",
    "ListingFour",
    "bundling_section",
    "errata",
    "errata_section",
    "worked_example",
]


@dataclasses.dataclass(frozen=True)
class Erratum:
    """One error of the text.

    Attributes:
        place: Its place in the tutorial.
        text: The error and its correction.
        rule: The rule of the check.
        holds: Whether the check confirms the error.
        found: The result of the check.
    """

    place: str
    text: str
    rule: str
    holds: bool
    found: str


class ListingFour(chainer.FunctionNode):
    """y = x W^T + b with robust gradients, in the form of Listing 4, without its errors.

    Args:
        robustifier: A function that is called with the keyword ``x``; it maps rows (N, D) to (D,).
    """

    def __init__(self, robustifier: Any) -> None:
        self.robustifier = robustifier

    def forward(self, inputs: tuple[Any, ...]) -> tuple[Any]:
        self.retain_inputs((0, 1))
        x, W, b = inputs
        return (x @ W.T + b,)

    def backward(self, indexes: tuple[int, ...], grad_outputs: tuple[Any, ...]) -> tuple[Any, ...]:
        x, W = self.get_retained_inputs()
        gy = grad_outputs[0]
        gW, gb = np.empty_like(W.array), np.empty(len(W), W.dtype)
        for q in range(len(W)):  # one output unit after another: gy is (N, Q)
            gW[q] = self.robustifier(x=gy.array[:, q : q + 1] * x.array)
            gb[q] = self.robustifier(x=gy.array[:, q : q + 1])[0]
        # Variables are made once, after the loop: an array can be filled, a Variable cannot.
        answers = (F.matmul(gy, W), chainer.Variable(gW), chainer.Variable(gb))
        return tuple(answers[i] for i in indexes)


def errata() -> list[Erratum]:
    """The errors, checked now."""
    return [_order_of_the_recursion(), *_listing4(), _rounded_steps()]


def errata_section() -> Section:
    """Text and verdicts for the report."""
    found = errata()
    section = Section("Errors in the tutorial's text")
    section.blocks.append(
        Text("They are listed so that nobody looks for them in the code. Each is checked by a run.")
    )
    section.blocks.append(Table(["place", "what is wrong"], [[e.place, e.text] for e in found]))
    section.blocks += [
        Verdict.of(f"{e.place} has the noted error", e.holds, e.rule, e.found) for e in found
    ]
    return section


def bundling_section() -> Section:
    """The warning about naive bundling, with an example that runs."""
    rows, right, off = [], True, 0.0
    examples = {
        "sin(x) x: x jumps over sin": lambda x: F.sin(x) * x,
        "tanh(sin(x)): a chain": lambda x: F.tanh(F.sin(x)),
        "exp(sin(x) + x) + x: two jumps": lambda x: F.exp(F.sin(x) + x) + x,
    }
    for name, function in examples.items():
        trace = evaluation_trace(function, 0.7)
        exact, bundled = trace.reverse()["u0"], trace.bundled_reverse()["u0"]
        forward = trace.forward(1.0)["y"]
        right &= abs(exact - forward) < 1e-12
        off = max(off, abs(bundled - exact))
        rows.append([name, f"{forward:.6f}", f"{exact:.6f}", f"{bundled:.6f}"])
    return Section(
        "A warning: bundling values by layers",
        [
            Text(
                "In a network of layers one can bundle all values of a layer into one vector and "
                "multiply the Jacobians of neighboring layers. But if a later layer uses a value "
                "again, as in a skip connection, this use is lost. The recursion must sum over "
                "all uses. In Python: `evaluation_trace(lambda x: F.sin(x) * x, 0.7)`, then "
                "`.reverse()` and `.bundled_reverse()`."
            ),
            Table(["function at 0.7", "forward mode", "reverse mode", "bundled"], rows),
            Verdict.of(
                "Reverse mode is right where bundling by layers is not",
                right and off > 0.1,
                "reverse mode equals forward mode to 1e-12 in all examples; bundling is off in one",
                f"bundling is off by up to {off:.3f}",
            ),
        ],
    )


def worked_example() -> EvaluationTrace:
    """The computation of f(x1, x2) = x1^3 / x2 + sin(x1 x2) at (1.5, 3)."""
    return evaluation_trace(lambda a, b: a**3 / b + F.sin(a * b), 1.5, 3.0)


def _order_of_the_recursion() -> Erratum:
    """A sweep over the steps from first to last uses adjoints that are not complete yet."""
    trace = worked_example()
    exact = trace.reverse()
    adjoints = dict.fromkeys(trace.values, 0.0) | {trace.output: 1.0}
    for step in trace.steps:
        for k, source in enumerate(step.inputs):
            if source in adjoints:
                adjoints[source] += adjoints[step.name] * _slope(trace, step.name, k)
    wrong = abs(adjoints["u-1"] - exact["u-1"])
    return Erratum(
        "Section 1.2",
        "The recursion of the adjoints is written in the order of the evaluation. It must run from "
        "the last step to the first: an adjoint may be used only after all steps that use its "
        "value have added to it.",
        "a sweep from first to last misses the derivative in x1, one from last to first has it",
        wrong > 0.1 and abs(exact["u-1"] - trace.forward(1, 0)["y"]) < 1e-12,
        f"first to last {adjoints['u-1']:.4f}, last to first {exact['u-1']:.4f}",
    )


def _slope(trace: EvaluationTrace, name: str, argument: int) -> float:
    """Partial derivative of a step of the worked example in one of its arguments."""
    v = trace.values
    slopes: dict[str, tuple[float, ...]] = {
        "u1": (3 * v["u-1"] ** 2,),
        "u2": (v["u0"], v["u-1"]),
        "u3": (1 / v["u0"], -v["u1"] / v["u0"] ** 2),
        "u4": (float(np.cos(v["u2"])),),
        "u5": (1.0, 1.0),
    }
    return slopes[name][argument]


def _listing4() -> list[Erratum]:
    rng = np.random.default_rng(0)
    x, gy, W = rng.normal(size=(20, 3)), rng.normal(size=(20, 2)), rng.normal(size=(2, 3))

    def rows(q: int) -> Any:
        return gy[:, q : q + 1] * x

    def without_initial_value() -> None:
        for q in range(2):
            gW[q] = SoftTruncation()(x=rows(q))  # type: ignore[name-defined]  # noqa: F821

    def wrapped_again() -> None:
        gW: Any = np.empty_like(W)
        for q in range(2):
            gW[q] = SoftTruncation()(x=rows(q))
            gW = chainer.Variable(gW)

    missing, wrapped = _error(without_initial_value), _error(wrapped_again)
    found = [chainer.Variable(W), chainer.Variable(np.zeros(2))]
    exact = [chainer.Variable(W), chainer.Variable(np.zeros(2))]
    for parameters, y in (
        (found, ListingFour(SoftTruncation()).apply((chainer.Variable(x), *found))[0]),
        (exact, linear(x, *exact, robustifier=SoftTruncation(), loss_reduction="sum")),
    ):
        y.grad = gy / (1 if parameters is found else len(x))
        y.backward()
    gap = max(float(abs(a.grad - b.grad).max()) for a, b in zip(found, exact, strict=True))
    return [
        Erratum(
            "Listing 4",
            "gW is filled unit by unit, but it is never created. An array of the shape of W must "
            "be created before the loop.",
            "the loop as printed raises NameError",
            missing == "NameError",
            f"raises {missing}",
        ),
        Erratum(
            "Listing 4",
            "gW is made a Variable inside the loop over the output units. A Variable cannot be "
            "filled, so the second unit fails. It must be wrapped after the loop.",
            "the loop as printed raises TypeError; with both errors corrected, a layer that calls "
            "`robustifier(x=...)` has the gradients of `chainrob.functions.linear` to 1e-12",
            wrapped == "TypeError" and gap < 1e-12,
            f"raises {wrapped}; corrected, the largest difference is {gap:.0e}",
        ),
    ]


def _error(run: Any) -> str:
    try:
        run()
    except Exception as error:
        return type(error).__name__
    return "nothing"


def _rounded_steps() -> Erratum:
    trace = worked_example()
    exact, rounded = trace.reverse()["u-1"], trace.reverse(digits=4)["u-1"]
    return Erratum(
        "Table 3",
        "The last line has 1.6174 where Table 2 and Listing 1 have 1.6176: every step is rounded "
        "to four digits before it is used.",
        "with rounded steps the adjoint of x1 is 1.6174, with all digits 1.6176",
        f"{rounded:.4f} {exact:.4f}" == "1.6174 1.6176",
        f"rounded steps {rounded:.4f}, all digits {exact:.4f}",
    )
