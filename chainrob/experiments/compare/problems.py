"""The data sets of the comparison, split, scaled and contaminated."""

from __future__ import annotations

import ast
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn import datasets

from chainrob.datasets.contamination import (
    add_heavy_tailed_noise,
    add_leverage_points,
    flip_labels,
    push_random_inputs,
    shift_responses,
)

__all__ = ["CONTAMINATIONS", "DATA", "Problem", "make_problem", "parse_contamination"]

Array = NDArray[Any]

DATA: dict[str, Callable[..., Any]] = {
    "iris": datasets.load_iris,
    "wine": datasets.load_wine,
    "breast_cancer": datasets.load_breast_cancer,
    "digits": datasets.load_digits,
    "diabetes": datasets.load_diabetes,
}
"""What scikit-learn ships; diabetes is a regression, the others are classifications."""

CONTAMINATIONS = {
    "none": {},
    "push": {"share": 0.1, "k": 1e4},
    "labels": {"share": 0.1},
    "noise": {"share": 0.1, "scale": 1e3},
    "leverage": {"share": 0.1, "distance": 1e4},
}
"""Names of contaminations and their parameters' defaults."""


class Problem(NamedTuple):
    """One data set and seed: a contaminated training set, clean data to choose and to judge by."""

    x_train: Array
    t_train: Array
    x_validation: Array
    t_validation: Array
    x_test: Array
    t_test: Array
    n_outputs: int
    classification: bool


def parse_contamination(text: str) -> tuple[str, dict[str, float]]:
    """A contamination written as ``NAME`` or ``NAME:PARAMETER=VALUE,...``.

    - ``none``;
    - ``push``: inputs pushed from the centre by k standard deviations, as in the tutorial;
    - ``labels``: labels flipped to another class, or responses shifted up by 10 deviations;
    - ``noise``: heavy-tailed noise (Student's t, 1.5 degrees of freedom) on inputs;
    - ``leverage``: inputs all thrown to one far point, their labels or responses kept.

    Raises:
        ValueError: If the name, a parameter or a value is wrong.

    Example:
        >>> from chainrob.experiments.compare import parse_contamination
        >>> parse_contamination("push:share=0.2")
        ('push', {'share': 0.2, 'k': 10000.0})
    """
    name, _, rest = text.partition(":")
    if name not in CONTAMINATIONS:
        raise ValueError(f"unknown contamination {name!r}; known are {', '.join(CONTAMINATIONS)}")
    parameters = dict(CONTAMINATIONS[name])
    for item in filter(None, rest.split(",")):
        key, equals, value = item.partition("=")
        if not equals or key not in parameters:
            known = ", ".join(parameters) or "none"
            raise ValueError(f"contamination {name!r} has the parameters {known}, found {item!r}")
        try:
            parameters[key] = float(ast.literal_eval(value))
        except (ValueError, SyntaxError, TypeError) as error:
            raise ValueError(f"{key} must be a number, found {value!r}") from error
    share = parameters.get("share", 0.0)
    if not 0 <= share < 0.5:
        raise ValueError(f"share must lie in [0, 0.5), found {share:g}")
    return name, parameters


@lru_cache(maxsize=len(DATA))
def _load(name: str) -> tuple[Array, Array]:
    x, t = DATA[name](return_X_y=True)
    return np.asarray(x, np.float64), np.asarray(t)


def make_problem(data: str, contamination: str, seed: int) -> Problem:
    """Split into 60% training, 20% validation, 20% test; scale by the clean training data; corrupt.

    The split and the points that are corrupted depend on (data, seed) alone, so all contaminations
    and methods meet the same points.

    Args:
        data: A name of ``DATA``.
        contamination: As ``parse_contamination`` reads it.
        seed: Of split and contamination.

    Returns:
        Problem: float32 inputs; int32 classes, or float32 responses (n, 1) of unit variance.

    Example:
        >>> from chainrob.experiments.compare import make_problem
        >>> problem = make_problem("iris", "labels:share=0.2", seed=0)
        >>> problem.x_train.shape, problem.n_outputs, problem.classification
        ((90, 4), 3, True)
    """
    x, t = _load(data)
    classification = t.dtype.kind == "i"
    split, corrupt = np.random.SeedSequence([seed, sorted(DATA).index(data)]).spawn(2)
    order = np.random.default_rng(split).permutation(len(x))
    a, b = int(0.6 * len(x)), int(0.8 * len(x))
    train, validation, test = order[:a], order[a:b], order[b:]
    deviation = x[train].std(axis=0)
    x = (x - x[train].mean(axis=0)) / np.where(deviation > 0, deviation, 1.0)
    if not classification:
        t = ((t - t[train].mean()) / t[train].std())[:, None]
    name, parameters = parse_contamination(contamination)
    x_train, t_train = _corrupt(x[train], t[train], name, parameters, corrupt, classification)
    kind = np.int32 if classification else np.float32
    return Problem(
        x_train.astype(np.float32),
        t_train.astype(kind),
        x[validation].astype(np.float32),
        t[validation].astype(kind),
        x[test].astype(np.float32),
        t[test].astype(kind),
        int(t.max()) + 1 if classification else 1,
        classification,
    )


def _corrupt(
    x: Array,
    t: Array,
    name: str,
    parameters: dict[str, float],
    seed: np.random.SeedSequence,
    classification: bool,
) -> tuple[Array, Array]:
    share = parameters.get("share", 0.0)
    if name == "push":
        return push_random_inputs(x, share, parameters["k"], seed=seed).data, t
    if name == "noise":
        noisy = add_heavy_tailed_noise(x, share, scale=parameters["scale"], tail=1.5, seed=seed)
        return noisy.data, t
    if name == "leverage":
        # Only the inputs move; what the labels are makes no difference to where.
        numbers = np.zeros(len(x)) if classification else t
        bad = add_leverage_points(x, numbers, share, distance=parameters["distance"], seed=seed)
        return bad.x, t
    if name == "labels" and classification:
        return x, flip_labels(t, share, n_classes=int(t.max()) + 1, seed=seed).data
    if name == "labels":
        return x, shift_responses(t, share, shift=10.0, seed=seed).data
    return x, t
