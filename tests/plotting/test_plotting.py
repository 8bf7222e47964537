"""What is drawn is what was given, on the axes that were given."""

import io
import itertools

import numpy as np
import pytest
from matplotlib import colors

import chainrob
import chainer
from chainrob import plotting
from chainrob.characteristics import breakdown, influence
from chainrob.differentiation import evaluation_trace
from chainrob.statistics import bootstrap_interval


@pytest.fixture
def ax():
    with plotting.new_figure(5, 4) as figure:
        yield figure.subplots()
        figure.savefig(io.BytesIO(), format="png")  # it can be drawn


def test_styles_can_be_told_apart_in_grey_and_by_color():
    pairs = [tuple(map(str, plotting.line_style(i).values())) for i in range(42)]
    assert len(set(pairs)) == 42
    marks = [tuple(plotting.marker_style(i).values()) for i in range(56)]
    assert len(set(marks)) == 56
    # Neighbors differ in more than color.
    for i in range(20):
        one, next_one = plotting.line_style(i), plotting.line_style(i + 1)
        assert one["linestyle"] != next_one["linestyle"]
        assert plotting.marker_style(i)["marker"] != plotting.marker_style(i + 1)["marker"]
    rgb = [colors.to_rgb(c) for c in plotting.PALETTE]
    assert min(np.abs(np.subtract(a, b)).max() for a, b in itertools.combinations(rgb, 2)) > 0.2


def test_learning_curves_draw_mean_and_bootstrap_band(ax):
    curves = np.random.default_rng(0).random((7, 4))
    assert plotting.learning_curves(np.arange(4), {"a": curves, "b": curves[:1]}, ax=ax) is ax
    np.testing.assert_allclose(ax.lines[0].get_ydata(), curves.mean(axis=0))
    assert len(ax.collections) == 1  # one trial has no band
    low, high = bootstrap_interval(curves)
    corners = ax.collections[0].get_paths()[0].vertices
    assert corners[:, 1].min() == pytest.approx(low.min())
    assert corners[:, 1].max() == pytest.approx(high.max())
    with pytest.raises(ValueError, match=r"trials\['c'\] must have shape \(trials, 4\)"):
        plotting.learning_curves(np.arange(4), {"c": curves[:, :2]}, ax=ax)


def test_influence_and_breakdown_curves_draw_what_is_measured(ax):
    robustifiers = {"m": chainrob.Mean(), "t": chainrob.TrimmedMean(fraction=0.1)}
    plotting.influence_curve(robustifiers, at=[-3.0, 3.0], ax=ax)
    for line, robustifier in zip(ax.lines, robustifiers.values(), strict=True):
        np.testing.assert_allclose(line.get_ydata(), influence(robustifier, [-3.0, 3.0]))
    ax.clear()
    plotting.breakdown_curve([chainrob.Mean(), np.median], counts=[1, 4], ax=ax)
    assert [line.get_label() for line in ax.lines] == ["Mean()", "median"]
    np.testing.assert_allclose(ax.lines[0].get_ydata(), breakdown(chainrob.Mean(), [1, 4]))


def test_contamination_has_an_arrow_for_every_moved_point(ax):
    before = np.arange(12.0).reshape(6, 2)
    after = before.copy()
    after[[1, 4]] += 5
    plotting.contamination(before, after, [0, 0, 1, 1, 2, 2], names="abc", ax=ax)
    assert [text.xyann for text in ax.texts] == [tuple(before[1]), tuple(before[4])]
    assert ax.get_legend_handles_labels()[1] == ["a", "b", "c"]
    np.testing.assert_allclose(ax.lines[0].get_xydata()[0], before.mean(axis=0))
    with pytest.raises(ValueError, match="one shape"):
        plotting.contamination(before, after[:2], [0], ax=ax)
    with pytest.raises(ValueError, match=r"x must be \(n, 2\)"):
        plotting.points(before[:, :1], [0] * 6, ax=ax)


def test_suspects_are_ranked_and_the_truth_marked(ax):
    weights = [0.9, 0.2, 1.0, 0.1]
    plotting.suspects(weights, truth=[1, 2], layers={"l1": weights}, ax=ax)
    line, marks = ax.lines[1], ax.lines[2]
    np.testing.assert_allclose(line.get_ydata(), sorted(weights))
    np.testing.assert_allclose(marks.get_xydata(), [[2, 0.2], [4, 1.0]])
    ax.clear()
    plotting.most_suspect(weights, top=2, ax=ax)
    assert [bar.get_width() for bar in ax.patches] == [0.1, 0.2]
    with pytest.raises(ValueError, match="truth"):
        plotting.suspects(weights, truth=[4], ax=ax)


