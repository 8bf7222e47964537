"""The published curves of Figure 4, digitized."""

from __future__ import annotations

import json
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from chainrob.datasets import read_data_file

__all__ = ["PublishedCurve", "published_figure4"]

_SHA256 = "9b0a8f6c503b5651c692ce826a06f9ee4a00bbaab631d0ad1b19509eed6c1fc6"


class PublishedCurve(NamedTuple):
    """One curve, read off the picture: the error to within 0.005, the cost to within 400."""

    cost_in_gradients: NDArray[np.float64]
    error: NDArray[np.float64]


def published_figure4() -> dict[tuple[str, str], PublishedCurve]:
    """The four published curves, averages over 20 trials.

    Returns:
        dict: For each (method, part) a curve; methods are ``deep`` and ``deep-rob``, parts are
        ``train`` and ``test``.

    Raises:
        DataFileError: If the file is missing or damaged.

    Example:
        >>> from chainrob.experiments.iris import published_figure4
        >>> float(published_figure4()["deep-rob", "test"].error[-1])
        0.1336
    """
    content = json.loads(read_data_file("published/figure4_published.json", _SHA256))
    curves = {}
    for name, curve in content["curves"].items():
        method, part = name.split("/")
        curves[method, part] = PublishedCurve(
            np.array(curve["cost_in_gradients"], dtype=np.float64),
            np.array(curve["misclassification_rate"], dtype=np.float64),
        )
    return curves
