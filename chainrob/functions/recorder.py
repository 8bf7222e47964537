"""Sample gradients that wait for the end of the backward pass: what ``scope='model'`` needs.

A parameter may be used in several places or time steps of one graph, and a row of the whole model
needs all parameters. So the layers leave their operators here during the pass, and
``chainrob.training.RobustGradient`` collects them when it is over. What is recorded lives as long
as the gradient that it stands for: until the update, or ``cleargrads``.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import chainer
from chainrob.sample_gradients import SampleGradients


@dataclass(eq=False)
class Recording:
    """What one parameter has collected."""

    parameter: chainer.Parameter
    loss_reduction: str
    link: chainer.Link
    contributions: list[tuple[SampleGradients, Any]] = field(default_factory=list)
    """Operators, each with a weak reference to the function node that it came from."""

    @property
    def operators(self) -> list[SampleGradients]:
        return [operator for operator, _ in self.contributions]

    def drop_stale(self) -> None:
        """Forget what came from graphs that are gone, where the gradient was cleared since.

        ``cleargrads`` of the link forgets by itself; this is for ``parameter.cleargrad()``.
        """
        if self.parameter.grad is None:
            self.contributions = [
                (operator, origin)
                for operator, origin in self.contributions
                if origin() is not None
            ]


class Recorder:
    """Collects the operators of the links that it listens to."""

    def __init__(self) -> None:
        self.recordings: dict[int, Recording] = {}
        self.collected = False
        """Whether anyone ever collected, or was warned that nobody does."""

    def listen(self, links: Iterable[chainer.Link]) -> None:
        """Be the recorder of these links from now on, in place of any other."""
        for link in links:
            _recorders[link] = weakref.ref(self)

    def collect(self) -> list[Recording]:
        """All recordings, which are forgotten here."""
        self.collected = True
        recordings, self.recordings = list(self.recordings.values()), {}
        return [one for one in recordings if one.contributions]


_recorders: weakref.WeakKeyDictionary[chainer.Link, weakref.ref[Recorder]] = (
    weakref.WeakKeyDictionary()
)


def recorder_of(link: chainer.Link) -> Recorder | None:
    """The recorder that listens to the link."""
    reference = _recorders.get(link)
    return None if reference is None else reference()


def record(
    link: chainer.Link | None,
    gradients: Mapping[str, SampleGradients],
    loss_reduction: str,
    origin: Any,
) -> None:
    """Leave the operators of a link's parameters, by name, with its recorder.

    Raises:
        RuntimeError: nobody would ever collect them.
    """
    recorder = None if link is None else recorder_of(link)
    if recorder is None:
        raise RuntimeError(
            f"{type(link).__name__} has scope='model', so its gradient is estimated after the whole "
            f"backward pass, but nobody waits for it: call "
            f"optimizer.add_hook(chainrob.training.RobustGradient(model)) first (a copy of a model "
            f"needs its own)"
        )
    for name, operator in gradients.items():
        parameter = getattr(link, name)
        key = id(parameter)
        found = recorder.recordings.get(key)
        if found is None:
            found = recorder.recordings[key] = Recording(parameter, loss_reduction, link)
        found.drop_stale()
        if found.contributions and found.loss_reduction != loss_reduction:
            raise ValueError(
                f"a parameter that is used several times must have one loss_reduction, found "
                f"{found.loss_reduction!r} and {loss_reduction!r} (parameter {name})"
            )
        found.loss_reduction = loss_reduction
        found.contributions.append((operator, weakref.ref(origin)))


def forget(link: chainer.Link) -> None:
    """Drop what is recorded for the link's own parameters: their gradients were cleared."""
    recorder = recorder_of(link)
    if recorder is not None and recorder.recordings:
        for parameter in link.params(include_uninit=True):
            found = recorder.recordings.pop(id(parameter), None)
            if found is not None and found.contributions and not recorder.collected:
                recorder.collected = True
                warnings.warn(
                    "gradients that were recorded for RobustGradient were cleared, and none was ever "
                    "estimated: is the hook added to the optimizer, optimizer.add_hook(hook)?",
                    stacklevel=3,
                )