def test_heat_map_writes_every_number_and_leaves_gaps(ax):
    values = np.array([[0.1, np.nan], [0.3, 0.9]])
    ends = np.stack([values - 0.05, values + 0.05])
    plotting.heat_map(values, ["a", "b"], ["x", "y"], intervals=ends, ax=ax)
    texts = [text.get_text() for text in ax.texts]
    assert texts == ["0.10\n0.05–0.15", "0.30\n0.25–0.35", "0.90\n0.85–0.95"]
    ax.clear()
    plotting.heat_map([[0.5, 9.0]], ["a"], ["x", "y"], darkest=1.0, ax=ax)
    assert [text.get_text() for text in ax.texts] == ["0.50", "9.00"]
    assert ax.images[0].get_clim() == (0, 1)
    with pytest.raises(ValueError, match="values must have shape"):
        plotting.heat_map(values, ["a"], ["x", "y"], ax=ax)


def test_intervals_run_from_end_to_end(ax):
    plotting.intervals([1.0, 2.0], [[0.5, 1.0], [1.5, 4.0]], ["a", "b"], ax=ax)
    segments = ax.collections[0].get_segments()
    np.testing.assert_allclose(segments, [[[0.5, 0], [1.5, 0]], [[1.0, 1], [4.0, 1]]])
    with pytest.raises(ValueError, match="means must be"):
        plotting.intervals([1.0], [[0.5], [1.5]], ["a", "b"], ax=ax)


def test_graph_shows_every_value_and_edge(ax):
    trace = evaluation_trace(lambda a, b: a**3 / b + chainer.functions.sin(a * b), 1.5, 3.0)
    plotting.computation_graph(trace, "reverse", ax=ax)
    shown = [text.get_text() for text in ax.texts if text.get_text()]
    assert len(shown) == len(trace.inputs) + len(trace.steps)
    adjoints = trace.reverse()
    plain = str.maketrans("₋₀₁₂₃₄₅₆₇₈₉", "-0123456789")
    assert shown[0].startswith("u₋₁ = x₁\n")
    assert all(f"{adjoints[text.translate(plain).split(' ')[0]]:.4f}" in text for text in shown)
    arrows = [text for text in ax.texts if not text.get_text()]
    assert len(arrows) == sum(len(set(step.inputs) & set(adjoints)) for step in trace.steps)
    with pytest.raises(ValueError, match="mode must be"):
        plotting.computation_graph(trace, "sideways", ax=ax)


@pytest.mark.parametrize("mode", ["evaluation", "reverse"])
def test_arrows_of_a_graph_end_at_the_boxes_and_not_below_them(ax, mode):
    trace = evaluation_trace(lambda a, b: a**3 / b + chainer.functions.sin(a * b), 1.5, 3.0)
    plotting.computation_graph(trace, mode, ax=ax)
    ax.figure.savefig(io.BytesIO(), format="png", dpi="figure")  # places boxes and arrows
    boxes = [t.get_bbox_patch().get_window_extent() for t in ax.texts if t.get_text()]
    for arrow in (text.arrow_patch for text in ax.texts if not text.get_text()):
        for end in arrow.get_path().vertices[[0, 2]]:  # in pixels; between them the bend
            inside = [box.expanded(0.9, 0.9).contains(*end) for box in boxes]
            near = [box.padded(6).contains(*end) for box in boxes]
            assert sum(near) == 1
            assert not any(inside)


def test_numbers_of_a_heat_map_can_be_read_on_every_shade(ax):
    def luminance(color):
        rgb = np.array(colors.to_rgb(color))
        linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        return linear @ [0.2126, 0.7152, 0.0722] + 0.05

    values = np.linspace(0, 1, 41)[None]
    plotting.heat_map(values, ["a"], [""] * 41, ax=ax)
    image = ax.images[0]
    for text, value in zip(ax.texts, values[0], strict=True):
        pair = luminance(text.get_color()), luminance(image.cmap(image.norm(value)))
        assert max(pair) / min(pair) > 4.5  # WCAG 2, level AA


def test_without_axes_pyplot_makes_them():
    from matplotlib import pyplot

    pyplot.switch_backend("agg")
    axes = plotting.influence_curve(chainrob.Mean(), at=[0.0, 1.0])
    assert pyplot.gcf() is axes.figure
    pyplot.close("all")
