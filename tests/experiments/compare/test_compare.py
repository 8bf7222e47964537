"""The comparison: its problems, its choices against plain code, its files."""

import csv
import json

import numpy as np
import pytest

from chainrob.cli import main
from chainrob.experiments import UsageError
from chainrob.experiments.compare import (
    DATA,
    CompareResults,
    CompareSettings,
    make_problem,
    parse_contamination,
    run_compare,
    train_cell,
)
from chainrob.experiments.compare.sections import compare_sections
from chainrob.experiments.compare.settings import make_robustifier, read_settings
from chainrob.experiments.compare.training import ERROR_LIMIT
from chainrob.experiments.report.markdown import to_markdown
from chainrob.statistics import rank_methods

SMALL = {
    "data": ("iris", "diabetes"),
    "robustifiers": ("mean", "trimmed_mean"),
    "contaminations": ("none", "push"),
    "learning_rates": (0.1, 0.3),
    "seeds": 2,
    "updates": 6,
}


@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("contamination", ["push", "labels", "noise", "leverage"])
def test_contamination_hits_its_share_of_the_training_points_alone(data, contamination):
    clean, bad = (make_problem(data, text, 3) for text in ("none", contamination))
    for field in ("x_validation", "t_validation", "x_test", "t_test"):
        np.testing.assert_array_equal(getattr(clean, field), getattr(bad, field))
    moved = (clean.x_train != bad.x_train).any(axis=1)
    moved |= (clean.t_train != bad.t_train).reshape(len(moved), -1).any(axis=1)
    n = len(moved)
    assert abs(moved.sum() - 0.1 * n) <= 0.5
    assert (clean.x_train != bad.x_train).any() == (contamination != "labels")


def test_problems_are_scaled_and_disjoint():
    problem = make_problem("digits", "none", 0)
    np.testing.assert_allclose(problem.x_train.mean(axis=0), 0, atol=1e-5)
    sizes = [len(getattr(problem, f"t_{part}")) for part in ("train", "validation", "test")]
    assert sum(sizes) == 1797
    assert problem.n_outputs == 10
    everything = np.vstack([problem.x_train, problem.x_validation, problem.x_test])
    assert len(np.unique(everything, axis=0)) == len(np.unique(DATA["digits"]().data, axis=0))
    diabetes = make_problem("diabetes", "none", 0)
    assert diabetes.t_train.std() == pytest.approx(1, abs=1e-5)
    assert not diabetes.classification


def test_training_learns_and_a_robustifier_withstands_what_the_mean_does_not():
    settings = CompareSettings(contaminations=("none", "push"), learning_rates=(0.3,), updates=100)
    errors = {r: train_cell(settings, "iris", r, 0)[:, 0, 1] for r in ("mean", "trimmed_mean")}
    assert errors["mean"][0] < 0.2
    assert errors["trimmed_mean"][1] < 0.25
    assert errors["mean"][1] > 0.6
    fit = train_cell(settings, "diabetes", "trimmed_mean", 0)[:, 0, 1]
    assert (fit < 0.9).all()


def test_a_replica_does_not_feel_its_company_nor_the_rates_beside_its_own():
    many = CompareSettings(**{**SMALL, "contaminations": ("none", "push", "labels")})
    alone = CompareSettings(**{**SMALL, "contaminations": ("push",), "learning_rates": (0.3,)})
    for data in SMALL["data"]:
        expected = train_cell(alone, data, "trimmed_mean", 1)[0, 0]
        np.testing.assert_allclose(
            train_cell(many, data, "trimmed_mean", 1)[1, 1], expected, rtol=1e-5
        )


def test_divergence_is_an_error_and_not_a_crash():
    settings = CompareSettings(contaminations=("push:k=1e30",), learning_rates=(1e20,), updates=5)
    for robustifier in ("mean", "geometric_median", "nearest_neighbor_mixing >> trimmed_mean"):
        assert train_cell(settings, "diabetes", robustifier, 0).max() <= ERROR_LIMIT
        assert train_cell(settings, "iris", robustifier, 0).max() <= 1


