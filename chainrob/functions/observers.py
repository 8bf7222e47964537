"""Who listens to a robust link's backward pass: observers of the sample gradients.

The registry lives beside the links and not in them: a copy, a pickle or a snapshot of a model knows
nothing of who watched it, and a model that nobody watches pays for the question whether a
dictionary is empty.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

import chainer
from chainrob.kernels import to_host
from chainrob.sample_gradients import SampleGradients
from chainrob.sample_gradients.base import Array


@dataclass(frozen=True, eq=False)
class Observation:
    """What one estimate was made from: handed to an observer while the backward pass runs.

    The operators refer to the arrays of the pass, so an observer that keeps an observation keeps
    them alive: take the weights, and let the observation go.

    Attributes:
        link: the robust link; with ``scope='model'`` the model whose gradient was estimated.
        name: the link's name in the observed model, as ``namedlinks`` gives it (``'/l1'``; ``'/'``
            is the model itself).
        robustifier: what made the estimate.
        gradients: the sample gradients of every parameter that was estimated, by its name
            (``'W'``; with ``scope='model'`` the path in the model, ``'/l1/W'``).
        scope: ``'unit'``, ``'parameter'``, ``'layer'`` or ``'model'``.
        loss_reduction: ``'mean'`` or ``'sum'``.
        weights: the samples' weights, where the rows are; None where nobody knows them.
    """

    link: chainer.Link
    name: str
    robustifier: Callable[[Any], Any]
    gradients: Mapping[str, SampleGradients]
    scope: str
    loss_reduction: str
    weights: Array | None

    @property
    def n_samples(self) -> int:
        return next(iter(self.gradients.values())).n_samples

    def sample_weights(self) -> np.ndarray | None:
        """The effective weight of each sample in the estimate: (N,), or (*R, N) with replicas.

        1 is what a plain mean gives; 0 is a sample that had no say (see
        ``Robustifier.sample_weights``). Where a weighting robustifier gives a sample one weight a
        unit or a parameter, they are averaged over the coordinates. They were found in the pass
        that made the estimate.

        Returns:
            A float64 NumPy array; None for a plain callable, whose weights nobody knows.
        """
        if self.weights is None:
            return None
        return to_host(self.weights).astype(np.float64, copy=False)


Observer = Callable[[Observation], None]

_observers: weakref.WeakKeyDictionary[chainer.Link, list[tuple[Observer, str]]] = (
    weakref.WeakKeyDictionary()
)


def add_observer(link: chainer.Link, observer: Observer, name: str = "/") -> None:
    """Call ``observer`` with an ``Observation`` at each of the link's estimates from now on."""
    _observers.setdefault(link, []).append((observer, name))


def remove_observer(link: chainer.Link, observer: Observer) -> None:
    """Undo one ``add_observer``; nothing happens where there is none."""
    entries = _observers.get(link, [])
    for number, (found, _) in enumerate(entries):
        # Bound methods are made anew at each access: equal, but seldom identical.
        if found == observer:
            del entries[number]
            break
    if not entries:
        _observers.pop(link, None)


def is_observed(*links: chainer.Link | None) -> bool:
    """Whether anyone observes one of the links; what it costs not to be watched."""
    return bool(_observers) and any(link in _observers for link in links if link is not None)


def notify(
    links: Iterable[chainer.Link],
    source: chainer.Link,
    robustifier: Callable[[Any], Any],
    gradients: Mapping[str, SampleGradients],
    scope: str,
    loss_reduction: str,
    weights: Array | None,
) -> None:
    """Tell everyone who observes one of ``links`` of an estimate of ``source``, each once."""
    if not gradients:
        return
    told: list[Observer] = []
    for link in links:
        for observer, name in tuple(_observers.get(link, ())):
            if observer not in told:
                told.append(observer)
                name = name if link is source else "/"
                observer(
                    Observation(
                        source, name, robustifier, gradients, scope, loss_reduction, weights
                    )
                )
