"""T models of one shape, trained in one graph."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import chainer
from chainrob._renamed import renamed_attribute
from chainrob.kernels import array_module
from chainrob.links.linear import Linear
from chainrob.robustifiers.per_replica import PerReplica


class Ensemble(chainer.Chain):
    """T models of one shape side by side: a parameter of shape (...) gets the shape (T, ...).

    A small network leaves most of a processor idle, and nearly all of a GPU. An ensemble trains T
    such networks together, for example with T data sets, seeds or robustifiers. Replica t gets the
    same numbers as model t would get alone. The model's own ``forward`` runs unchanged on inputs
    (T, N, ...). It may use ``chainrob.links.Linear`` and functions that work on any leading axes,
    such as ReLU, dropout and sums over the last axes.

    Args:
        models: T models of the same class and shapes. All parameters must belong to
            ``chainrob.links.Linear`` links. The models are copied. If their robustifiers differ,
            each replica keeps its own.

    Raises:
        ValueError: there are no models, the models differ in class or shapes, a parameter is not
            initialized, or a link has no replica axis.

    Example:
        >>> import numpy as np, chainrob
        >>> import chainer
        >>> models = [chainrob.links.MLP((2, 5, 3)) for _ in range(4)]
        >>> ensemble = chainrob.links.Ensemble(models)
        >>> x = np.ones((4, 7, 2), np.float32)
        >>> y = ensemble(x)
        >>> y.shape
        (4, 7, 3)
        >>> bool(np.allclose(y.array[2], models[2](x[2]).array))
        True
        >>> t = np.zeros((4, 7), np.int32)
        >>> loss = ensemble.mean_loss(chainer.functions.softmax_cross_entropy, y, t)
        >>> [type(model).__name__ for model in ensemble.members()]
        ['MLP', 'MLP', 'MLP', 'MLP']
    """

    def __init__(self, models: Sequence[chainer.Link]) -> None:
        models = list(models)
        _check_alike(models)
        super().__init__()
        self.n_replicas = len(models)
        with self.init_scope():
            self.model = copy.deepcopy(models[0])
        members = [dict(model.namedparams()) for model in models]
        for name, parameter in self.model.namedparams():
            xp = array_module(parameter.array)
            parameter.array = xp.stack([member[name].array for member in members])
            parameter.cleargrad()
        columns = zip(*(list(model.links()) for model in models), strict=True)
        for link, originals in zip(self.model.links(), columns, strict=True):
            if isinstance(link, Linear):
                link.robustifier = _together([original.robustifier for original in originals])

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The model's own forward on inputs with a leading replica axis."""
        return self.model(*args, **kwargs)

    def mean_loss(
        self, loss_function: Callable[[Any, Any], chainer.Variable], y: Any, t: Any
    ) -> chainer.Variable:
        """The sum of the replicas' mean losses. Each replica gets the gradient of its own loss.

        Args:
            loss_function: a loss (N, ...), (N, ...) -> scalar that is the mean over its first axis.
            y: predictions (T, N, ...).
            t: targets (T, N, ...), or (N, ...) shared by all replicas.
        """
        replicas, n_samples = y.shape[:2]
        if t.shape[:2] != (replicas, n_samples):
            t = array_module(y.array if hasattr(y, "array") else y).broadcast_to(
                t, (replicas, *t.shape)
            )
        flat_y = chainer.functions.reshape(y, (replicas * n_samples, *y.shape[2:]))
        flat_t = t.reshape((replicas * n_samples, *t.shape[2:]))
        return loss_function(flat_y, flat_t) * replicas

    def member(self, index: int) -> chainer.Link:
        """Model ``index`` as an ordinary model, with copies of its parameters."""
        if not -self.n_replicas <= index < self.n_replicas:
            raise IndexError(
                f"Ensemble: index must lie below the {self.n_replicas} replicas, found {index}"
            )
        model = copy.deepcopy(self.model)
        for parameter in model.params():
            parameter.array = parameter.array[index].copy()
            parameter.cleargrad()
        for link in model.links():
            if isinstance(link, Linear) and isinstance(link.robustifier, PerReplica):
                link.robustifier = link.robustifier.robustifiers[index]
        return model

    def members(self) -> list[chainer.Link]:
        """All models, in order. Each is an ordinary model and is serialized as one."""
        return [self.member(index) for index in range(self.n_replicas)]

    split = renamed_attribute("split", "members")


def _together(robustifiers: list[Any]) -> Any:
    """One robustifier if all are equal, else one per replica."""
    if all(one == robustifiers[0] for one in robustifiers):
        return robustifiers[0]
    return PerReplica(tuple(robustifiers))


def _check_alike(models: list[chainer.Link]) -> None:
    if not models:
        raise ValueError("Ensemble: models must hold at least one model, found none")
    first = models[0]
    missing = sorted(
        {name for model in models for name, one in model.namedparams() if one.array is None}
    )
    if missing:
        raise ValueError(f"Ensemble: parameters must be initialized, found none in {missing}")
    shapes = {name: parameter.shape for name, parameter in first.namedparams()}
    for number, model in enumerate(models):
        if type(model) is not type(first):
            raise ValueError(
                f"Ensemble: all models must be of one class, found {type(first).__name__} and "
                f"{type(model).__name__} (model {number})"
            )
        found = {name: parameter.shape for name, parameter in model.namedparams()}
        if found != shapes:
            raise ValueError(
                f"Ensemble: all models must have the same parameters, found {shapes} and {found} "
                f"(model {number})"
            )
    foreign = sorted(
        f"{name} ({type(link).__name__})"
        for name, link in first.namedlinks()
        if not isinstance(link, Linear)
        and any(True for _ in link.params(include_uninit=True))
        and not any(True for _ in link.children())
    )
    if foreign:
        raise ValueError(
            f"Ensemble: every parameter must belong to a chainrob.links.Linear, found {foreign}"
        )
