"""Labels at line ends: in order, apart, and near their lines."""

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.text import Text
from scipy.optimize import minimize

from chainrob.plotting import label_ends, new_figure
from chainrob.plotting.line_labels import _apart

PLACES = st.lists(st.floats(-2, 2), min_size=1, max_size=6)


@given(PLACES)
def test_places_are_apart_and_in_order(places):
    places = np.array(places)
    moved = _apart(places, 0.1)
    order = np.argsort(places, kind="stable")
    assert (np.diff(moved[order]) >= 0.1 - 1e-12).all()
    if len(places) < 2 or np.diff(np.sort(places)).min() >= 0.1:
        np.testing.assert_allclose(moved, places, atol=1e-12)


def test_places_are_moved_as_little_as_needed():
    places = np.array([0.5, 0.1, 0.12, 0.13, 0.9])
    order = np.argsort(places)
    apart = {"type": "ineq", "fun": lambda m: np.diff(m[order]) - 0.1}
    found = minimize(lambda m: ((m - places) ** 2).sum(), places, constraints=[apart], tol=1e-14).x
    np.testing.assert_allclose(_apart(places, 0.1), found, atol=1e-6)


def test_labels_do_not_overlap_and_lie_to_the_right():
    with new_figure(5, 3) as figure:
        ax = figure.subplots()
        for number in range(6):
            ax.plot([0, 1, 2], [1, 2, 3 + 0.01 * number], label=f"line {number}")
        ax.plot([0, 1], [0, 0], label="_hidden")
        ax.plot([0, 1, 2], [2, 1, np.nan], label="ends early")
        label_ends(ax)
    figure.draw_without_rendering()
    boxes = [Text.get_window_extent(text) for text in ax.texts]  # without the leader
    assert [text.get_text() for text in ax.texts] == [
        *(f"line {n}" for n in range(6)),
        "ends early",
    ]
    assert all(box.x0 > ax.get_window_extent().x1 for box in boxes)
    ordered = sorted(boxes, key=lambda box: box.y0)
    assert all(low.y1 <= high.y0 + 1 for low, high in pairwise(ordered))
    assert max(box.x1 for box in boxes) <= figure.bbox.x1
