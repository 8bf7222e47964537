"""Figures of robust training, readable also without color vision and on gray printers.

Every function takes ``ax=`` (None makes a new figure with pyplot) and returns the axes. The colors
are Okabe and Ito's. Lines also differ in their dashes, and sets of points in their markers.
"""

from __future__ import annotations

from chainrob.plotting.contamination import contamination, points
from chainrob.plotting.function_graph import chainer_dot, chainer_graph
from chainrob.plotting.graph import computation_graph
from chainrob.plotting.heat_map import heat_map
from chainrob.plotting.influence_plots import breakdown_curve, influence_curve
from chainrob.plotting.intervals import intervals
from chainrob.plotting.learning import learning_curves
from chainrob.plotting.line_labels import label_ends
from chainrob.plotting.style import PALETTE, line_style, marker_style, new_figure
from chainrob.plotting.suspect_plots import most_suspect, suspects

__all__ = [
    "PALETTE",
    "breakdown_curve",
    "chainer_dot",
    "chainer_graph",
    "computation_graph",
    "contamination",
    "heat_map",
    "influence_curve",
    "intervals",
    "label_ends",
    "learning_curves",
    "line_style",
    "marker_style",
    "most_suspect",
    "new_figure",
    "points",
    "suspects",
]