def made_up():
    """Errors whose choices are known: data, robustifiers, seeds, contaminations, rates, parts."""
    settings = CompareSettings(**SMALL)
    errors = np.full((2, 2, 2, 2, 2, 2), 0.5)
    errors[0, 0, :, :, 1] = 0.1  # iris, mean: the second rate is good ...
    errors[0, 0, :, 1, 1, 0] = 0.9  # ... but not in validation under the push
    errors[0, 1, :, :, 0] = 0.2  # iris, trimmed mean: the first rate is good throughout
    errors[0, 1, :, 1, 0, 1] = [0.3, 0.4]
    errors[1, :, :, :, :, :] = 0.6
    errors[1, 0, :, :, 0, 0] = 0.55
    return CompareResults(settings, errors)


def test_rates_are_chosen_by_the_worst_validation_error():
    results = made_up()
    assert results.chosen_rates().tolist() == [[0, 0], [0, 0]]
    assert results.chosen()[0, 1, :, 1].tolist() == [0.3, 0.4]
    best = results.best()["iris"]
    assert best.robustifier == "trimmed_mean"
    assert (best.learning_rate, best.worst_contamination) == (0.1, "push")
    assert best.test_error == pytest.approx(0.35)
    assert best.interval[0] >= 0.3
    assert best.interval[1] <= 0.4
    assert results.best()["diabetes"].robustifier == "mean"


def test_ranks_are_tested_by_whole_data_sets():
    results = made_up()
    means = results.chosen().mean(axis=2).transpose(0, 2, 1).reshape(-1, 2)
    expected = rank_methods(means, groups=[0, 0, 1, 1])
    found = results.ranking()
    np.testing.assert_array_equal(found.ranks, expected.ranks)
    assert found.p_value == expected.p_value
    # Two data sets cannot tell two methods apart, however often they are asked.
    assert found.p_value > 0.1


def test_the_best_for_all_shares_ranks_between_equals():
    settings = CompareSettings(**{**SMALL, "robustifiers": ("mean", "trimmed_mean", "krum")})
    errors = np.full((2, 3, 2, 2, 2, 2), 1.0)
    errors[0, 2] = 0.5  # iris: krum is first, the others diverge alike and share ranks 2 and 3
    errors[1, 1] = 0.9  # diabetes: the trimmed mean is first, the others diverge
    # The mean, first in the list, is best nowhere; counted by position it would tie with both.
    assert CompareResults(settings, errors).best()["all"].robustifier != "mean"


def test_a_rate_at_the_end_of_the_range_is_said_to_be():
    report = to_markdown("T", compare_sections(made_up(), {}))
    assert "| iris | `trimmed_mean` | 0.1, at the end of the range | push |" in report


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare")
    config = folder / "small.toml"
    config.write_text(
        'data = ["iris", "diabetes"]\nrobustifiers = ["mean", "trimmed_mean"]\n'
        'contaminations = ["none", "push"]\nlearning_rates = [0.1, 0.3]\nseeds = 2\nupdates = 6\n'
    )
    assert main(["compare", str(config), "--out", str(folder / "a"), "--workers", "1"]) == 0
    return folder


