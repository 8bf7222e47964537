"""What a robustifier is like, measured: influence, breakdown, efficiency on clean data, cost.

Each function asks the robustifier itself, so one's own callable can be measured like the library's.
``chainrob.plotting`` draws what is measured here.
"""

from __future__ import annotations

from chainrob.characteristics.breakdown import breakdown
from chainrob.characteristics.cost import cost
from chainrob.characteristics.efficiency import efficiency
from chainrob.characteristics.influence import influence
from chainrob.characteristics.sample import normal_scores

__all__ = ["breakdown", "cost", "efficiency", "influence", "normal_scores"]
