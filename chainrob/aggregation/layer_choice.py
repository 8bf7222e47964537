"""Which layers of a model are meant: what ``robustify(layers=...)`` takes in every front."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from numbers import Integral
from typing import Any, TypeVar

Layer = TypeVar("Layer")


def choose_layers(
    everything: Sequence[tuple[str, Layer]],
    layers: str | int | Iterable[str | int] | Callable[[str, Any], bool] | None,
    named: Callable[[str], Iterable[str]],
    kind: str,
) -> list[tuple[str, Layer]]:
    """The layers that are meant, in the order of the model.

    Args:
        everything: names and layers that there are to choose from.
        layers: None for all; names, or numbers in ``everything``, from the end where negative; one
            of them; or a predicate ``(name, layer) -> bool``.
        named: a name that somebody gave to the names in ``everything`` that it means.
        kind: what the front calls a layer, for messages.

    Raises:
        KeyError: a name or a number of no layer.
        TypeError: something else among ``layers``.
        ValueError: no layer is chosen.

    Example:
        >>> from chainrob.aggregation.layer_choice import choose_layers
        >>> pairs = [("conv", 1.5), ("head", 2.5)]
        >>> choose_layers(pairs, -1, lambda name: [name], "layer")
        [('head', 2.5)]
    """
    if layers is None:
        return list(everything)
    names = [name for name, _ in everything]
    there_are = f"the {kind}s that hold parameters are {names}"
    chosen: set[str] = set()
    if callable(layers):
        chosen = {name for name, layer in everything if layers(name, layer)}
        found = f"a predicate that no {kind} meets"
    else:
        given: list[Any] = [layers] if isinstance(layers, str | Integral) else list(layers)  # type: ignore[arg-type]
        found = repr(layers)
        for entry in given:
            if isinstance(entry, str):
                matches = set(named(entry)) & set(names)
                if not matches:
                    raise KeyError(
                        f"robustify: layers must be names of {kind}s that hold parameters, found "
                        f"{entry!r}; there are {names}"
                    )
                chosen |= matches
            elif not isinstance(entry, bool) and isinstance(entry, Integral):
                if not -len(names) <= int(entry) < len(names):
                    raise KeyError(
                        f"robustify: layers must be numbers below {len(names)}, found {entry}; "
                        f"{there_are}"
                    )
                chosen.add(names[int(entry)])
            else:
                raise TypeError(
                    f"robustify: layers must be names, numbers or a predicate (name, {kind}) -> "
                    f"bool, found {entry!r}"
                )
    if not chosen:
        raise ValueError(
            f"robustify: layers must choose at least one {kind}, found {found}; {there_are}"
        )
    return [(name, layer) for name, layer in everything if name in chosen]
