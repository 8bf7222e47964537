"""Measure a robustifier: influence, breakdown, efficiency on clean data, cost.

Each function calls the robustifier, so your own callable can be measured like those of the library.
``chainrob.plotting`` draws the results.
"""

from __future__ import annotations

from chainrob.characteristics.breakdown import breakdown
from chainrob.characteristics.cost import cost
from chainrob.characteristics.efficiency import efficiency
from chainrob.characteristics.influence import influence
from chainrob.characteristics.sample import normal_scores

__all__ = ["breakdown", "cost", "efficiency", "influence", "normal_scores"]
