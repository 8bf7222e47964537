"""Ways to corrupt a share of the training points. They are seeded and return the corrupted rows.

Inputs: the tutorial's push and heavy-tailed noise. Labels: flips. Regression: leverage points and
vertical outliers. Gradients: attacks, for testing robustifiers.
"""

from __future__ import annotations

from chainrob.datasets.contamination.attacks import (
    ATTACKS,
    a_little_is_enough,
    gaussian,
    infinity,
    inner_product_manipulation,
    mimic,
    sign_flip,
)
from chainrob.datasets.contamination.choice import choose_rows
from chainrob.datasets.contamination.labels import flip_labels, flip_labels_by_class
from chainrob.datasets.contamination.noise import add_heavy_tailed_noise
from chainrob.datasets.contamination.optimal_attacks import (
    optimal_a_little_is_enough,
    optimal_inner_product_manipulation,
)
from chainrob.datasets.contamination.push import push_inputs, push_random_inputs
from chainrob.datasets.contamination.regression import add_leverage_points, shift_responses
from chainrob.datasets.contamination.result import Contaminated, ContaminatedRegression

__all__ = [
    "ATTACKS",
    "Contaminated",
    "ContaminatedRegression",
    "a_little_is_enough",
    "add_heavy_tailed_noise",
    "add_leverage_points",
    "choose_rows",
    "flip_labels",
    "flip_labels_by_class",
    "gaussian",
    "infinity",
    "inner_product_manipulation",
    "mimic",
    "optimal_a_little_is_enough",
    "optimal_inner_product_manipulation",
    "push_inputs",
    "push_random_inputs",
    "shift_responses",
    "sign_flip",
]
