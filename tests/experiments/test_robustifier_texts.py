import pytest

import chainrob
from chainrob.experiments.iris import ReleasedSoftTruncation
from chainrob.experiments.robustifier_texts import parse_layers, parse_robustifier

EXTRA = {"released_soft_truncation": ReleasedSoftTruncation}


def test_every_name_of_the_library_can_be_given():
    for name in ("mean", "coordinate_median", "geometric_median"):
        parsed = parse_robustifier(name)
        assert parsed == chainrob.robustifiers.get(name, nonfinite="propagate")


def test_parameters_are_literals_or_strings():
    parsed = parse_robustifier("soft_truncation:delta=0.01,pilot=median,nonfinite=drop")
    assert parsed == chainrob.SoftTruncation(0.01, pilot="median")


def test_none_is_the_plain_sum_and_extra_names_are_known():
    assert parse_robustifier("none") is None
    parsed = parse_robustifier("released_soft_truncation:variance_floor=0.0", EXTRA)
    assert parsed.variance_floor == 0.0


def test_layers():
    median = chainrob.CoordinateMedian(nonfinite="propagate")
    mean = chainrob.Mean(nonfinite="propagate")
    assert parse_layers([], 3) == (None, None, None)
    assert parse_layers(["l2=mean"], 3) == (None, mean, None)
    assert parse_layers(["all=mean", "l3=none", "l1=coordinate_median"], 3) == (median, mean, None)


@pytest.mark.parametrize(
    "text",
    [
        "l1=nearest_neighbor_mixing(f=3) >> geometric_median",
        "l1=nearest_neighbor_mixing:f=3 >> geometric_median",
        "l1=nearest_neighbor_mixing:f=3>>GeometricMedian()",
        "l1=NearestNeighborMixing(3) >> GeometricMedian(nonfinite='propagate')",
    ],
)
def test_one_grammar_for_every_form(text):
    median = chainrob.GeometricMedian(nonfinite="propagate")
    expected = chainrob.NearestNeighborMixing(3) >> median
    assert parse_layers([text], 3) == (expected, None, None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("l4=mean", "LAYER one of l1, l2, l3 or all, found 'l4=mean'"),
        ("mean", "given as LAYER=NAME"),
        ("l1=medain", "'medain': name must be one of .*none.*soft_truncation.*; found 'medain'"),
        ("l1=trimmed_mean:fraction", "written NAME=VALUE, found 'fraction'"),
        ("l1=trimmed_mean:fractoin=0.1", "fractoin"),
        ("l1=trimmed_mean:fraction=0.9", "fraction"),
        ("l1=soft_truncation:delta=2", "delta"),
        ("l1=soft_truncation:delta=abc", "robustifier 'soft_truncation:delta=abc'"),
        ("l1=none:delta=2", "'none' takes no parameters"),
        ("l1=none >> mean", "'none' takes no parameters and joins nothing"),
        ("l1=bucketing(size=2) >> none", "'none' takes no parameters and joins nothing"),
        ("l1=bucketing", "'bucketing': a pre-aggregation .* as in 'bucketing >> mean'"),
        ("l1=krum", r"krum: parameter 'f' is missing; write krum\(f=...\)"),
        ("l1=nearest_neighbor_mixing(f=3) >> ", "must be a name or an expression like"),
        ("l1=mean >> krum(f=1)", "Mean gives one gradient, so nothing can follow it"),
        ("l1=released_soft_truncation:delta=2", "delta"),
        ("l1=released_soft_truncation:floor=2", "floor"),
    ],
)
def test_bad_texts_are_named(text, message):
    with pytest.raises(ValueError, match=message):
        parse_layers([text], 3, EXTRA)
