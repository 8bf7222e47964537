"""The contaminations of the comparison, by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from chainrob.datasets.contamination import (
    add_heavy_tailed_noise,
    add_leverage_points,
    choose_rows,
    flip_labels,
    push_random_inputs,
)

__all__ = ["CORRUPTIONS", "Corruption", "corrupt", "parse_contamination"]

Array = NDArray[Any]
Seeds = np.random.SeedSequence


class Corruption(NamedTuple):
    """One kind of contamination."""

    apply: Callable[[Array, Array, float, Seeds], tuple[Array, Array]]
    """Maps inputs (n, d) in units of their deviations, targets (n,), share and seed to contaminated
    inputs and targets."""
    meaning: str
    classification: bool = True
    regression: bool = True


def _outliers(x: Array, t: Array, share: float, seed: Seeds) -> tuple[Array, Array]:
    rows = choose_rows(len(x), share, seed)
    rng = np.random.default_rng(seed.spawn(1)[0])
    hit = rng.random((len(rows), x.shape[1])) < 0.2
    hit[np.arange(len(rows)), rng.integers(0, x.shape[1], len(rows))] = True  # at least one
    x = x.copy()
    x[rows] = np.where(hit, 100 * x[rows], x[rows])
    return x, t


def _responses(**how: Any) -> Callable[[Array, Array, float, Seeds], tuple[Array, Array]]:
    def apply(x: Array, t: Array, share: float, seed: Seeds) -> tuple[Array, Array]:
        return x, add_heavy_tailed_noise(t, share, seed=seed, **how).data

    return apply


CORRUPTIONS: dict[str, Corruption] = {
    "labels": Corruption(
        lambda x, t, share, seed: (x, flip_labels(t, share, seed=seed).data),
        "labels flipped to any other class",
        regression=False,
    ),
    "classes": Corruption(
        lambda x, t, share, seed: (x, flip_labels(t, share, kind="pairwise", seed=seed).data),
        "labels flipped to the next class",
        regression=False,
    ),
    "push": Corruption(
        lambda x, t, share, seed: (push_random_inputs(x, share, 100.0, seed=seed).data, t),
        "inputs pushed across the center, 100 deviations out",
    ),
    "noise": Corruption(
        lambda x, t, share, seed: (
            add_heavy_tailed_noise(x, share, tail=1.0, scale=10.0, seed=seed).data, t
        ),
        "Cauchy noise of 10 deviations on all features of a point",
    ),
    "outliers": Corruption(
        _outliers, "a fifth of a point's features times 100, as if in a wrong unit"
    ),
    "heavy": Corruption(
        _responses(tail=1.0, scale=10.0),
        "Cauchy noise of 10 deviations on responses",
        classification=False,
    ),
    "asymmetric": Corruption(
        _responses(distribution="pareto", tail=1.5, scale=5.0, symmetric=False),
        "Pareto noise (tail 1.5, 5 deviations) that only raises responses",
        classification=False,
    ),
    "leverage": Corruption(
        lambda x, t, share, seed: (add_leverage_points(x, t, share, distance=20.0, seed=seed).x, t),
        "all inputs moved to one point 20 deviations out, responses kept",
        classification=False,
    ),
}  # fmt: skip
"""The kinds of contamination. One more line adds a kind. A contamination is ``KIND:SHARE``."""


def parse_contamination(text: str) -> tuple[str, float]:
    """Kind and share of a contamination written as ``none`` or ``KIND:SHARE``.

    Raises:
        ValueError: If there is no such kind or the share does not lie in [0, 0.5).

    Example:
        >>> from chainrob.experiments.compare.corruption import parse_contamination
        >>> parse_contamination("labels:0.1")
        ('labels', 0.1)
    """
    if text == "none":
        return text, 0.0
    kind, _, number = text.partition(":")
    if kind not in CORRUPTIONS:
        raise ValueError(
            f"unknown contamination {kind!r}; known are none, {', '.join(CORRUPTIONS)}"
        )
    try:
        share = float(number)
    except ValueError as error:
        raise ValueError(
            f"a contamination is written KIND:SHARE, as in labels:0.1, found {text!r}"
        ) from error
    if not 0 <= share < 0.5:
        raise ValueError(f"share must lie in [0, 0.5), found {share:g}")
    return kind, share


def corrupt(text: str, x: Array, t: Array, seed: Seeds) -> tuple[Array, Array]:
    """Inputs and targets with a share of the points contaminated."""
    kind, share = parse_contamination(text)
    if kind == "none" or round(share * len(x)) == 0:
        return x, t
    return CORRUPTIONS[kind].apply(x, t, share, seed)
