"""Another robustifier for each replica: T settings compared in one graph."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from chainrob.robustifiers.estimates import Estimate, together
from chainrob.robustifiers.mean import Mean
from chainrob.robustifiers.robustifier import Robustifier
from chainrob.sample_gradients import SampleGradients
from chainrob.sample_gradients.operator_base import Array


@dataclass(frozen=True, repr=False)
class PerReplica(Robustifier):
    """Replica t of an ensemble is estimated by robustifier t.

    Replicas with equal robustifiers are estimated together, so T settings cost as many calls as
    there are different settings.

    Args:
        robustifiers: one a replica; None is the plain mean.

    Raises:
        ValueError: no robustifiers; at the call, a number of replicas that differs from theirs.
        TypeError: an entry that is neither a Robustifier nor None.

    Example:
        >>> import numpy as np, chainrob
        >>> from chainrob.sample_gradients import Dense
        >>> rows = np.array([[[1.0], [2.0], [9.0]], [[1.0], [2.0], [9.0]]])  # replicas, rows, D
        >>> chainrob.PerReplica((chainrob.Mean(), chainrob.CoordinateMedian()))(Dense(rows, 1))
        array([[4.],
               [2.]])
    """

    robustifiers: tuple[Robustifier | None, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "robustifiers", tuple(self.robustifiers))
        if not self.robustifiers:
            raise ValueError("PerReplica: robustifiers must hold at least one entry, found none")
        for entry in self.robustifiers:
            if entry is not None and not isinstance(entry, Robustifier):
                raise TypeError(
                    f"PerReplica: robustifiers must be Robustifier objects or None, found {entry!r}"
                )

    def estimate(self, gradients: Array | SampleGradients, watch: bool = False) -> Estimate:
        if not isinstance(gradients, SampleGradients) or not gradients.replicas:
            raise ValueError("PerReplica: gradients must have a replica axis, found none")
        count = gradients.replicas[0]
        if count != len(self.robustifiers):
            raise ValueError(
                f"PerReplica: there must be one robustifier a replica, found "
                f"{len(self.robustifiers)} for {count} replicas"
            )
        groups: dict[Robustifier, list[int]] = {}
        for number, entry in enumerate(self.robustifiers):
            groups.setdefault(entry or Mean(nonfinite="propagate"), []).append(number)
        if len(groups) == 1:
            return next(iter(groups)).estimate(gradients, watch)
        xp = gradients.xp
        parts = [
            robustifier.estimate(gradients.replica((xp.asarray(numbers),)), watch)
            for robustifier, numbers in groups.items()
        ]
        # The groups' answers, back in the order of the replicas.
        order = np.argsort(np.concatenate([np.asarray(one) for one in groups.values()]))
        return together(lambda column: xp.concatenate(column)[xp.asarray(order)], parts)

    def _estimate(self, gradients: SampleGradients, watch: bool = False) -> Estimate:
        return self.estimate(gradients, watch)
