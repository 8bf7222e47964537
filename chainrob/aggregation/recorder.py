"""Sample gradients that wait for the end of the backward pass: what ``scope='model'`` needs.

A parameter may be used in several places or time steps of one graph, and a row of the whole model
needs all parameters. So the layers leave their operators here during the pass, and the front
collects them when it is over (in Chainer the hook ``chainrob.training.RobustGradient``). What is
recorded lives as long as the gradient that it stands for: the front says when that is cleared.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from chainrob.sample_gradients import SampleGradients


@dataclass(eq=False)
class Recording:
    """What one parameter has collected."""

    target: Any
    """What the layer was run with: the parameter itself, or what a hook made of it in the graph."""
    name: str
    """The parameter's name in its layer."""
    owner: Any
    """The layer."""
    loss_reduction: str
    operators: list[SampleGradients] = field(default_factory=list)
    """One a use of the parameter."""


class Recorder:
    """Collects the operators of the layers that it listens to."""

    def __init__(self) -> None:
        self.recordings: dict[int, Recording] = {}
        self.collected = False
        """Whether anyone ever collected, or was warned that nobody does."""
        _all.add(self)

    def listen(self, owners: Iterable[Any]) -> None:
        """Be the recorder of these layers from now on, in place of any other."""
        for owner in owners:
            _recorders[owner] = weakref.ref(self)

    @contextmanager
    def instead(self, owners: Iterable[Any]) -> Iterator[None]:
        """Inside, be the recorder of these layers; after it they have the one that they had."""
        before = {owner: _recorders.pop(owner, None) for owner in owners}
        self.listen(before)
        try:
            yield
        finally:
            for owner, recorder in before.items():
                _recorders.pop(owner, None)
                if recorder is not None:
                    _recorders[owner] = recorder

    def collect(self) -> list[Recording]:
        """All recordings, which are forgotten here."""
        self.collected = True
        recordings, self.recordings = list(self.recordings.values()), {}
        return recordings

    def forget(self, target: Any) -> None:
        """Drop what is recorded for a parameter: its gradient was cleared."""
        stale = [
            key
            for key, one in self.recordings.items()
            if one.target is target or getattr(one.owner, one.name, None) is target
        ]
        for key in stale:
            del self.recordings[key]
        if stale and not self.collected:
            self.collected = True
            warnings.warn(
                "gradients that were recorded for RobustGradient were cleared, and none was ever "
                "estimated: is the hook added to the optimizer, optimizer.add_hook(hook)?",
                stacklevel=5,
            )


_all: weakref.WeakSet[Recorder] = weakref.WeakSet()
_recorders: weakref.WeakKeyDictionary[Any, weakref.ref[Recorder]] = weakref.WeakKeyDictionary()


def recorder_of(owner: Any) -> Recorder | None:
    """The recorder that listens to the layer."""
    reference = _recorders.get(owner)
    return None if reference is None else reference()


def forget(target: Any) -> None:
    """Drop what anyone recorded for a parameter: its gradient was cleared."""
    for recorder in _all:
        if recorder.recordings:
            recorder.forget(target)


def record(
    owner: Any,
    gradients: Mapping[str, SampleGradients],
    loss_reduction: str,
    targets: Mapping[str, Any],
) -> None:
    """Leave the operators of a layer's parameters, by name, with its recorder.

    Args:
        owner: the layer.
        gradients: one operator a parameter.
        loss_reduction: ``'mean'`` or ``'sum'``.
        targets: what each parameter is in the graph; uses of the same one add up.

    Raises:
        RuntimeError: nobody would ever collect them.
        ValueError: uses of one parameter with different loss reductions.
    """
    recorder = None if owner is None else recorder_of(owner)
    if recorder is None:
        raise RuntimeError(
            f"{type(owner).__name__} has scope='model', so its gradient is estimated after the "
            f"whole backward pass, but nobody waits for it: call "
            f"optimizer.add_hook(chainrob.training.RobustGradient(model)) first (a copy of a model "
            f"needs its own)"
        )
    for name, operator in gradients.items():
        target = targets[name]
        found = recorder.recordings.get(id(target))
        if found is None:
            found = Recording(target, name, owner, loss_reduction)
            recorder.recordings[id(target)] = found
        if found.loss_reduction != loss_reduction:
            raise ValueError(
                f"a parameter that is used several times must have one loss_reduction, found "
                f"{found.loss_reduction!r} and {loss_reduction!r} (parameter {name})"
            )
        found.operators.append(operator)
