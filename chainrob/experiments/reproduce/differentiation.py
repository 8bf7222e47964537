"""Tables 1 to 3, Listing 1 and the graphs of the tutorial's worked example."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

import chainer
from chainrob.datasets import read_data_file
from chainrob.differentiation import EvaluationTrace
from chainrob.experiments.report.document import (
    Block,
    Code,
    Image,
    Section,
    Table,
    Text,
    Verdict,
)
from chainrob.experiments.reproduce.tutorial_errata import (
    bundling_section,
    errata_section,
    worked_example,
)
from chainrob.plotting import chainer_graph, computation_graph, new_figure

__all__ = [
    "chainers_graph",
    "differentiation_sections",
    "listing1",
    "published_tables",
]

_SHA256 = "abe59774cdd8f9dfe20e0ed24af1a9a579d87bad341745ed07849be4e1970672"
_HALF_DIGIT = 0.5e-4


def published_tables() -> dict[str, dict[str, float]]:
    """The numbers that the tutorial prints.

    Raises:
        DataFileError: If the file is missing or damaged.
    """
    content: dict[str, dict[str, float]] = json.loads(
        read_data_file("published/autodiff_tables.json", _SHA256)
    )
    return content


def listing1() -> dict[str, float]:
    """Chainer's derivatives of y in each intermediate value, in float32, as in Listing 1."""
    values = _listing1()
    values["u5"].grad = np.ones((), np.float32)
    values["u5"].backward(retain_grad=True)
    return {name: float(value.grad) for name, value in values.items()}


def chainers_graph() -> Figure:
    """Figure 2 of the tutorial: Chainer's own graph of Listing 1.

    Returns:
        The figure; ``chainrob.plotting.chainer_dot`` gives the same graph for Graphviz.

    Example:
        >>> len(chainers_graph().axes)
        1
    """
    values = _listing1()
    with new_figure(5, 5) as figure:
        chainer_graph(values["u5"], names=values, ax=figure.subplots())
    return figure


def _listing1() -> dict[str, Any]:
    """The Variables of Listing 1 in float32, the last one first."""
    x1, x2 = (chainer.Variable(np.array(value, np.float32)) for value in (1.5, 3.0))
    u1, u2 = x1**3, x1 * x2
    u3, u4 = u1 / x2, chainer.functions.sin(u2)
    return {"u5": u3 + u4, "u4": u4, "u3": u3, "u2": u2, "u1": u1, "x2": x2, "x1": x1}


def differentiation_sections() -> list[Section]:
    """The worked example, the errors in the tutorial's text, and its warning, with verdicts."""
    published, trace = published_tables(), worked_example()
    reverse = trace.reverse()
    tables = (
        ("Table 1: evaluation", "table1_evaluation", trace.values),
        ("Table 2: forward mode, derivatives in x1", "table2_forward_mode_x1", trace.forward(1, 0)),
        ("Table 3: reverse mode", "table3_reverse_mode", reverse),
        ("Listing 1: Chainer's derivatives (float32)", "listing1_chainer", listing1()),
    )
    sections = [Section("The worked example: derivatives by hand and by Chainer")]
    sections[0].blocks.append(
        Text(
            "The example is f(x1, x2) = x1^3 / x2 + sin(x1 x2) at (1.5, 3). The inputs are named "
            "u-1 = x1 and u0 = x2 (-1 and 0 are indices), and the steps are u1 to u5. The "
            "library's `evaluation_trace` records the computation and runs both modes through it."
        )
    )
    for title, key, ours in tables:
        derived = _from_printed(published[key]) if key.startswith("table3") else {}
        sections.append(Section(title, _compare(title, published[key], ours, derived), level=3))
    with new_figure(8, 2.6) as figure1:
        computation_graph(trace, ax=figure1.subplots())
    with new_figure(8, 2.6) as backward:
        computation_graph(trace, "reverse", ax=backward.subplots())
    graphs: list[Block] = [
        Text("The graphs show the recorded computation. The folder `figures/` has Graphviz files."),
        Image("figure1", figure1, "Figure 1: the computation, with its values", _graph_alt(trace)),
        Image(
            "figure2",
            chainers_graph(),
            "Figure 2: Chainer's own graph of Listing 1",
            f"Graph from top to bottom, made by Chainer. Ovals are the {len(_listing1())} "
            "Variables, with name and dtype; boxes are the functions between them. It begins with "
            "x1 and x2 and ends with u5.",
        ),
        Image(
            "reverse_mode",
            backward,
            "Reverse mode, with the derivatives of y",
            _graph_alt(trace, "reverse"),
        ),
        Code(trace.to_dot()),
    ]
    sections.append(Section("Figures 1 and 2: graphs", graphs, level=3))
    return [*sections, errata_section(), bundling_section()]


def _graph_alt(trace: EvaluationTrace, mode: str = "evaluation") -> str:
    """What the graph of a trace shows, in words."""
    size = f"{len(trace.inputs)} inputs and {len(trace.steps)} steps"
    if mode == "reverse":
        ends = ", ".join(f"{name} {trace.reverse()[name]:.4f}" for name in trace.inputs)
        return (
            f"The same graph of {size}, with its arrows reversed and dashed. Each box also has the "
            f"derivative of y in its value. At the inputs it is: {ends}."
        )
    return (
        f"Graph from left to right of {size}. Each box has a name, a formula and a value; arrows "
        f"lead from the values to the steps that use them. The last box is {trace.output} = "
        f"{trace.expression(trace.output)} = {trace.values[trace.output]:.4f}."
    )


def _from_printed(printed: Mapping[str, float]) -> dict[str, float]:
    """The adjoints that follow if each step starts from numbers rounded to four digits."""
    x1, x2 = 1.5, 3.0
    return {
        "u-1": round(printed["u1"] * 3 * x1**2 + printed["u2"] * x2, 4),
        "u0": round(printed["u2"] * x1 - printed["u3"] * x1**3 / x2**2, 4),
    }


def _compare(
    title: str,
    published: Mapping[str, float],
    ours: Mapping[str, Any],
    derived: Mapping[str, float],
) -> list[Block]:
    rows, off = [], []
    for name, value in published.items():
        difference = ours[name] - value
        agrees = abs(difference) <= _HALF_DIGIT * 1.01
        note = "" if agrees else "differs"
        if not agrees and derived.get(name) == value:
            note = f"{value:.4f} follows from the printed (rounded) steps"
            agrees = True
        if not agrees:
            off.append(name)
        rows.append([name, f"{value:.4f}", f"{ours[name]:.6f}", f"{difference:+.6f}", note])
    rule = "the reproduced value rounds to the printed four digits"
    if derived:
        rule += ", or the printed value follows from the printed values before it"
    largest = max(abs(ours[name] - value) for name, value in published.items())
    found = f"largest difference {largest:.1e}" + (f"; off: {', '.join(off)}" if off else "")
    return [
        Table(["value", "published", "reproduced", "difference", ""], rows),
        Verdict.of(f"{title}: all {len(rows)} values agree", not off, rule, found),
    ]
