"""A Chain as a pure function of its parameters and inputs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import chainer
import chainer.functions as F
from chainrob._renamed import renamed_attribute
from chainrob.differentiation._graph import variable_nodes
from chainrob.links.robust_link import RobustLink

__all__ = ["Functional", "functional"]

Array = Any
Variable = Any


def functional(
    model: chainer.Link, *, names: Iterable[str] | str | None = None, flat: bool = False
) -> Functional:
    r"""Turn a model into a function of its parameters.

    .. math:: f(\theta_1, \ldots, \theta_K, x) = \text{model}_\theta(x)

    A Chain reads its parameters from its attributes. A derivative in the parameters needs a
    function that takes them as arguments. This function puts its arguments into the links for one
    call, and then restores the links. All tools of ``chainrob.differentiation`` can use it; write a
    ``lambda`` around it for a loss.

    It is pure: a call changes no parameters, running averages, recurrent states or other attributes
    of the links. Dropout draws new numbers at each call, so differentiate within
    ``chainer.using_config('train', False)`` if this matters. Robust links give plain sums, because
    an estimate is not a derivative.

    Args:
        model: A Link, Chain, ChainList or Sequential whose parameters are initialized. If it infers
            sizes, call it once on a batch.
        names: Names of the parameters that become arguments, as ``model.namedparams()`` gives
            them; a name of a link means all below it. The others stay constants. Default: all.
        flat: Take one vector of all parameters instead of one argument for each.
            :func:`argmin`, :func:`spsa` and finite differences need this.

    Returns:
        A :class:`Functional`.

    Raises:
        TypeError: If the model is not a Link.
        KeyError: If no parameter has such a name.
        ValueError: If the model has no parameters, or some have no values yet.

    Example:
        >>> import chainer, chainer.functions as F, numpy as np
        >>> from chainrob.differentiation import functional, hessian, vjp
        >>> layer = chainer.links.Linear(2, 1, initialW=np.array([[1.0, 2.0]], np.float32))
        >>> f = functional(layer)
        >>> x = np.array([[3.0, 4.0]], np.float32)
        >>> f.names
        ('/W', '/b')
        >>> print(vjp(lambda *p: F.sum(f(*p, x)), f.parameters)[1][0])
        [[3. 4.]]
        >>> g = functional(layer, flat=True)
        >>> hessian(lambda theta: F.sum(g(theta, x) ** 2), g.parameters).shape
        (3, 3)
    """
    return Functional(model, names=names, flat=flat)


class Functional:
    """A model as a pure function; see :func:`functional`.

    Attributes:
        model: The model.
        names: Names of the parameters, in the order of the arguments.
        shapes: Their shapes.
        flat: Whether all parameters are one vector.
    """

    def __init__(
        self,
        model: chainer.Link,
        *,
        names: Iterable[str] | str | None = None,
        flat: bool = False,
    ) -> None:
        if not isinstance(model, chainer.Link):
            raise TypeError(f"model must be a chainer.Link, found {type(model).__name__}")
        self.model = model
        self.flat = flat
        chosen = _chosen(model, names)
        self.names = tuple(chosen)
        self._parameters = tuple(chosen.values())
        empty = [name for name, one in chosen.items() if one.array is None]
        if empty:
            raise ValueError(
                f"model must have values for all its parameters, found none for {empty}; call it "
                "once on a batch"
            )
        self.shapes = tuple(one.shape for one in self._parameters)

    @property
    def parameters(self) -> Any:
        """The present values: a tuple of copies, or one vector if ``flat``."""
        arrays = tuple(one.array.copy() for one in self._parameters)
        return self.flatten(arrays) if self.flat else arrays

    def flatten(self, arrays: Sequence[Array]) -> Array:
        """Join arrays in the shapes of the parameters to one vector."""
        xp = chainer.backend.get_array_module(*arrays)
        return xp.concatenate([xp.ravel(one) for one in arrays])

    def unflatten(self, vector: Any) -> tuple[Variable, ...]:
        """Cut a vector into the parameters, as Variables in its graph."""
        vector = chainer.as_variable(vector)
        sizes = [one.size for one in self._parameters]
        if vector.shape != (sum(sizes),):
            raise ValueError(
                f"parameters must be one vector of shape {(sum(sizes),)}, found {vector.shape}"
            )
        ends = [sum(sizes[: k + 1]) for k in range(len(sizes))]
        parts = [
            F.reshape(vector[end - size : end], shape)
            for end, size, shape in zip(ends, sizes, self.shapes, strict=True)
        ]
        dtypes = [one.dtype for one in self._parameters]
        if len(set(dtypes)) > 1:  # mixed precision: each parameter has its own dtype
            parts = [F.cast(part, dtype) for part, dtype in zip(parts, dtypes, strict=True)]
        return tuple(parts)

    join = renamed_attribute("join", "flatten")
    split = renamed_attribute("split", "unflatten")

    def assign(self, *parameters: Any) -> None:
        """Write values into the model itself: arrays or Variables, as in a call."""
        with chainer.no_backprop_mode():
            values, rest = self._arguments(parameters)
        if rest:
            raise ValueError(f"assign takes the parameters only, found {len(rest)} arguments more")
        for parameter, value in zip(self._parameters, values, strict=True):
            parameter.array = value.array.astype(parameter.dtype)

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """The model's output. The parameters come first, then the model's own arguments."""
        values, inputs = self._arguments(arguments)
        with _replaced(self.model, dict(zip(map(id, self._parameters), values, strict=True))):
            output = self.model(*inputs, **options)
        self._check_complete(output)
        return output

    def _check_complete(self, output: Any) -> None:
        """Refuse a model that keeps a parameter where a call cannot replace it, such as a list."""
        own = {id(one.node): name for name, one in zip(self.names, self._parameters, strict=True)}
        for one in output if isinstance(output, (tuple, list)) else (output,):
            if isinstance(one, chainer.Variable):
                found = sorted(own[key] for key in variable_nodes(one) if key in own)
                if found:
                    raise ValueError(
                        f"model must read its parameters from the attributes of its links, found "
                        f"that it keeps {found} elsewhere too, where a call cannot replace them"
                    )

    def _arguments(
        self, arguments: tuple[Any, ...]
    ) -> tuple[tuple[Variable, ...], tuple[Any, ...]]:
        count = 1 if self.flat else len(self.names)
        if len(arguments) < count:
            raise TypeError(
                f"the function takes {count} parameters first ({', '.join(self.names)}), "
                f"found {len(arguments)} arguments"
            )
        given, inputs = arguments[:count], arguments[count:]
        if self.flat:
            return self.unflatten(given[0]), inputs
        values = tuple(chainer.as_variable(one) for one in given)
        for name, shape, value in zip(self.names, self.shapes, values, strict=True):
            if value.shape != shape:
                raise ValueError(f"parameter {name} must have shape {shape}, found {value.shape}")
        return values, inputs

    def __repr__(self) -> str:
        return f"functional({type(self.model).__name__}, names={self.names}, flat={self.flat})"


def named_parameters(model: chainer.Link) -> dict[str, chainer.Parameter]:
    """Names to parameters, sorted. A shared parameter appears once, under its first name."""
    found: dict[str, chainer.Parameter] = {}
    seen: set[int] = set()
    every = sorted(model.namedparams(include_uninit=True), key=lambda pair: pair[0])
    for name, parameter in every:
        if id(parameter) not in seen:
            seen.add(id(parameter))
            found[name] = parameter
    return found


def _chosen(model: chainer.Link, names: Iterable[str] | str | None) -> dict[str, chainer.Parameter]:
    """Names to parameters, each parameter once, in the order of the names."""
    found = named_parameters(model)
    if not found:
        raise ValueError(f"model must have parameters, found none in {type(model).__name__}")
    if names is None:
        return found
    chosen = {}
    for entry in (names,) if isinstance(names, str) else names:
        path = f"/{entry.strip('/')}"
        fits = [n for n in found if n == path or n.startswith(f"{path.rstrip('/')}/")]
        if not fits:
            raise KeyError(
                f"names must be names of parameters, found {entry!r}; there are {sorted(found)}"
            )
        chosen.update({name: found[name] for name in fits})
    return chosen


@contextmanager
def untouched(model: chainer.Link) -> Iterator[None]:
    """Restore every attribute of every link at the end, so that a call has no side effects.

    Running averages are updated in place, so inside they are copies.
    """
    links = list({id(link): link for link in model.links()}.values())
    kept = [dict(vars(link)) for link in links]
    try:
        for link in links:
            for name in link._persistent:
                value = getattr(link, name)
                if hasattr(value, "copy"):
                    vars(link)[name] = value.copy()
        yield
    finally:
        for link, before in zip(links, kept, strict=True):
            vars(link).clear()
            vars(link).update(before)


@contextmanager
def _replaced(model: chainer.Link, values: dict[int, Variable]) -> Iterator[None]:
    """Inside, the links use plain sums, and the parameters with these ids have the given values."""
    with untouched(model):
        for link in model.links():
            own = vars(link)
            for name, value in list(own.items()):
                if id(value) in values:
                    own[name] = values[id(value)]
            if isinstance(link, RobustLink):
                own["robustifier"] = None
        yield
