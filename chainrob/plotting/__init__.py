"""Figures of robust training, for color-blind readers and gray printers too.

Every function takes ``ax=`` (None makes a new figure by pyplot) and returns the axes it drew in.
Colors are Okabe and Ito's; each line has a dash pattern of its own as well, each set of points a
marker, so that nothing is told by color alone.
"""

from __future__ import annotations

from chainrob.plotting.contamination import contamination, points
from chainrob.plotting.function_graph import chainer_dot, chainer_graph
from chainrob.plotting.graph import computation_graph
from chainrob.plotting.heat_map import heat_map
from chainrob.plotting.influence_plots import breakdown_curve, influence_curve
from chainrob.plotting.intervals import intervals
from chainrob.plotting.learning import learning_curves
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
    "learning_curves",
    "line_style",
    "marker_style",
    "most_suspect",
    "new_figure",
    "points",
    "suspects",
]