def test_files_of_a_run(run_folder):
    with (run_folder / "a" / "errors.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 2 * 2 * 2 * 2
    assert set(rows[0]) == {
        "data", "robustifier", "contamination", "seed", "learning_rate", "validation_error",
        "test_error",
    }  # fmt: skip
    row = next(
        r for r in rows
        if (r["data"], r["robustifier"], r["contamination"], r["seed"], r["learning_rate"])
        == ("diabetes", "trimmed_mean", "push", "1", "0.3")
    )  # fmt: skip
    expected = train_cell(CompareSettings(**SMALL), "diabetes", "trimmed_mean", 1)[1, 1]
    assert [float(row["validation_error"]), float(row["test_error"])] == expected.tolist()
    summary = json.loads((run_folder / "a" / "summary.json").read_text())
    assert set(summary["best"]) == {"iris", "diabetes", "all"}
    assert sum(summary["ranks"]["average"].values()) == pytest.approx(3)
    report = (run_folder / "a" / "report.md").read_text()
    for said in ("setting: seed", "version: chainrob", "device", "processor", "duration"):
        assert f"| {said}" in report
    for name in ("worst_case", "ranks", "heat_map_iris", "heat_map_diabetes"):
        assert f"figures/{name}.png" in report
        assert (run_folder / "a" / "figures" / f"{name}.png").stat().st_size > 5000


def test_resumed_run_ends_with_the_same_csv(run_folder, tmp_path, capsys):
    folder = run_folder / "a"
    before = (folder / "errors.csv").read_bytes()
    parts = sorted((folder / "partial").glob("*.npy"))
    assert len(parts) == 8
    for path in parts[::2]:  # as if killed before these were finished
        path.unlink()
    (folder / "errors.csv").unlink()
    config = str(run_folder / "small.toml")
    assert main(["compare", config, "--out", str(folder), "--resume", "--workers", "1"]) == 0
    assert (folder / "errors.csv").read_bytes() == before
    assert "best for the worst contamination, iris" in capsys.readouterr().out
    options = ["--out", str(folder), "--resume", "--seeds", "3"]
    assert main(["compare", config, *options]) == 2
    assert "seeds was 2, now 3" in capsys.readouterr().err


def test_flags_win_over_the_file(run_folder, tmp_path):
    settings = read_settings(run_folder / "small.toml")
    assert CompareSettings(**settings) == CompareSettings(**SMALL)
    options = ["--seeds", "1", "--data", "iris", "--updates", "2", "--robustifiers", "mean"]
    config = str(run_folder / "small.toml")
    out = str(tmp_path)
    assert main(["compare", config, *options, "--out", out, "--workers", "1"]) == 0
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["settings"]["data"] == ["iris"]
    assert summary["settings"]["learning_rates"] == [0.1, 0.3]
    assert summary["ranks"] is None  # nothing to rank a single robustifier against
    assert summary["best"]["iris"]["interval"] is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": ["boston"]}, "unknown data boston"),
        ({"data": "iris"}, "data must be a list"),
        ({"robustifiers": ["mean", "mean"]}, "robustifiers must not repeat an entry"),
        ({"robustifiers": []}, "robustifiers must be a list with at least one"),
        ({"robustifiers": ["medain"]}, "medain"),
        ({"robustifiers": ["krum:f=40"]}, "f"),
        ({"contaminations": ["shove"]}, "unknown contamination 'shove'"),
        ({"contaminations": ["push:far=3"]}, "has the parameters share, k"),
        ({"contaminations": ["push:share=0.7"]}, "share must lie in"),
        ({"contaminations": ["push:k=far"]}, "k must be a number"),
        ({"learning_rates": [0]}, "learning_rates must be positive"),
        ({"seeds": 0}, "seeds must be an integer of at least 1"),
        ({"seeds": 1.5}, "seeds must be an integer"),
    ],
)
def test_bad_settings(change, message):
    with pytest.raises(ValueError, match=message):
        CompareSettings(**change)


def test_bad_files(tmp_path, capsys):
    path = tmp_path / "a.toml"
    path.write_text("colour = 1\n")
    with pytest.raises(UsageError, match="unknown settings colour; known are data"):
        read_settings(path)
    path.write_text("seeds = = 2")
    assert main(["compare", str(path)]) == 2
    assert "cannot be read" in capsys.readouterr().err
    assert main(["compare", str(tmp_path / "none.toml")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_names_stand_for_robustifiers_that_propagate_divergence():
    assert parse_contamination("labels") == ("labels", {"share": 0.1})
    assert "propagate" in repr(make_robustifier("bucketing >> trimmed_mean", 50, 0.1))
    assert "propagate" in repr(make_robustifier("nearest_neighbor_mixing", 50, 0.1))
    assert make_robustifier("trimmed_mean:fraction=0.1", 50, 0.1).fraction == 0.1
    mixed = make_robustifier("nearest_neighbor_mixing:f=2 >> multi_krum", 50, 0.1)
    assert repr(mixed) == "NearestNeighborMixing(f=2) >> MultiKrum(nonfinite='propagate', f=5)"
    assert make_robustifier("krum(f=2, nonfinite='raise')", 50, 0.1).nonfinite == "raise"


def test_run_without_a_folder_writes_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = CompareSettings(**{**SMALL, "data": ("iris",), "updates": 1})
    assert run_compare(settings).errors.shape == (1, 2, 2, 2, 2, 2)
    assert list(tmp_path.iterdir()) == []
