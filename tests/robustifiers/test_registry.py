"""Robustifiers by name, by expression, and by the rule of thumb."""

import math

import pytest

import chainrob
from chainrob.robustifiers import default, get, names
from tests.robustifiers.cases import CASES, clean_rows

PRE_AGGREGATIONS = {
    "adaptive_robust_clipping",
    "bucketing",
    "clip_norm",
    "nearest_neighbor_mixing",
    "relative_clipping",
}

NEEDS_FACTS = {"median_of_means_minimization"}
"""What estimates from more than the gradients, and has tests of its own."""


def test_every_registered_robustifier_is_in_the_table_of_cases():
    covered = {name for case in CASES for name in case.name.split("-")}
    assert set(names()) - NEEDS_FACTS <= covered
    assert set(names()) >= PRE_AGGREGATIONS


def test_every_public_robustifier_is_registered_and_documented():
    from chainrob.robustifiers.registry import _REGISTRY

    bases = (chainrob.Robustifier, chainrob.robustifiers.PreAggregation)
    helpers = {"Robustifier", "CoordinateWise", "Weighting", "PreAggregation"}
    helpers |= {"Pipeline", "FromFunction", "PerReplica", "Grouped"}
    for name in set(chainrob.robustifiers.__all__) - helpers:
        cls = getattr(chainrob.robustifiers, name)
        if not (isinstance(cls, type) and issubclass(cls, bases)):
            continue
        assert cls in _REGISTRY.values()
        assert getattr(chainrob, name) is cls
        for word in ("Example:", "Cost:", "quivariant", ".. math::"):
            assert word in cls.__doc__, (name, word)
        assert "References:" in cls.__doc__ or name == "Mean"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mean", chainrob.Mean()),
        ("GeometricMedian", chainrob.GeometricMedian()),
        ("krum(f=2)", chainrob.Krum(2)),
        ("Krum(2, neighbors='n-f')", chainrob.Krum(2, neighbors="n-f")),
        (
            "nearest_neighbor_mixing(f=3) >> geometric_median",
            chainrob.NearestNeighborMixing(3) >> chainrob.GeometricMedian(),
        ),
        (
            " clip_norm(1.5)>>bucketing(size=3, seed=1)>>trimmed_mean(count=1) ",
            chainrob.ClipNorm(1.5) >> chainrob.Bucketing(3, 1) >> chainrob.TrimmedMean(count=1),
        ),
        ("clip_norm(1.0)", chainrob.ClipNorm(1.0)),
        ("krum:f=2,neighbors=n-f", chainrob.Krum(2, neighbors="n-f")),
        ("krum: f = 2", chainrob.Krum(2)),
        (
            "bucketing:size=3,seed=1 >> clip_norm(1.5) >> TrimmedMean:count=1",
            chainrob.Bucketing(3, 1) >> chainrob.ClipNorm(1.5) >> chainrob.TrimmedMean(count=1),
        ),
    ],
)
def test_expressions(text, expected):
    assert get(text) == expected


def test_parameters():
    assert get("trimmed_mean", fraction=0.05) == chainrob.TrimmedMean(fraction=0.05)
    assert repr(get("trimmed_mean", fraction=0.05)) == "TrimmedMean(fraction=0.05)"


@pytest.mark.parametrize(
    ("text", "parameters", "message"),
    [
        ("crum", {}, r"name must be one of adaptive_mean, .*; found 'crum'"),
        ("krum", {"g": 1}, "krum: parameters are .*f, .*; found g"),
        ("krum", {}, r"krum: parameter 'f' is missing; write krum\(f=...\), or take .*default"),
        ("clip_norm", {}, r"clip_norm: .*'max_norm' is missing; write clip_norm\(max_norm=...\)$"),
        ("krum:f", {}, "parameters are written NAME=VALUE, found 'f'"),
        ("krum(f=2):f=3", {}, "must be a name or an expression"),
        ("krum(1, 2, 3, 4)", {}, "krum: .*positional"),
        ("krum", {"f": -1}, "f must be an integer of at least 0, found -1"),
        ("krum(f=2", {}, "name must be a name or an expression"),
        ("krum(f=2)", {"f": 2}, "parameters belong inside the expression"),
        ("krum(f=open('x'))", {}, "parameters must be literals"),
        ("geometric_median(**{'tolerance': 0.5})", {}, "parameters must be literals"),
        ("__import__('os').system('ls')", {}, "name must be a name or an expression"),
        ("mean + mean", {}, "name must be a name or an expression"),
        ("mean >> krum(f=1)", {}, "Mean gives one gradient, so nothing can follow it"),
    ],
)
def test_what_is_refused(text, parameters, message):
    with pytest.raises(ValueError, match=message):
        get(text, **parameters)


