"""Wrong labels: symmetric, pairwise and class-conditional flips."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from chainrob.datasets.contamination.choice import choose_rows
from chainrob.datasets.contamination.result import Contaminated, Seed, draws_apart

__all__ = ["flip_labels", "flip_labels_by_class"]


def flip_labels(
    t: ArrayLike,
    share: float,
    *,
    kind: Literal["symmetric", "pairwise"] = "symmetric",
    n_classes: int | None = None,
    seed: Seed,
) -> Contaminated:
    r"""Give round(share * n) samples a wrong label.

    .. math:: \tilde t_i = (t_i + k_i) \bmod C

    k_i is uniform on 1 .. C - 1 (``'symmetric'``: every wrong class is equally likely), or 1
    (``'pairwise'``: every class is mistaken only for its neighbor). A flipped label is always
    wrong, so exactly the given share is corrupted.

    Args:
        t: Labels 0 .. C - 1, integers, shape (n,); not changed.
        share: Share of the labels to flip, 0 to 1.
        kind: ``'symmetric'`` or ``'pairwise'``.
        n_classes: C; None is the largest label plus one.
        seed: The same seed gives the same flips.

    Returns:
        Contaminated: ``data`` as t, and ``rows``.

    Raises:
        ValueError: If the kind is unknown, there are fewer than two classes, a label is outside
            0 .. C - 1, the share is outside [0, 1], or the shape is wrong.
        TypeError: If t does not hold integers.

    Example:
        >>> from chainrob.datasets.contamination import flip_labels
        >>> flipped = flip_labels([0, 0, 0, 0], 0.5, kind="pairwise", n_classes=3, seed=0)
        >>> sorted(flipped.data.tolist()), flipped.data[flipped.rows].tolist()
        ([0, 0, 1, 1], [1, 1])

    References:
        B. van Rooyen, A. Menon and R. C. Williamson (2015). Learning with symmetric label noise:
        the importance of being unhinged. NeurIPS. B. Han et al. (2018). Co-teaching: robust
        training of deep neural networks with extremely noisy labels. NeurIPS (pairwise).
    """
    if kind not in ("symmetric", "pairwise"):
        raise ValueError(f"kind must be 'symmetric' or 'pairwise', found {kind!r}")
    labels, classes = _labels(t, n_classes)
    sequence, rng = draws_apart(seed)
    rows = choose_rows(len(labels), share, sequence)
    steps = rng.integers(1, classes, len(rows)) if kind == "symmetric" else 1
    labels[rows] = (labels[rows].astype(np.int64) + steps) % classes
    return Contaminated(labels, rows)


def flip_labels_by_class(t: ArrayLike, transition: ArrayLike, *, seed: Seed) -> Contaminated:
    r"""Class-conditional noise: the observed label is drawn given the true one.

    .. math:: P(\tilde t_i = k \mid t_i = j) = T_{jk}, \quad \text{independently of } x_i

    So the number of wrong labels is random; ``rows`` lists them.

    Args:
        t: True labels 0 .. C - 1, integers, shape (n,); not changed.
        transition: T, shape (C, C), rows non-negative and adding up to 1.
        seed: The same seed gives the same labels.

    Returns:
        Contaminated: ``data`` as t, and ``rows``, those whose label changed.

    Raises:
        ValueError: If T is not a transition matrix, a label is outside 0 .. C - 1, or the shape is
            wrong.
        TypeError: If t does not hold integers.

    Example:
        >>> from chainrob.datasets.contamination import flip_labels_by_class
        >>> flip_labels_by_class([0, 1, 0, 1], [[1, 0], [1, 0]], seed=0).rows.tolist()
        [1, 3]

    References:
        N. Natarajan, I. Dhillon, P. Ravikumar and A. Tewari (2013). Learning with noisy labels.
        NeurIPS. G. Patrini et al. (2017). Making deep neural networks robust to label noise: a loss
        correction approach. CVPR.
    """
    matrix = np.array(transition, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or matrix.size == 0:
        raise ValueError(f"transition must have shape (C, C), found {matrix.shape}")
    if not (matrix >= 0).all() or not np.allclose(matrix.sum(axis=1), 1.0, rtol=0, atol=1e-8):
        raise ValueError(
            "the rows of transition must be non-negative and add up to 1, found rows "
            f"{matrix.tolist()}"
        )
    labels, _ = _labels(t, len(matrix), least=1)
    _, rng = draws_apart(seed)
    edges = np.cumsum(matrix, axis=1)[labels]
    drawn = (rng.random(len(labels))[:, None] >= edges[:, :-1]).sum(axis=1)
    rows = np.flatnonzero(drawn != labels)
    return Contaminated(drawn.astype(labels.dtype), rows)


def _labels(t: ArrayLike, n_classes: int | None, least: int = 2) -> tuple[NDArray[Any], int]:
    labels = np.array(t)
    if labels.ndim != 1 or labels.size == 0:
        raise ValueError(f"t must have shape (n,) and not be empty, found shape {labels.shape}")
    if labels.dtype.kind not in "iu":
        raise TypeError(f"t must hold integers, found dtype {labels.dtype}")
    if n_classes is not None and not isinstance(n_classes, int | np.integer):
        raise TypeError(f"n_classes must be an integer, found {n_classes!r}")
    classes = int(labels.max()) + 1 if n_classes is None else int(n_classes)
    if classes < least:
        raise ValueError(f"n_classes must be at least {least}, found {classes}")
    if labels.min() < 0 or labels.max() >= classes:
        raise ValueError(
            f"t must lie between 0 and n_classes - 1 = {classes - 1}, found labels from "
            f"{labels.min()} to {labels.max()}"
        )
    if classes - 1 > np.iinfo(labels.dtype).max:
        raise ValueError(
            f"the dtype of t must hold all labels below n_classes = {classes}, found {labels.dtype}"
        )
    return labels, classes
