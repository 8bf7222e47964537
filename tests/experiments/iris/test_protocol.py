import json

import pytest

import chainrob
from chainrob.experiments.iris import ReleasedSoftTruncation, iris_settings


def test_the_two_settings_differ_in_the_documented_fields_only():
    text, released = iris_settings("text").as_dict(), iris_settings("released").as_dict()
    assert {key for key in text if text[key] != released[key]} == {
        "setting",
        "estimate_scale",
        "variance_ddof",
        "variance_floor",
        "small_batches",
        "components_from",
        "scaling_from",
    }


def test_methods():
    methods = iris_settings("released").methods()
    assert methods["deep"] == (None, None, None)
    released = ReleasedSoftTruncation(0.005, nonfinite="propagate")
    assert methods["deep-rob"] == (released, None, None)
    assert iris_settings("text").methods()["deep-rob"][0].estimate_scale == "sample"
    own = iris_settings(robustifier=("all=mean", "l1=coordinate_median")).methods()["deep-rob"]
    assert [type(one) for one in own] == [
        chainrob.CoordinateMedian,
        chainrob.Mean,
        chainrob.Mean,
    ]


@pytest.mark.parametrize(
    ("iterations", "every", "expected"),
    [(10, 5, (0, 5, 10)), (10, 4, (0, 4, 8, 10)), (0, 5, (0,)), (3, 10, (0, 3)), (2, 1, (0, 1, 2))],
)
def test_recorded_times_hold_the_first_and_the_last(iterations, every, expected):
    settings = iris_settings(iterations=iterations, record_every=every)
    assert settings.recorded == expected


def test_settings_go_into_json():
    settings = iris_settings(robustifier=("l1=mean",))
    assert json.loads(json.dumps(settings.as_dict()))["robustifier"] == ["l1=mean"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trials": 0}, "trials must be at least 1, found 0"),
        ({"iterations": -1}, "iterations must not be negative, found -1"),
        ({"seed": -1}, "seed must not be negative"),
        ({"record_every": 0}, "record_every must be at least 1"),
        ({"n_train": 150}, "n_train must be between 3 and 149, found 150"),
        ({"contamination": 1.5}, "contamination must be between 0 and 1, found 1.5"),
        ({"contamination": float("nan")}, "contamination must be"),
        ({"push": float("inf")}, "push must be finite"),
        ({"hidden": (0,)}, "hidden must be positive"),
        ({"learning_rate": 0.0}, "learning_rate must be finite and positive"),
        ({"half_width": -0.1}, "half_width must be finite, not negative"),
        ({"components_from": "test"}, "components_from must be one of train, all, found 'test'"),
        ({"dtype": "float16"}, "dtype must be one of float32, float64"),
        ({"scope": "model"}, "scope must be one of unit, parameter, layer"),
        ({"delta": 1.0}, "delta must lie strictly between 0 and 1"),
        ({"robustifier": ("l9=mean",)}, "LAYER one of l1, l2, l3 or all"),
        ({"robustifier": ("l1=krum:f=60",)}, r"Krum: 2f \+ 2 must be .* f=60 with 100 samples"),
        ({"robustifier": ("l2=smea:f=10",)}, "SMEA: the 90 rows"),
        ({"color": 1}, "no field color"),
    ],
)
def test_bad_values_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        iris_settings("released", **changes)


def test_unknown_setting():
    with pytest.raises(ValueError, match="setting must be one of text, released, found 'figure'"):
        iris_settings("figure")
