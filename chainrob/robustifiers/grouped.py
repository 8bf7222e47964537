"""A robustifier within each group of samples, and the mean over the groups."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from chainrob.robustifiers.parameters import require_integer
from chainrob.robustifiers.robustifier import Estimate, Policy, Robustifier
from chainrob.robustifiers.sample_facts import AsksForFacts, fact
from chainrob.sample_gradients import SampleGradients


@dataclass(frozen=True, repr=False, init=False)
class Grouped(AsksForFacts):
    r"""A robustifier within each group of samples: classes, sensors, clients.

    .. math:: \hat g = \sum_k \frac{\lvert G_k \rvert}{N}\, R\big(\{g_i\}_{i \in G_k}\big)

    Gradients of one class have a common direction, those of a whole batch have as many as there are
    classes: a robust location of all of them is near none of them, and takes a rare class for
    outliers. Within a class what sticks out is a wrong label or a bad input. The groups are told by
    ``chainrob.sample_facts(groups=...)``.

    Small groups: groups of fewer than ``least`` rows are put together into one; where that is still
    too small it joins the smallest of the others. A batch of fewer than ``least`` rows is one
    group. So a rare class is never estimated from a row or two.

    Each group weighs as many rows as it has, so no class gains or loses. Breakdown point: that of R
    in the smallest group, over all N rows: bad rows that share one group outvote it sooner than a
    whole batch. Equivariant as R is. Cost: R for each group (their Gram matrices together are
    smaller than one of all rows). Its derivative is not known.

    Args:
        robustifier: R, a ``Robustifier``; its counts, such as ``f``, are those of one group.
        least: the fewest rows that are a group of their own.

    Raises:
        TypeError: R is no ``Robustifier``.
        ValueError: least is no integer of at least 1; at the call, no groups told or not one a
            sample, or a group on which R cannot work.

    Example:
        >>> import numpy as np, chainrob
        >>> rows = np.array([[1.0], [2.0], [90.0], [-5.0], [-7.0], [-6.0]])
        >>> robust = chainrob.Grouped(chainrob.CoordinateMedian(), least=3)
        >>> with chainrob.sample_facts(groups=['a', 'a', 'a', 'b', 'b', 'b']):
        ...     robust(rows)
        array([-2.])
    """

    robustifier: Robustifier
    least: int = 5
    nonfinite: Policy = field(default="drop", init=False)

    def __init__(self, robustifier: Robustifier, least: int = 5) -> None:
        if not isinstance(robustifier, Robustifier):
            raise TypeError(
                f"Grouped: robustifier must be a chainrob.Robustifier, found {robustifier!r}"
            )
        object.__setattr__(self, "robustifier", robustifier)
        object.__setattr__(self, "least", least)
        object.__setattr__(self, "nonfinite", robustifier.nonfinite)
        require_integer(self, "least", 1)

    def _estimate(self, gradients: SampleGradients, watch: bool = False) -> Estimate:
        total: Any = None
        xp, weights = gradients.xp, None
        for rows in self._groups(gradients):
            part = self._fitting(len(rows))._estimate(_only(gradients, rows), watch)
            total = _add(total, part.value, len(rows) / gradients.n_samples)
            if part.weights is not None:
                if weights is None:
                    weights = xp.ones((*gradients.replicas, gradients.n_samples))
                weights[..., xp.asarray(rows)] = part.weights
        return Estimate(total, weights)

    def _fitting(self, n_samples: int) -> Robustifier:
        inner = self.robustifier.for_rows_left(n_samples)
        inner.check(n_samples)
        return inner

    def _groups(self, gradients: SampleGradients) -> list[np.ndarray]:
        """Row numbers of every group, (n_k,), rising."""
        n = gradients.n_samples
        _, keys = np.unique(fact(self, "groups", n), return_inverse=True)
        groups = [np.flatnonzero(keys == key) for key in range(keys.max() + 1)]
        large = sorted((rows for rows in groups if len(rows) >= self.least), key=len)
        small = [rows for rows in groups if len(rows) < self.least]
        if small:
            rest = np.sort(np.concatenate(small))
            if len(rest) < self.least and large:
                rest = np.sort(np.concatenate([rest, large.pop(0)]))
            large.append(rest)
        return large


def _only(gradients: SampleGradients, rows: np.ndarray) -> SampleGradients:
    return gradients.take(gradients.xp.asarray(rows))


def _add(total: Any, part: Any, share: float) -> Any:
    """``total + share * part``, for an estimate or the tuple of those of joined parameters."""
    if isinstance(part, tuple):
        totals = total or (None,) * len(part)
        return tuple(_add(*pair, share) for pair in zip(totals, part, strict=True))
    scaled = part * part.dtype.type(share)
    return scaled if total is None else total + scaled
