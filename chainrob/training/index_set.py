"""Algorithm 1's index set I(t): which weights are estimated robustly, down to single ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

import chainer
from chainrob.kernels import array_module
from chainrob.sample_gradients import Dense, SampleGradients
from chainrob.sample_gradients.operator_base import MATERIALIZE_LIMIT, Array

__all__ = ["IndexSet", "Selection", "masked_rows", "outside", "scattered"]

Selection = str | Iterable[str] | Mapping[str, Any] | Callable[[str, chainer.Parameter], Any] | None


class IndexSet:
    """A selection of a model's weights, checked.

    Args:
        value: None for all weights; names of parameters, or of links (all parameters below them); a
            mapping; or a predicate ``(name, parameter)`` that returns a boolean or a mask. A
            mapping takes names to True, to a mask (booleans of the parameter's shape), or to a
            list of indices. An index is a tuple with one integer per axis, or an integer for a
            vector.
        named: the model's names and parameters. A shared parameter is found under each of its
            names.

    Raises:
        KeyError: a name that no parameter has.
        TypeError: ``value`` is none of these.

    Example:
        >>> import numpy as np, chainer
        >>> weights = chainer.Parameter(np.zeros((2, 3)))
        >>> IndexSet({"/W": [(0, 1), (1, -1)]}, [("/W", weights)]).of("/W", weights)
        array([[False,  True, False],
               [False, False,  True]])
    """

    def __init__(self, value: Selection, named: Iterable[tuple[str, chainer.Parameter]]) -> None:
        self._ask: Callable[[str, chainer.Parameter], Any] | None = None
        self._chosen: dict[str, Any] = {}
        self._names: dict[str, list[str]] = {}
        if value is None:
            self._chosen = {"/": True}
        elif callable(value):
            self._ask = value
        else:
            self._chosen = _as_mapping(value)
            pairs = list(named)
            for entry in self._chosen:
                if not any(_is_at_or_below(name, entry) for name, _ in pairs):
                    raise KeyError(
                        f"RobustGradient: parameters must be names of parameters, found {entry!r}; "
                        f"there are {sorted(name for name, _ in pairs)}"
                    )
            names: dict[int, list[str]] = {}
            for name, parameter in pairs:
                names.setdefault(id(parameter), []).append(name)
            self._names = {name: names[id(parameter)] for name, parameter in pairs}

    def of(self, name: str, parameter: chainer.Parameter) -> bool | Array:
        """True for all weights of a parameter, False for none, else a mask of its shape.

        Raises:
            ValueError: a mask or an index that does not fit the parameter.
        """
        if self._ask is not None:
            return _mask(name, parameter, self._ask(name, parameter))
        found: bool | Array = False
        names = self._names.get(name, [name])
        for entry, what in self._chosen.items():
            if not any(_is_at_or_below(one, entry) for one in names):
                continue
            single = what is not None and not isinstance(what, (bool, np.bool_))
            if single and f"/{entry.strip('/')}" not in names:
                raise ValueError(
                    f"RobustGradient: single weights must be given for one parameter, found "
                    f"{entry!r}, which is a link; its parameter {name!r} could be meant"
                )
            mask = True if what is None else _mask(name, parameter, what)
            found = mask if found is False else _either(found, mask)
        return found


def _as_mapping(value: Any) -> dict[str, Any]:
    if isinstance(value, str):
        return {value: True}
    if isinstance(value, Mapping):
        entries = dict(value)
        wrong = [entry for entry in entries if not isinstance(entry, str)]
    else:
        given = list(value) if isinstance(value, Iterable) else [value]
        wrong = [entry for entry in given if not isinstance(entry, str)]
        entries = {entry: True for entry in given if isinstance(entry, str)}
    if wrong:
        raise TypeError(
            f"RobustGradient: parameters must be names of parameters, found {wrong[0]!r}; single "
            "weights go with their name: {'/0/W': [(0, 1)]}"
        )
    return entries


def _mask(name: str, parameter: chainer.Parameter, what: Any) -> bool | Array:
    """One entry as True, False or a mask on the parameter's device."""
    if isinstance(what, (bool, np.bool_)):
        return bool(what)
    xp = array_module(parameter.array)
    array = what if hasattr(what, "dtype") else None
    if array is not None and array.dtype == bool:
        if array.shape != parameter.shape:
            raise ValueError(
                f"RobustGradient: the mask of {name!r} must have the shape {parameter.shape}, "
                f"found {array.shape}"
            )
        mask = xp.asarray(array)
    else:
        chosen = np.zeros(parameter.shape, bool)
        for index in _indices(name, what):
            if len(index) != chosen.ndim:
                raise ValueError(
                    f"RobustGradient: an index into {name!r} must have {chosen.ndim} integers, "
                    f"because its shape is {parameter.shape}, found {index}"
                )
            try:
                chosen[index] = True
            except IndexError:
                raise ValueError(
                    f"RobustGradient: {name!r} of shape {parameter.shape} has no weight {index}"
                ) from None
        mask = xp.asarray(chosen)
    if bool(mask.all()):
        return True
    return mask if bool(mask.any()) else False


def _indices(name: str, what: Any) -> list[tuple[int, ...]]:
    wrong = TypeError(
        f"RobustGradient: the weights of {name!r} must be True, a mask of booleans or a list of "
        f"indices such as [(0, 1)], found {what!r}"
    )
    if isinstance(what, str) or not isinstance(what, Iterable):
        raise wrong
    indices = []
    for one in what:
        index = tuple(one) if isinstance(one, Iterable) and not isinstance(one, str) else (one,)
        if not all(isinstance(i, (int, np.integer)) and not isinstance(i, bool) for i in index):
            raise wrong
        indices.append(tuple(int(i) for i in index))
    return indices


def _either(one: bool | Array, other: bool | Array) -> bool | Array:
    if one is True or other is True:
        return True
    return other if one is False else one if other is False else one | other


def masked_rows(name: str, rows: SampleGradients, mask: Array) -> Dense:
    """The rows at the chosen weights only, (N, number of weights), joined tile by tile.

    Raises:
        ValueError: there are too many of them, or they belong to replicas.
    """
    if rows.replicas:
        raise ValueError(
            f"RobustGradient: single weights of {name!r} cannot be chosen, because it has replicas"
        )
    count = int(mask.sum())
    if count * rows.n_samples > MATERIALIZE_LIMIT:
        raise ValueError(
            f"RobustGradient: at most {MATERIALIZE_LIMIT:,} numbers of single weights are formed, "
            f"found {count} weights of {name!r} with {rows.n_samples} samples; choose the whole "
            "parameter"
        )
    xp = rows.xp
    position = xp.cumsum(mask.ravel()).reshape(mask.shape) - 1
    chosen = xp.empty((rows.n_samples, count), rows.dtype)
    for index, values in rows.tiles():
        here = mask[index].ravel()
        chosen[:, position[index].ravel()[here]] = values[:, here]
    return Dense(chosen)


def scattered(values: Array, mask: bool | Array) -> Array:
    """Values of the chosen weights at their places, 0 elsewhere."""
    if isinstance(mask, bool):
        return values
    out = array_module(values).zeros(mask.shape, values.dtype)
    out[mask] = values
    return out


def outside(gradient: Array, mask: bool | Array) -> Array:
    """A gradient with 0 at the chosen weights."""
    if isinstance(mask, bool):
        return gradient
    return array_module(gradient).where(mask, gradient.dtype.type(0), gradient)


def _is_at_or_below(name: str, entry: str) -> bool:
    path = f"/{entry.strip('/')}"
    return name == path or name.startswith(f"{path.rstrip('/')}/")
