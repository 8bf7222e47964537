"""What a robustifier answers with, and several answers as one."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any, NamedTuple

from chainrob.sample_gradients import SampleGradients
from chainrob.sample_gradients.operator_base import TILE_BUDGET, Array


class Estimate(NamedTuple):
    """A robust estimate, and how much of each sample entered it."""

    value: Any
    """(*R, *shape); a tuple of them for joined parameters."""
    weights: Array | None = None
    """(*R, N), float64, see ``Robustifier.sample_weights``; None where nobody watches, or where
    they are not known."""

    def times(self, factor: float) -> Estimate:
        """The estimate multiplied by a number; the weights stay."""
        if isinstance(self.value, tuple):
            return self._replace(value=tuple(part * factor for part in self.value))
        return self._replace(value=self.value * factor)


def in_chunks(gradients: SampleGradients, answer: Callable[[SampleGradients], Any]) -> Any:
    """``answer(gradients)``, over few replicas at a time where all their N x N matrices would take
    too much memory.
    """
    n, replicas = gradients.n_samples, gradients.replicas
    if not replicas or replicas[0] <= 1 or prod(replicas) * n * n <= TILE_BUDGET:
        return answer(gradients)
    step = max(1, TILE_BUDGET // (prod(replicas[1:]) * n * n))
    parts = [
        answer(gradients.replica((slice(start, start + step),)))
        for start in range(0, replicas[0], step)
    ]
    if isinstance(parts[0], Estimate):
        return together(gradients.xp.concatenate, parts)
    return gradients.xp.concatenate(parts)


def together(join: Callable[[list[Any]], Any], parts: list[Estimate]) -> Estimate:
    """The estimates of several replicas as one, by a function that joins a list of arrays."""
    values, weights = [one.value for one in parts], [one.weights for one in parts]
    if isinstance(values[0], tuple):
        value = tuple(join(list(column)) for column in zip(*values, strict=True))
    else:
        value = join(values)
    return Estimate(value, None if weights[0] is None else join(weights))
