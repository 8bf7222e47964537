"""Synthetic linear regression against closed forms and a loop written out."""

import json

import numpy as np
import pytest

from chainrob.cli import main
from chainrob.experiments.rgd import NOISES, RgdSettings, figure_rgd, run_rgd
from chainrob.robustifiers import MEstimator


def small(**changes):
    return RgdSettings(**{"trials": 30, "n": 40, "iterations": 12, **changes})


def test_mean_ends_at_least_squares_and_the_oracle_contracts():
    settings = small(iterations=400, trials=3)
    results = run_rgd(settings)
    start = results.excess_risk["normal", "oracle"][0, 0]
    expected = start * 0.9 ** (2 * np.arange(401))
    np.testing.assert_allclose(results.excess_risk["normal", "oracle"][0], expected)
    # Gradient descent with the mean converges to the least squares fit of the same data.
    streams = np.random.SeedSequence(0).spawn(3)
    rng = np.random.default_rng(streams[1])
    x, epsilon = rng.standard_normal((3, 40, 2)), rng.normal(0, 20.0, (3, 40))
    fit = [np.linalg.lstsq(a, b, rcond=None)[0] for a, b in zip(x, epsilon, strict=True)]
    risks = 0.5 * np.sum(np.square(fit), axis=1)
    np.testing.assert_allclose(results.excess_risk["normal", "mean"][:, -1], risks, rtol=1e-6)


def test_robust_descent_is_that_of_a_loop_over_rows():
    settings = small(trials=2, iterations=3)
    results = run_rgd(settings)
    streams = np.random.SeedSequence(0).spawn(3)
    w = np.random.default_rng(streams[0]).uniform(-5, 5, 2)
    rng = np.random.default_rng(streams[2])
    x = rng.standard_normal((2, 40, 2))
    epsilon = rng.lognormal(0, 1.75, (2, 40)) - np.exp(1.75**2 / 2)
    for _ in range(3):
        rows = (x[0] @ w - epsilon[0])[:, None] * x[0]
        w = w - 0.1 * MEstimator(delta=0.01)(rows)
    np.testing.assert_allclose(
        results.excess_risk["lognormal", "robust"][0, -1], 0.5 * w @ w, rtol=1e-9
    )


def test_robust_wins_where_the_tails_are_heavy_and_loses_nothing_where_not():
    final = run_rgd(RgdSettings(trials=40, n=100)).final()
    heavy, light = final["lognormal"], final["normal"]
    assert heavy["robust"]["mean"] < 0.5 * heavy["mean"]["mean"]
    assert heavy["robust - mean"]["interval"][1] < 0
    assert abs(light["robust - mean"]["mean"]) < 0.1 * light["mean"]["mean"]


def test_files_are_the_same_on_a_second_run(tmp_path, capsys):
    options = ["reproduce", "rgd", "--trials", "4", "--iterations", "3"]
    for name in ("a", "b"):
        assert main([*options, "--out", str(tmp_path / name)]) == 0
    assert "lognormal" in capsys.readouterr().out
    csv = [(tmp_path / name / "rgd.csv").read_bytes() for name in ("a", "b")]
    assert csv[0] == csv[1]
    assert csv[0].count(b"\n") == 1 + 2 * 3 * 4 * 4
    record = json.loads((tmp_path / "a" / "rgd.json").read_text())
    assert record["settings"]["trials"] == 4
    assert {"settings", "device", "versions", "machine", "blas", "seconds", "final"} <= set(record)
    assert record["blas"]
    assert (tmp_path / "a" / "rgd.png").exists()


def test_figure_has_a_line_a_method():
    figure = figure_rgd(run_rgd(small(trials=3)))
    assert [len(ax.lines) for ax in figure.axes] == [3, 3]
    assert len(figure.axes) == len(NOISES)


@pytest.mark.parametrize(
    ("options", "fragment"),
    [
        (["--trials", "0"], "trials must be at least 1"),
        (["--sweep-trials", "3"], "reproduce rgd takes"),
        (["--seed", "-1"], "seed must not be negative"),
    ],
)
def test_bad_options(capsys, tmp_path, options, fragment):
    assert main(["reproduce", "rgd", *options, "--out", str(tmp_path)]) == 2
    assert fragment in capsys.readouterr().err


def test_bad_settings():
    with pytest.raises(ValueError, match="step must be finite and positive"):
        RgdSettings(step=0)
