"""Who listens to a robust layer's backward pass: observers of the sample gradients.

The registry lives beside the layers and not in them: a copy, a pickle or a snapshot of a model
knows nothing of who watched it, and a model that nobody watches pays for the question whether a
dictionary is empty. A layer is any object that can be referred to weakly: a Chainer link, a PyTorch
module.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from chainrob.aggregation.layer_options import Reduction, Scope
from chainrob.aggregation.scopes import estimate_watched
from chainrob.kernels import to_host
from chainrob.robustifiers.suspicion import suspicion
from chainrob.sample_gradients import Joined, SampleGradients
from chainrob.sample_gradients.operator_base import Array

RankBy = Literal["weight", "suspicion"]


def check_rank_by(rank_by: str) -> None:
    """Raise unless the samples can be ranked so."""
    if rank_by not in ("weight", "suspicion"):
        raise ValueError(f"rank_by must be 'weight' or 'suspicion', found {rank_by!r}")


@dataclass(frozen=True, eq=False)
class Observation:
    """What one estimate was made from: handed to an observer while the backward pass runs.

    The operators refer to the arrays of the pass, so an observer that keeps an observation keeps
    them alive: take the weights, and let the observation go.

    Attributes:
        owner: the robust layer (Chainer's link, PyTorch's module); with ``scope='model'`` the model
            whose gradient was estimated. ``link`` is the same.
        name: its name in the observed model, as the front names it (``'/l1'`` as ``namedlinks``
            gives it; ``'/'`` is the model itself).
        robustifier: what made the estimate.
        gradients: the sample gradients of every parameter that was estimated, by its name
            (``'W'``; with ``scope='model'`` the path in the model, ``'/l1/W'``).
        scope: ``'unit'``, ``'parameter'``, ``'layer'`` or ``'model'``.
        loss_reduction: ``'mean'`` or ``'sum'``.
        weights: the samples' weights, where the rows are; None where nobody knows them.
    """

    owner: Any
    name: str
    robustifier: Callable[[Any], Any]
    gradients: Mapping[str, SampleGradients]
    scope: str
    loss_reduction: str
    weights: Array | None

    @property
    def link(self) -> Any:
        """``owner``, by the name that it has in Chainer."""
        return self.owner

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

    def measure(self, rank_by: RankBy) -> np.ndarray | None:
        """What ranks the samples, low for a suspect one: (N,), or (*R, N), float64.

        Args:
            rank_by: ``'weight'`` for ``sample_weights()``, or ``'suspicion'`` for one minus
                ``suspicion()``.
        """
        return self.sample_weights() if rank_by == "weight" else 1.0 - self.suspicion()

    def suspicion(self) -> np.ndarray:
        """How much each sample looks like a wrong label: (N,), or (*R, N), from 0 to 1, float64.

        It is ``chainrob.robustifiers.suspicion`` of the layer's gradients. It needs no robust
        estimate, so it works beside ``Mean()`` too. It costs one N x N Gram matrix.
        """
        operators = list(self.gradients.values())
        whole = operators[0] if len(operators) == 1 else Joined(operators)
        return to_host(suspicion(whole)).astype(np.float64, copy=False)


Observer = Callable[[Observation], None]

_observers: weakref.WeakKeyDictionary[Any, list[tuple[Observer, str]]] = weakref.WeakKeyDictionary()


def add_observer(owner: Any, observer: Observer, name: str = "/") -> None:
    """Call ``observer`` with an ``Observation`` at each of the layer's estimates from now on."""
    _observers.setdefault(owner, []).append((observer, name))


def remove_observer(owner: Any, observer: Observer) -> None:
    """Undo one ``add_observer``; nothing happens where there is none."""
    entries = _observers.get(owner, [])
    for number, (found, _) in enumerate(entries):
        # Bound methods are made anew at each access: equal, but seldom identical.
        if found == observer:
            del entries[number]
            break
    if not entries:
        _observers.pop(owner, None)


def is_observed(owner: Any) -> bool:
    """Whether anyone observes the layer or model."""
    return owner is not None and owner in _observers


def watched_estimate(
    robustifier: Callable[[Any], Any],
    gradients: Mapping[str, SampleGradients],
    scope: Scope,
    loss_reduction: Reduction,
    source: Any,
    owners: Sequence[Any],
) -> list[Array]:
    """``estimate`` of named gradients, and an ``Observation`` to whoever watches one of ``owners``.

    Every estimate of every front is asked for here. Each observer is told once.

    Args:
        robustifier, scope, loss_reduction: as in ``Aggregation``.
        gradients: one operator a parameter, by the names that observers see.
        source: whose gradient it is: the layer, or the model.
        owners: whose observers are told; none where nobody is to be told.
    """
    watched = list(filter(is_observed, owners)) if gradients else []
    rows = list(gradients.values())
    estimates, weights = estimate_watched(robustifier, rows, scope, watch=bool(watched))
    told: list[Observer] = []
    for owner in watched:
        for observer, name in tuple(_observers.get(owner, ())):
            if observer not in told:
                told.append(observer)
                name = name if owner is source else "/"
                observer(
                    Observation(
                        source, name, robustifier, gradients, scope, loss_reduction, weights
                    )
                )
    return estimates
