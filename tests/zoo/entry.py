"""What a model of the zoo says of itself, and how it is trained."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

import chainrob
import chainer
from chainrob.training import RobustGradient

Batch = tuple[Any, ...]
Data = tuple[Any, ...]
"""Arrays, or lists, with one entry a sample each."""


@dataclass(frozen=True)
class Entry:
    """A model, made-up data for it, and how it becomes robust.

    Args:
        name: what it is.
        make: makes the model; ``model.loss(*batch)`` is the mean loss of the samples, or yields
            (part of the model, its loss) where parts have losses of their own.
        data: a generator and N to N samples.
        scope: what makes up one row.
        robustify: further arguments of ``chainrob.robustify``.
        spoil: makes bad samples of good ones, where there is a test of learning under
            contamination.
        error: the model's error on clean samples.
        rate, epochs: the learning rate there, and how often the batches are seen.
        batch: samples in a batch.
    """

    name: str
    make: Callable[[], chainer.Chain]
    data: Callable[[np.random.Generator, int], Data]
    scope: Any = "layer"
    on_unsupported: Any = "raise"
    spoil: Callable[..., Data] | None = None
    error: Callable[..., float] | None = None
    rate: float = 0.1
    epochs: int = 10
    batch: int = 20

    def robust(self, robustifier: Any) -> tuple[chainer.Chain, Trained]:
        """The model made robust: two lines."""
        model = self.make()
        chainrob.robustify(model, robustifier, scope=self.scope, on_unsupported=self.on_unsupported)
        return model, Trained(model, self, hook=self.scope == "model")

    def plain(self) -> tuple[chainer.Chain, Trained]:
        """The model as it was."""
        model = self.make()
        return model, Trained(model, self, hook=False)


class Trained:
    """A model with an optimizer for each part that has a loss of its own."""

    def __init__(
        self, model: chainer.Chain, entry: Entry, *, hook: bool, optimizer: Any = None
    ) -> None:
        self.model = model
        parts = [getattr(model, name) for name in getattr(model, "parts", ())] or [model]
        make = optimizer or (lambda: chainer.optimizers.Adam(0.01))
        self.optimizers = {id(part): make().setup(part) for part in parts}
        if hook:
            for part, one in zip(parts, self.optimizers.values(), strict=True):
                one.add_hook(RobustGradient(part))

    def step(self, batch: Batch) -> list[float]:
        """One update of each part: the losses before it."""
        losses = []
        for part, loss in self._losses(batch):
            part.cleargrads()
            loss.backward()
            self.optimizers[id(part)].update()
            losses.append(float(loss.array))
        return losses

    def _losses(self, batch: Batch) -> Iterator[tuple[Any, chainer.Variable]]:
        if hasattr(self.model, "parts"):
            yield from self.model.losses(*batch)
        else:
            yield self.model, self.model.loss(*batch)

    def save(self, path: Any) -> None:
        chainer.serializers.save_npz(f"{path}-model.npz", self.model)
        for number, one in enumerate(self.optimizers.values()):
            chainer.serializers.save_npz(f"{path}-{number}.npz", one)

    def load(self, path: Any) -> None:
        chainer.serializers.load_npz(f"{path}-model.npz", self.model)
        for number, one in enumerate(self.optimizers.values()):
            chainer.serializers.load_npz(f"{path}-{number}.npz", one)


def batches(data: Data, size: int) -> list[Batch]:
    """Consecutive batches of equal size."""
    count = len(data[0]) // size
    return [tuple(one[k * size : (k + 1) * size] for one in data) for k in range(count)]
