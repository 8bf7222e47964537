import pytest

import chainrob
from chainrob.experiments.iris import ReleasedSoftTruncation
from chainrob.experiments.specs import parse_layers, parse_robustifier

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
    ("text", "message"),
    [
        ("l4=mean", "LAYER one of l1, l2, l3 or all, found 'l4=mean'"),
        ("mean", "given as LAYER=NAME"),
        ("l1=medain", "unknown robustifier 'medain'; known are none, .*soft_truncation"),
        ("l1=trimmed_mean:fraction", "written NAME=VALUE, found 'fraction'"),
        ("l1=trimmed_mean:fractoin=0.1", "fractoin"),
        ("l1=trimmed_mean:fraction=0.9", "fraction"),
        ("l1=soft_truncation:delta=2", "delta"),
        ("l1=soft_truncation:delta=abc", "robustifier 'soft_truncation:delta=abc'"),
        ("l1=none:delta=2", "'none' takes no parameters"),
        ("l1=released_soft_truncation:delta=2", "delta"),
        ("l1=released_soft_truncation:floor=2", "floor"),
    ],
)
def test_bad_texts_are_named(text, message):
    with pytest.raises(ValueError, match=message):
        parse_layers([text], 3, EXTRA)
