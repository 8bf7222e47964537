"""The worked example in the report: its graphs, the errors of the text and the warning."""

import pytest

from chainrob.experiments.report.document import Image
from chainrob.experiments.reproduce.differentiation import (
    chainers_graph,
    differentiation_sections,
    listing1,
    published_tables,
)


@pytest.fixture(scope="module")
def sections():
    return differentiation_sections()


def test_the_report_lists_the_errors_and_the_warning_behind_the_worked_example(sections):
    titles = [section.title for section in sections]
    assert titles[0].startswith("The worked example")
    assert titles[-2:] == ["Errors in the tutorial's text", "A warning: bundling values by layers"]
    assert all(section.verdicts() for section in sections[-2:])


def test_every_verdict_holds(sections):
    verdicts = [verdict for section in sections for verdict in section.verdicts()]
    assert len(verdicts) == 4 + 4 + 1
    assert {verdict.outcome for verdict in verdicts} == {"holds"}


def test_the_tutorials_figures_stand_first_and_ours_beside(sections):
    images = [one for section in sections for one in section.blocks if isinstance(one, Image)]
    assert [one.name for one in images] == ["figure1", "figure2", "reverse_mode"]
    shown = [text.get_text() for text in images[1].figure.axes[0].texts]
    assert "u4: float32" in shown


def test_listing_1_prints_what_the_tutorial_prints():
    for name, value in published_tables()["listing1_chainer"].items():
        assert round(listing1()[name], 4) == value


def test_figure_2_is_chainers_graph_of_listing_1():
    (ax,) = chainers_graph().axes
    shown = [text.get_text() for text in ax.texts if text.get_text()]
    assert sorted(shown) == sorted(
        ["_ ** 3", "_ * _", "_ / _", "sin", "_ + _"]
        + [f"{name}: float32" for name in ("x1", "x2", "u1", "u2", "u3", "u4", "u5")]
    )
    assert len([text for text in ax.texts if not text.get_text()]) == 8 + 5
