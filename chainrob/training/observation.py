"""Watch what the robust links of a model do in their backward passes."""

from __future__ import annotations

from types import TracebackType

import chainer
from chainrob.aggregation.observers import Observation, Observer, add_observer, remove_observer

__all__ = ["Observation", "Watch", "observe"]


class Watch:
    """An observer on all links of a model, until ``close``; also a context manager.

    ``observe`` makes it.
    """

    def __init__(self, model: chainer.Link, observer: Observer) -> None:
        self.observer = observer
        self.links: list[chainer.Link] = []
        seen: set[int] = set()
        for name, link in model.namedlinks():
            # A link under two names is one layer, and is reported under the first.
            if id(link) not in seen:
                seen.add(id(link))
                add_observer(link, observer, name)
                self.links.append(link)

    def close(self) -> None:
        """Stop watching; a second call does nothing."""
        for link in self.links:
            remove_observer(link, self.observer)
        self.links = []

    def __enter__(self) -> Watch:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def observe(model: chainer.Link, observer: Observer) -> Watch:
    """Call ``observer`` with an ``Observation`` each time a robust layer of ``model`` is estimated.

    With the scopes ``'unit'``, ``'parameter'`` and ``'layer'`` the observer is called once per
    layer and backward pass. With ``'model'`` it is called once per update, by ``RobustGradient``,
    for the whole model. Links with ``robustifier=None`` report nothing. Watching changes no
    estimate, and no copy, pickle or snapshot of the model. The samples' weights are computed in the
    pass that makes the estimate.

    Args:
        model: a link; it and all links below are watched.
        observer: called as ``observer(observation)``, inside the backward pass. An exception in it
            ends that pass.

    Returns:
        Watch: close it to stop; or use it as ``with observe(...):``.

    Example:
        >>> import numpy as np, chainrob
        >>> import chainer
        >>> model = chainrob.links.MLP((2, 3, 1), chainrob.GeometricMedian(), initialW=1.0)
        >>> x = np.array([[0, 1], [1, 0], [1, 1], [1e4, -1e4]], np.float32)
        >>> weights = {}
        >>> def keep(observation):
        ...     weights[observation.name] = observation.sample_weights()
        >>> with chainrob.training.observe(model, keep):
        ...     chainer.functions.mean(model(x)).backward()
        >>> sorted(weights), weights['/l1'].shape
        (['/l1', '/l2'], (4,))
        >>> bool(weights['/l1'].argmin() == 3)
        True
    """
    return Watch(model, observer)
