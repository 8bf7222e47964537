"""Robustifiers written as text, for command lines: ``NAME:PARAMETER=VALUE,...``."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from chainrob import robustifiers

__all__ = ["parse_layers", "parse_robustifier"]

Maker = Callable[..., Any]


def parse_robustifier(text: str, extra: dict[str, Maker] | None = None) -> Any:
    """The robustifier that a text names, or None for ``'none'`` (the plain sum).

    Non-finite rows are propagated unless the text says otherwise, so that a trial that diverges is
    seen to diverge and does not stop the others.

    Args:
        text (str): ``NAME`` or ``NAME:PARAMETER=VALUE,PARAMETER=VALUE``; values are Python
            literals, anything else is taken as a string.
        extra (mapping or None): Further names, and what makes their robustifiers.

    Returns:
        chainrob.Robustifier or None: The robustifier.

    Raises:
        ValueError: If the name, a parameter or a value is wrong; the message says which.

    Example:
        >>> from chainrob.experiments.specs import parse_robustifier
        >>> parse_robustifier("soft_truncation:delta=0.01,pilot=median").delta
        0.01
    """
    name, _, rest = text.partition(":")
    if name == "none":
        if rest:
            raise ValueError(f"'none' takes no parameters, found {rest!r}")
        return None
    parameters: dict[str, Any] = {"nonfinite": "propagate"}
    for item in filter(None, rest.split(",")):
        key, equals, value = item.partition("=")
        if not equals or not key.isidentifier():
            raise ValueError(f"parameters are written NAME=VALUE, found {item!r}")
        try:
            parameters[key] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            parameters[key] = value
    extra = extra or {}
    if name not in [*extra, *robustifiers.names()]:
        known = ", ".join(["none", *sorted([*extra, *robustifiers.names()])])
        raise ValueError(f"unknown robustifier {name!r}; known are {known}")
    make = extra.get(name) or partial(robustifiers.get, name)
    try:
        return make(**parameters)
    except (TypeError, ValueError) as error:
        raise ValueError(f"robustifier {text!r}: {error}") from error


def parse_layers(
    texts: Iterable[str], n_layers: int, extra: dict[str, Maker] | None = None
) -> tuple[Any, ...]:
    """The robustifiers of all layers from texts ``LAYER=ROBUSTIFIER``.

    Args:
        texts (iterable of str): LAYER is ``l1`` (the first), ``l2``, ... or ``all``; later texts
            win, and layers that are not named have None, the plain sum.
        n_layers (int): How many layers there are.
        extra (mapping or None): As for ``parse_robustifier``.

    Returns:
        tuple: One robustifier, or None, a layer.

    Raises:
        ValueError: If a layer does not exist or a robustifier is wrong.

    Example:
        >>> from chainrob.experiments.specs import parse_layers
        >>> [type(r).__name__ for r in parse_layers(["all=mean", "l2=none"], 3)]
        ['Mean', 'NoneType', 'Mean']
    """
    chosen: list[Any] = [None] * n_layers
    names = [f"l{number}" for number in range(1, n_layers + 1)]
    for text in texts:
        layer, equals, spec = text.partition("=")
        if not equals or layer not in [*names, "all"]:
            raise ValueError(
                f"a robustifier is given as LAYER=NAME with LAYER one of {', '.join(names)} or "
                f"all, found {text!r}"
            )
        robustifier = parse_robustifier(spec, extra)
        for index, name in enumerate(names):
            if layer in (name, "all"):
                chosen[index] = robustifier
    return tuple(chosen)
