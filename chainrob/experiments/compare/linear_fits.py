"""scikit-learn's robust linear regressions, with as many candidates as the networks have."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import HuberRegressor, RANSACRegressor, TheilSenRegressor

from chainrob.experiments.compare.problems import Problem, scaled
from chainrob.experiments.compare.scores import ERROR_LIMIT, clean_error, validation_score

__all__ = ["fit_cell"]

_VALUES: dict[str, tuple[float, ...]] = {
    "HuberRegressor": (1.05, 1.2, 1.35, 1.6, 2.0, 3.0),  # epsilon
    "RANSACRegressor": (0.25, 0.5, 0.75, 1.0, 1.5, 2.0),  # threshold, in MAD of the responses
    "TheilSenRegressor": (0.0, 0.1, 0.2, 0.3, 0.5, 1.0),  # subsample size, from least to all
}


def fit_cell(name: str, problems: Sequence[Problem], budget: int) -> NDArray[np.float64]:
    """Fit one estimator to each problem, with each value of its parameter.

    Args:
        name: Name of the estimator.
        problems: Contaminated regressions.
        budget: Largest number of values to try.

    Returns:
        array: (problems, budget, 3), as ``train_cell``. If there are fewer values than the budget,
        the last result is repeated.
    """
    values = _VALUES[name]
    at = np.linspace(0, len(values) - 1, min(budget, len(values))).round().astype(int)
    result = np.empty((len(problems), budget, 3))
    for i, problem in enumerate(problems):
        x_train, x_validation, x_test = (
            part.astype(np.float64) for part in scaled(problem, "robust")
        )
        for j in range(budget):
            if j >= len(at):
                result[i, j] = result[i, j - 1]
                continue
            begun = time.process_time()
            score = [1e30, ERROR_LIMIT]
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a fit that does not converge has a large error
                try:
                    fitted = _make(name, values[at[j]], x_train, problem.t_train).fit(
                        x_train, problem.t_train[:, 0]
                    )
                    predicted = [fitted.predict(part)[:, None] for part in (x_validation, x_test)]
                    score = [
                        validation_score(predicted[0], problem.t_validation),
                        clean_error(predicted[1], problem.t_test),
                    ]
                except ValueError:  # RANSAC found no consensus, Huber diverged
                    pass
            result[i, j] = (*score, time.process_time() - begun)
    return result


def _make(name: str, value: float, x: NDArray[Any], t: NDArray[Any]) -> Any:
    n, d = x.shape
    if name == "HuberRegressor":
        return HuberRegressor(epsilon=value, max_iter=300)
    if name == "RANSACRegressor":
        threshold = value * float(np.median(np.abs(t - np.median(t))))
        return RANSACRegressor(residual_threshold=threshold, max_trials=60, random_state=0)
    size = int(d + 1 + value * (n - d - 1))
    return TheilSenRegressor(n_subsamples=size, max_subpopulation=200, random_state=0)
