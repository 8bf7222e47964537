"""Statistics of experiments: intervals, tests of curves, ranks over data sets.

Pure functions of arrays. Nothing here depends on networks or figures.
"""

from __future__ import annotations

from chainrob.statistics.bootstrap import bootstrap_interval
from chainrob.statistics.mean_curve import CurveTest, mean_curve_test
from chainrob.statistics.ranking import Ranking, rank_methods

__all__ = [
    "CurveTest",
    "Ranking",
    "bootstrap_interval",
    "mean_curve_test",
    "rank_methods",
]