@pytest.mark.parametrize("n", [1, 2, 5, 16, 100])
@pytest.mark.parametrize("contamination", [0.0, 0.02, 0.1, 0.3])
@pytest.mark.parametrize("name", sorted(set(names()) - {"clip_norm"} - NEEDS_FACTS))
def test_defaults_work_with_the_batch_they_are_for(name, contamination, n):
    f = math.ceil(contamination * n - 1e-9)
    if not fits(name, n, f):
        with pytest.raises(ValueError, match=r"found|limit"):
            default(name, n, contamination)
        return
    robustifier = default(name, n, contamination)
    robustifier.check(n)
    if isinstance(robustifier, chainrob.Robustifier) and (n < 20 or name != "smea"):
        assert robustifier(clean_rows(n, 3)).shape == (3,)


def fits(name, n, f):
    """Whether N rows are enough for f bad ones, by the docstrings' rules."""
    if name in ("krum", "multi_krum"):
        return f == 0 or 2 * f + 2 < n
    if name == "bulyan":
        return f == 0 or 4 * f + 2 < n
    if name == "smea":
        return 2 * f < n and math.comb(n, f) <= 50_000
    if name in ("mean", "adaptive_mean", "soft_truncation", "multiplicative_noise", "m_estimator"):
        return True
    if name == "coordinate_median":
        return True
    if name in ("geometric_median", "centered_clipping", "relative_clipping", "bucketing"):
        return True
    return 2 * f < n


@pytest.mark.parametrize(
    ("name", "n", "contamination", "expected"),
    [
        ("krum", 32, 0.1, "Krum(f=4)"),
        ("trimmed_mean", 100, 0.29, "TrimmedMean(count=29)"),
        ("soft_truncation", 10, 0.0, "SoftTruncation(delta=0.005)"),
        ("soft_truncation", 10, 0.1, "SoftTruncation(delta=0.005, pilot='median')"),
        ("median_of_means", 64, 0.05, "MedianOfMeans(n_blocks=9)"),
        (
            "bucketing >> geometric_median",
            64,
            0.05,
            "Bucketing(size=7, seed=0) >> GeometricMedian()",
        ),
        ("bucketing", 10, 0.0, "Bucketing(size=10, seed=0)"),
        (
            "nearest_neighbor_mixing >> trimmed_mean",
            20,
            0.1,
            "NearestNeighborMixing(f=2) >> TrimmedMean(count=2)",
        ),
        ("bucketing:size=3 >> krum", 30, 0.1, "Bucketing(size=3, seed=0) >> Krum(f=3)"),
        ("trimmed_mean(0.25)", 20, 0.1, "TrimmedMean(fraction=0.25)"),
    ],
)
def test_the_rules(name, n, contamination, expected):
    assert repr(default(name, n, contamination)) == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("krum", 10, 0.5), r"contamination must lie in \[0, 0.5\), found 0.5"),
        (("krum", 0, 0.1), "n_samples must be a positive integer, found 0"),
        (("krum", 10, 0.45), r"2f \+ 2 must be below the number of samples, found f=5 with 10"),
        (("clip_norm", 10, 0.1), "clip_norm has no default"),
        (("mean >> krum", 10, 0.1), "Mean gives one gradient, so nothing can follow it"),
        (("smea", 100, 0.1), "1.73e[+]13 subsets of 100, over the limit of 50000"),
    ],
)
def test_defaults_that_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        default(*arguments)
