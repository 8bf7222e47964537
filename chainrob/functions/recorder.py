"""Sample gradients that wait for the end of the backward pass: what ``scope='model'`` needs.

A parameter may be used in several places or time steps of one graph, and a row of the whole model
needs all parameters. So the layers leave their operators here during the pass, and
``chainrob.training.RobustGradient`` collects them when it is over. What is recorded lives as long
as the gradient that it stands for: until the update, or ``cleargrads``.
"""

from __future__ import annotations

import functools
import warnings
import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import chainer
from chainrob.sample_gradients import SampleGradients


@dataclass(eq=False)
class Recording:
    """What one parameter has collected."""

    parameter: chainer.Parameter
    loss_reduction: str
    link: chainer.Link
    operators: list[SampleGradients] = field(default_factory=list)
    """One a use of the parameter."""


class Recorder:
    """Collects the operators of the links that it listens to."""

    def __init__(self) -> None:
        self.recordings: dict[int, Recording] = {}
        self.collected = False
        """Whether anyone ever collected, or was warned that nobody does."""
        _all.add(self)
        _watch_clearing()

    def listen(self, links: Iterable[chainer.Link]) -> None:
        """Be the recorder of these links from now on, in place of any other."""
        for link in links:
            _recorders[link] = weakref.ref(self)

    def collect(self) -> list[Recording]:
        """All recordings, which are forgotten here."""
        self.collected = True
        recordings, self.recordings = list(self.recordings.values()), {}
        return recordings

    def forget(self, parameter: chainer.Parameter) -> None:
        """Drop what is recorded for a parameter: its gradient was cleared."""
        if self.recordings.pop(id(parameter), None) is not None and not self.collected:
            self.collected = True
            warnings.warn(
                "gradients that were recorded for RobustGradient were cleared, and none was ever "
                "estimated: is the hook added to the optimizer, optimizer.add_hook(hook)?",
                stacklevel=4,
            )


_all: weakref.WeakSet[Recorder] = weakref.WeakSet()
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
) -> None:
    """Leave the operators of a link's parameters, by name, with its recorder.

    Raises:
        RuntimeError: nobody would ever collect them.
    """
    recorder = None if link is None else recorder_of(link)
    if recorder is None:
        raise RuntimeError(
            f"{type(link).__name__} has scope='model', so its gradient is estimated after the "
            f"whole backward pass, but nobody waits for it: call "
            f"optimizer.add_hook(chainrob.training.RobustGradient(model)) first (a copy of a model "
            f"needs its own)"
        )
    for name, operator in gradients.items():
        parameter = getattr(link, name)
        key = id(parameter)
        found = recorder.recordings.get(key)
        if found is None:
            found = recorder.recordings[key] = Recording(parameter, loss_reduction, link)
        if found.loss_reduction != loss_reduction:
            raise ValueError(
                f"a parameter that is used several times must have one loss_reduction, found "
                f"{found.loss_reduction!r} and {loss_reduction!r} (parameter {name})"
            )
        found.operators.append(operator)


def _watch_clearing() -> None:
    """Let clearing a parameter's gradient drop what is recorded for it.

    A record is a part of the gradient and must live exactly as long, or an iteration that was never
    updated would leak into the next one. ``Link.cleargrads`` of a whole model calls no method of
    the links below it, so the one place that sees every clearing is ``Parameter.cleargrad``. It is
    wrapped when the first recorder is made; whoever uses none has Chainer as it is.
    """
    for name in ("cleargrad", "zerograd"):
        method = getattr(chainer.Parameter, name)
        if not hasattr(method, "forgets_records"):
            setattr(chainer.Parameter, name, _forgetting(method))


def _forgetting(method: Callable[[chainer.Parameter], None]) -> Callable[[chainer.Parameter], None]:
    @functools.wraps(method)
    def clear(parameter: chainer.Parameter) -> None:
        method(parameter)
        for recorder in _all:
            if recorder.recordings:
                recorder.forget(parameter)

    clear.forgets_records = True  # type: ignore[attr-defined]
    return clear
