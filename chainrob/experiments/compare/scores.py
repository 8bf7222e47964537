"""The score that chooses among candidates, and the error that judges them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["ERROR_LIMIT", "clean_error", "validation_score"]

Array = NDArray[Any]

ERROR_LIMIT = 2.0
"""The largest error of a regression. A network that diverged has this error, or 1 in
classification."""


def validation_score(y: Array, t: Array) -> float:
    """The error of predictions on contaminated points, for a choice among candidates.

    Classification: the share of misclassified points, plus a hundredth of the mean of 1 - p, where
    p is the probability of the label. The second term decides ties. Regression: the mean absolute
    residual. Each residual is clipped at three deviations of the contaminated responses, where a
    deviation is 1.4826 times the median absolute deviation. So no point counts much.

    Args:
        y: Scores (n, classes), or predictions (n, 1).
        t: Classes (n,), or responses (n, 1).

    Example:
        >>> import numpy as np
        >>> from chainrob.experiments.compare.scores import validation_score
        >>> t = np.array([[1.0], [2.0], [3.0], [999.0]])
        >>> round(validation_score(np.array([[1.0], [2.0], [3.0], [4.0]]), t), 2)  # 3 x 1.48 / 4
        1.11
    """
    scores = np.asarray(y, np.float64)
    bad = np.asarray(~np.isfinite(scores).all(axis=-1))
    if t.dtype.kind == "f":
        limit = 3 * 1.4826 * np.median(np.abs(t - np.median(t)))
        residual = np.where(bad, np.inf, np.abs(scores - t)[:, 0])
        return float(np.minimum(residual, max(limit, 1e-6)).mean())
    scores = np.where(bad[:, None], 0, scores)
    p = np.exp(scores - scores.max(axis=-1, keepdims=True))
    p = np.where(bad, 0, p[np.arange(len(t)), t] / p.sum(axis=-1))
    return float(((scores.argmax(axis=-1) != t) | bad).mean() + 0.01 * (1 - p).mean())


def clean_error(y: Array, t: Array) -> float:
    """Share of misclassified points, or 1 - R^2 (at most ``ERROR_LIMIT``), on clean points.

    Args:
        y: Scores (n, classes), or predictions (n, 1).
        t: Classes (n,), or responses (n, 1).
    """
    scores = np.asarray(y, np.float64)
    if t.dtype.kind != "f":
        wrong = (scores.argmax(axis=-1) != t) | ~np.isfinite(scores).all(axis=-1)
        return float(wrong.mean())
    with np.errstate(over="ignore", invalid="ignore"):
        error = ((scores - t) ** 2).mean() / t.var()
    return float(min(error, ERROR_LIMIT)) if np.isfinite(error) else ERROR_LIMIT
