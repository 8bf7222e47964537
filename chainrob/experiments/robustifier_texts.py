"""Read the robustifiers of layers from texts ``LAYER=ROBUSTIFIER`` on the command line."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from chainrob import robustifiers

__all__ = ["LAYERS_HELP", "parse_layers", "parse_robustifier"]

Maker = Callable[..., Any]

LAYERS_HELP = (
    "A robustifier is given as LAYER=ROBUSTIFIER. LAYER is l1, l2, l3 or all. ROBUSTIFIER is none "
    "(the plain sum), NAME, NAME:PARAMETER=VALUE,..., 'NAME(PARAMETER=VALUE, ...)' or 'A >> B'."
)
"""For help texts. ``chainrob.robustifiers.grammar`` explains the forms of a robustifier."""


def parse_robustifier(text: str, extra: dict[str, Maker] | None = None) -> Any:
    """The robustifier that a text names, or None for ``'none'`` (the plain sum).

    Unless the text says otherwise, non-finite rows are propagated. So a diverging trial shows that
    it diverges, and the other trials continue.

    Args:
        text: In the grammar of ``chainrob.robustifiers.grammar``, or ``none``.
        extra: Further names, and functions that make their robustifiers.

    Returns:
        chainrob.Robustifier or None: The robustifier.

    Raises:
        ValueError: If the name, a parameter or a value is wrong; the message says which.

    Example:
        >>> from chainrob.experiments.robustifier_texts import parse_robustifier
        >>> parse_robustifier("soft_truncation:delta=0.01,pilot=median").delta
        0.01
        >>> parse_robustifier("nearest_neighbor_mixing(f=3) >> geometric_median")
        NearestNeighborMixing(f=3) >> GeometricMedian(nonfinite='propagate')
    """
    if text.strip() == "none":
        return None
    known = {**(extra or {}), "none": _none}
    try:
        made = robustifiers.parse(text, extra=known, nonfinite="propagate")
    except ValueError as error:
        raise ValueError(f"robustifier {text!r}: {error}") from error
    if isinstance(made, robustifiers.PreAggregation):
        raise ValueError(
            f"robustifier {text!r}: a pre-aggregation gives many gradients; add a robustifier that "
            f"joins them, as in '{text.strip()} >> mean'"
        )
    return made


def _none(*arguments: Any, **parameters: Any) -> Any:
    raise ValueError("'none' takes no parameters and joins nothing")


def parse_layers(
    texts: Iterable[str], n_layers: int, extra: dict[str, Maker] | None = None
) -> tuple[Any, ...]:
    """The robustifiers of all layers from texts ``LAYER=ROBUSTIFIER``.

    Args:
        texts: LAYER is ``l1`` (the first), ``l2``, ... or ``all``. Later texts win. Layers that
            are not named get None, the plain sum.
        n_layers: Number of layers.
        extra: As for ``parse_robustifier``.

    Returns:
        tuple: For each layer a robustifier or None.

    Raises:
        ValueError: If a layer does not exist or a robustifier is wrong.

    Example:
        >>> from chainrob.experiments.robustifier_texts import parse_layers
        >>> [type(r).__name__ for r in parse_layers(["all=mean", "l2=none"], 3)]
        ['Mean', 'NoneType', 'Mean']
    """
    chosen: list[Any] = [None] * n_layers
    names = [f"l{number}" for number in range(1, n_layers + 1)]
    for text in texts:
        layer, equals, named = text.partition("=")
        if not equals or layer not in [*names, "all"]:
            raise ValueError(
                f"a robustifier is given as LAYER=NAME with LAYER one of {', '.join(names)} or "
                f"all, found {text!r}"
            )
        robustifier = parse_robustifier(named, extra)
        for index, name in enumerate(names):
            if layer in (name, "all"):
                chosen[index] = robustifier
    return tuple(chosen)
