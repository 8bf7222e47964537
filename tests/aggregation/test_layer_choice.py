"""Names, numbers and predicates mean the same layers in every front."""

from __future__ import annotations

import numpy as np
import pytest

from chainrob.aggregation.layer_choice import choose_layers

LAYERS = [("body.a", "A"), ("body.b", "B"), ("head", "H")]


def named(entry: str) -> list[str]:
    """As a front does: the name itself, and all below it; some without parameters."""
    return [name for name in ("body.a", "body.b", "body.relu", "head") if name.startswith(entry)]


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        (None, "ABH"),
        ("body", "AB"),
        (["head", "body.a"], "AH"),
        (0, "A"),
        (-1, "H"),
        (np.int64(1), "B"),
        ((0, "head", 0), "AH"),
        (iter([2, 1]), "BH"),
        (lambda name, layer: layer in "BH" and "b" in name, "B"),
    ],
)
def test_layers_come_in_the_order_of_the_model(layers, expected):
    assert [layer for _, layer in choose_layers(LAYERS, layers, named, "link")] == list(expected)


@pytest.mark.parametrize(
    ("layers", "error", "message"),
    [
        ("tail", KeyError, "names of links that hold parameters, found 'tail'; there are"),
        ("body.relu", KeyError, "names of links that hold parameters, found 'body.relu'"),
        (3, KeyError, "numbers below 3, found 3; the links that hold parameters are"),
        (-4, KeyError, "numbers below 3, found -4"),
        ([True], TypeError, "names, numbers or a predicate .name, link. -> bool, found True"),
        ([None], TypeError, "found None"),
        ([], ValueError, r"at least one link, found \[\]; the links that hold parameters are"),
        (lambda name, layer: False, ValueError, "found a predicate that no link meets"),
    ],
)
def test_bad_choices_are_refused(layers, error, message):
    with pytest.raises(error, match=message):
        choose_layers(LAYERS, layers, named, "link")
