"""Alt texts say what is drawn: other data give other texts, and extremes are those of NumPy."""

import re

import numpy as np
import pytest

from chainrob.experiments.report import Image, Section, lines_alt, map_alt, points_alt, rows_alt
from chainrob.experiments.report.html import to_html
from chainrob.experiments.report.markdown import to_markdown
from chainrob.plotting import intervals, new_figure

X = np.linspace(0, 100, 21)


def lines(curves, panels=1, **labels):
    with new_figure(4, 3) as figure:
        for ax in np.atleast_1d(figure.subplots(1, panels)):
            for name, y in curves.items():
                ax.plot(X, y, label=name)
            ax.set(xlabel="updates", ylabel="error", **labels)
    return figure


@pytest.mark.parametrize("seed", range(3))
def test_ends_of_lines_from_top_to_bottom(seed):
    rng = np.random.default_rng(seed)
    curves = {name: np.linspace(*rng.uniform(1, 9, 2), len(X)) for name in "abcd"}
    text = lines_alt(lines(curves))
    assert text.startswith("Lines. Horizontal axis: updates, from 0 to 100. Vertical axis: error.")
    found = re.findall(r"(\w) ([\d.]+) \(left end ([\d.]+)\)", text)
    order = sorted(curves, key=lambda name: -curves[name][-1])
    assert found == [(n, f"{curves[n][-1]:.3g}", f"{curves[n][0]:.3g}") for n in order]


def test_an_extreme_between_the_ends_is_named_only_if_it_is_far_beyond_them():
    bump = 1 + 3 * np.exp(-((X - 40) ** 2) / 50)
    assert "highest 4 at 40" in lines_alt(lines({"a": bump}))
    assert "lowest -4 at 40" in lines_alt(lines({"a": -bump}))
    wiggle = X + 5 * np.sin(X)
    assert "est " not in lines_alt(lines({"a": wiggle}))


def test_many_lines_or_panels_are_described_by_the_extreme_lines():
    curves = {f"line{k}": k + 0 * X for k in range(9)}
    said = "line8 is highest, 8, and line0 is lowest, 0"
    assert said in lines_alt(lines(curves))
    assert lines_alt(lines({k: curves[k] for k in ("line0", "line8")}, panels=3)).count(said) == 3


def test_panels_with_the_same_axes_and_a_logarithmic_scale():
    text = lines_alt(lines({"a": X + 1}, panels=2, title="left", yscale="log"))
    assert text.count("Vertical axis: error (logarithmic).") == 1
    assert text.count("left: ") == 2
    assert "The same axes." in text


def test_places_have_the_texts_of_their_ticks_and_bad_points_are_left_out():
    with new_figure(4, 3) as figure:
        ax = figure.subplots()
        y = [1.0, 5.0, 2.0, np.nan]
        ax.errorbar(np.arange(4) + 0.1, y, yerr=0.1, label="a")
        ax.set_xticks(range(4), ["1%", "$10^{2}$", "3%", "4%"])
        ax.set(xlabel="share", ylabel="error")
    text = lines_alt(figure)
    assert "from 1% to 3%" in text
    assert "a 2 (left end 1, highest 5 at 10^2)" in text


def test_rows_also_where_the_second_panel_has_no_names():
    names, rng = ["one", "two", "three"], np.random.default_rng(0)
    values = rng.normal(size=(2, 3))
    with new_figure(6, 3) as figure:
        axes = figure.subplots(1, 2, sharey=True)
        for ax, means, title in zip(axes, values, ("left", "right"), strict=True):
            intervals(means, np.stack([means - 1, means + 1]), names, label="test", ax=ax)
            ax.set(xlabel="error", title=title)
    text = rows_alt(figure)
    for means, title in zip(values, ("left", "right"), strict=True):
        low, high = names[means.argmin()], names[means.argmax()]
        assert (
            f"{title}: 3 rows with points and intervals. Horizontal axis: error. test: lowest "
            f"{low}, {means.min():.3g}; highest {high}, {means.max():.3g}." in text
        )


def test_map_without_the_cells_that_are_missing():
    text = map_alt([[np.nan, 2.0], [30000.0, -1.0]], ["a", "b"], ["c", "d"], "errors")
    assert text == (
        "Shaded table of errors, with 2 rows and 2 columns. Lowest: -1 (b, d). Highest: 30,000 "
        "(b, c)."
    )


def test_named_points():
    with new_figure(4, 3) as figure:
        ax = figure.subplots()
        for name, x, y in (("slow", 9.0, 1.0), ("fast", 1.0, 4.0), ("plain", 2.0, 7.0)):
            ax.annotate(name, (x, y))
        ax.set(xlabel="time", ylabel="error")
    text = points_alt(figure)
    assert text.startswith("3 named points. Horizontal axis: time. Vertical axis: error.")
    assert "Lowest: slow at (9, 1). Highest: plain at (2, 7)." in text
    assert text.endswith("Leftmost: fast. Rightmost: slow.")


def test_reports_have_the_alt_text_beside_the_caption():
    figure = lines({"a [b]": X})
    image = Image("x", figure, 'The "caption"', lines_alt(figure))
    sections = [Section("A", [image])]
    page = to_html("R", sections, {"x": b""})
    assert 'alt="Lines. Horizontal axis: updates' in page
    assert '<figcaption>The "caption"' in page
    assert "a [b] 100" in page
    pattern = r"!\[Lines\. [^\[\]]*a \(b\) 100[^\[\]]*\]\(figures/x.png\)"
    assert re.search(pattern, to_markdown("R", sections))
