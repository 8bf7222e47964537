"""The tutorial's tables, the slides' examples, drawings, and the warning on layers."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

import chainrob
import chainer
from chainrob.differentiation import complex_step, evaluation_trace, jacobian

F = chainer.functions
DATA = Path(chainrob.__file__).parent / "_data" / "published" / "autodiff_tables.json"
TABLES = json.loads(DATA.read_text())


def tutorial(x1, x2):
    return x1**3 / x2 + F.sin(x1 * x2)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_tutorials_tables(dtype):
    trace = evaluation_trace(tutorial, dtype(1.5), dtype(3.0))
    printed = {"rel": 0, "abs": 0.5001e-4}
    assert trace.values == pytest.approx(TABLES["table1_evaluation"], **printed)
    assert trace.forward(1.0, 0.0) == pytest.approx(TABLES["table2_forward_mode_x1"], **printed)
    reverse = trace.reverse()
    listing = TABLES["listing1_chainer"]
    names = {"x1": "u-1", "x2": "u0"}
    found = {name: reverse[names.get(name, name)] for name in listing}
    assert found == pytest.approx(listing, **printed)
    table = TABLES["table3_reverse_mode"]
    assert list(reverse) == list(table)
    # Table 3 rounds every step to four digits, so u-1 is 2e-4 off; the others are right.
    assert reverse.pop("u-1") == pytest.approx(table["u-1"], abs=2.5e-4)
    assert reverse == pytest.approx({k: v for k, v in table.items() if k != "u-1"}, **printed)
    text = str(trace)
    for number in ("-0.9775", "1.6176", "-0.6912", "0.3333"):
        assert number in text


def test_the_tables_as_they_are_printed():
    """Formulas, and with rounded steps the very digits of all three tables."""
    trace = evaluation_trace(tutorial, 1.5, 3.0)
    for key, text in (
        ("table1_evaluation", trace.table()),
        ("table2_forward_mode_x1", trace.table("forward", 1, 0, rounded=True)),
        ("table3_reverse_mode", trace.table("reverse", rounded=True)),
    ):
        rows = [line.split("|") for line in text.splitlines()]
        found = {name.strip().rstrip("'~"): number.strip() for name, _, number in rows}
        assert found == {name: f"{number:.4f}" for name, number in TABLES[key].items()}
    assert trace.formula("u4", "forward") == "cos(u2) u2'"
    assert trace.formula("u2", "reverse") == "u4~ cos(u2)"
    assert trace.formula("u-1", "reverse") == "u1~ 3 u-1**2 + u2~ u0"
    assert trace.formula("y", "forward") == "u5'"
    assert trace.formula("u5", "reverse") == "y~"


ELEMENTARY = {
    "F.sin(x)", "F.cos(x)", "F.tan(x)", "F.sinh(x)", "F.cosh(x)", "F.tanh(x)", "F.arcsin(x)",
    "F.arccos(x)", "F.arctan(x)", "F.exp(x)", "F.expm1(x)", "F.log(x)", "F.log1p(x)", "F.log2(x)",
    "F.log10(x)", "F.sqrt(x)", "F.sigmoid(x)", "F.absolute(x)", "F.absolute(-x)", "F.relu(x)",
    "F.relu(-x)", "F.square(x)", "-x", "x + 2", "2 - x", "x * 3", "3 / x", "x / 4", "x ** 2",
    "x ** 3", "x ** 0.5", "x ** -2", "x ** 1", "2.0 ** x", "x * z", "x / z", "x - z", "x + z",
    "x ** z", "F.maximum(x, z)", "F.minimum(x, z)", "F.softplus(x)", "F.identity(x)",
}  # fmt: skip


@pytest.mark.parametrize("text", sorted(ELEMENTARY))
def test_the_formulas_are_the_derivatives(text):
    """Each partial derivative, read as Python, is what forward mode computes."""
    names = {"F": F}
    function = lambda *p: eval(text, names, dict(zip("xz", p, strict=False)))  # noqa: E731
    point = (0.37, 0.82)[: 1 + ("z" in text)]
    trace = evaluation_trace(function, *point)
    where = {
        name: getattr(np, name)
        for name in ["sin", "cos", "cosh", "sinh", "exp", "log", "sqrt", "sign"]
    }
    where |= {name.replace("-", "m"): value for name, value in trace.values.items()}
    for k in range(len(point)):
        slopes = trace.forward(*np.eye(len(point))[k])
        for step in trace.steps:
            total = 0.0
            for source, partial in zip(step.inputs, step.partials, strict=True):
                assert not partial.startswith("(d"), partial
                if source in slopes:
                    code = re.sub(r"u-(\d)", r"um\1", partial)
                    code = re.sub(r"(?<=[\w)\]]) (?=[\w(\[])", "*", code)
                    total += float(np.sum(eval(code, where))) * slopes[source]
            assert total == pytest.approx(slopes[step.name], rel=1e-10), (step, partial)


def test_operation_counts():
    counts = evaluation_trace(tutorial, 1.5, 3.0).operations()
    # 5 steps; forward 3 + 3 + 7 + 2 + 1; reverse 3 + 2 + 6 + 2 + 0 and an addition at both inputs
    assert (counts.evaluation, counts.forward, counts.reverse) == (5, 16, 15)
    w, x = np.ones((7, 5)), np.ones((3, 5))
    counts = evaluation_trace(lambda x, w: F.tanh(F.linear(x, w)), x, w).operations()
    product, numbers = 2 * 3 * 7 * 5, 3 * 7
    assert counts.evaluation == product + numbers
    assert counts.forward == 2 * product + numbers + 3 * numbers  # an addition, 1 - y**2, times
    assert counts.reverse == 2 * product + 3 * numbers
    for n in (1, 10, 40):  # what reverse mode is for: its cost does not grow with the inputs
        point = np.linspace(0.1, 0.9, n)
        trace = evaluation_trace(lambda *xs: sum(F.sin(x) * x for x in xs), *point)
        counts = trace.operations()
        assert counts.reverse <= 4 * counts.evaluation
        assert n * counts.forward >= n * counts.evaluation


def test_graphs_carry_value_and_derivative():
    trace = evaluation_trace(tutorial, 1.5, 3.0)
    assert 'label="u2 = u-1 * u0\\n4.5000"' in trace.to_dot()
    assert 'label="u2 = u-1 * u0\\n4.5000\\nu2~ = -0.2108"' in trace.to_dot("reverse")
    assert 'label="u2 = u-1 * u0\\n4.5000\\nu2\' = 3.0000"' in trace.to_dot("forward", 1, 0)
    assert trace.node_numbers("reverse")["u-1"] == ["1.5000", "u-1~ = 1.6176"]


def test_slides_first_example():
    trace = evaluation_trace(lambda a, b: F.log(a * b + F.maximum(a, np.array(2.0))), 3.0, 2.0)
    # ab = 6, max(a, 2) = 3, ln 9; df/da = (b + 1) / 9, df/db = a / 9
    assert trace.values["y"] == pytest.approx(np.log(9))
    assert {6.0, 3.0, 9.0} <= set(trace.values.values())
    assert trace.reverse()["u-1"] == pytest.approx(1 / 3)
    assert trace.reverse()["u0"] == pytest.approx(1 / 3)
    assert trace.forward(1, 0)["y"] == pytest.approx(1 / 3)
    assert trace.forward(0, 1)["y"] == pytest.approx(1 / 3)


def test_slides_second_example():
    def slides(x):
        square = x**2
        inner = square + F.exp(square)
        return F.sqrt(inner) + F.cos(inner)

    def plain(x):
        inner = x**2 + np.exp(x**2)
        return np.sqrt(inner) + np.cos(inner)

    trace = evaluation_trace(slides, 0.8)
    exact = complex_step(plain, 0.8)
    assert trace.values["y"] == pytest.approx(plain(0.8), rel=1e-14)
    assert trace.forward(1.0)["y"] == pytest.approx(exact, rel=1e-13)
    assert trace.reverse()["u0"] == pytest.approx(exact, rel=1e-13)
    assert len(trace.steps) == 6  # common parts are computed once


def test_a_graph_that_is_not_layered():
    """The naive recursion bundles the values of equal rank and multiplies layer by layer."""
    trace = evaluation_trace(lambda x: F.sin(x) * x, 0.7)  # x jumps over the layer of sin
    exact = np.sin(0.7) + 0.7 * np.cos(0.7)
    layers = {0: list(trace.inputs)}
    for step in trace.steps:
        layers.setdefault(step.rank, []).append(step.name)
    adjoint = {trace.output: 1.0}
    for rank in sorted(layers, reverse=True)[:-1]:
        below = dict.fromkeys(layers[rank - 1], 0.0)  # the recursion sees one layer down only
        for step in (s for s in trace.steps if s.rank == rank and s.name in adjoint):
            for name in set(step.inputs) & below.keys():
                at = [chainer.Variable(np.array(trace.values[n])) for n in step.inputs]
                local = F.sin(*at) if len(at) == 1 else at[0] * at[1]
                (slope,) = chainer.grad([local], [at[step.inputs.index(name)]])
                below[name] += adjoint[step.name] * float(slope.array)
        adjoint = below
    assert adjoint["u0"] == pytest.approx(0.7 * np.cos(0.7))  # the jump is lost
    assert abs(adjoint["u0"] - exact) > 0.5
    assert trace.reverse()["u0"] == pytest.approx(exact, rel=1e-14)
    assert trace.forward(1.0)["y"] == pytest.approx(exact, rel=1e-14)


def test_vectors():
    a = np.random.default_rng(0).normal(size=(3, 2))
    x, v = np.array([0.5, -1.0]), np.array([1.0, 2.0])

    def function(x):
        first, second, _ = F.split_axis(F.tanh(F.matmul(a, x)), 3, axis=0)
        return F.concat((first * second, F.broadcast_to(F.sum(x), (1,))), axis=0)

    trace = evaluation_trace(function, x)
    exact = jacobian(function, x)
    np.testing.assert_allclose(trace.forward(v)["y"], exact @ v, rtol=1e-12)
    np.testing.assert_allclose(trace.reverse(v)["u0"], v @ exact, rtol=1e-12)


def test_drawings(tmp_path):
    trace = evaluation_trace(tutorial, 1.5, 3.0)
    text = trace.to_dot()
    for edge in ('"u-1" -> "u1"', '"u-1" -> "u2"', '"u0" -> "u2"', '"u0" -> "u3"', '"u4" -> "u5"'):
        assert edge in text
    assert text.count("->") == 8
    back = trace.to_dot("reverse")
    assert '"u2" -> "u-1"' in back
    assert "-0.2108" in back
    assert "1.6176" in trace.to_dot("forward", 1.0, 0.0)
    if shutil.which("dot"):
        assert b"<svg" in trace.render(tmp_path / "graph.svg").read_bytes()
        assert [p.name for p in tmp_path.iterdir()] == ["graph.svg"]
    else:
        with pytest.raises(RuntimeError, match="Graphviz is not installed"):
            trace.render(tmp_path / "graph.svg")


def test_bad_input():
    with pytest.raises(ValueError, match="at least one point"):
        evaluation_trace(tutorial)
    with pytest.raises(TypeError, match="must return a chainer"):
        evaluation_trace(lambda x: 1.0, 1.0)
    with pytest.raises(TypeError, match="floating-point"):
        evaluation_trace(lambda x: x, np.int64(1))
    with pytest.raises(ValueError, match="from its inputs"):
        evaluation_trace(lambda x: chainer.Variable(np.array(1.0)), 1.0)
    trace = evaluation_trace(tutorial, 1.5, 3.0)
    with pytest.raises(ValueError, match="tangents must be 2, found 1"):
        trace.forward(1.0)
    with pytest.raises(ValueError, match="mode must be"):
        trace.table("sideways")
    with pytest.raises(ValueError, match="mode must be"):
        trace.to_dot("sideways")
