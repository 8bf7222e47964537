"""The comparison as a user runs it: files, resuming, choices, what is printed."""

import csv
import json

import numpy as np
import pytest

from chainrob.cli import main
from chainrob.experiments import UsageError
from chainrob.experiments.compare import (
    METHODS,
    CompareResults,
    CompareSettings,
    run_compare,
    train_cell,
)
from chainrob.experiments.compare.comparison_settings import QUICK, read_settings
from chainrob.experiments.compare.methods import candidates, method_of
from chainrob.statistics import rank_methods

SMALL = {
    "data": ("iris", "diabetes"),
    "methods": ("plain mean", "trimmed mean", "Huber loss"),
    "contaminations": ("none", "push:0.1", "heavy:0.2"),
    "learning_rates": (0.01, 0.1),
    "seeds": 2,
    "updates": 4,
}


def made_up(robust, without, plain=0.5, seeds=6):
    """Test errors of iris as said, with a little scatter; the first candidate looks best."""
    settings = CompareSettings(
        data=["iris"], methods=["plain mean", "label smoothing", "trimmed mean"],
        contaminations=["none", "push:0.1"], learning_rates=[0.01, 0.1], seeds=seeds,
    )  # fmt: skip
    cells = np.ones((3, seeds, 2, 2, 3))
    scatter = 0.01 * (-1.0) ** np.arange(seeds)[:, None, None]  # adds up to nothing
    for i, level in enumerate((plain, without, robust)):
        cells[i, ..., 1] = level + (scatter if i < 2 else -scatter)
        cells[i, :, :, 0, 0] = level  # the second candidate has validation score 1 ...
        cells[i, :, :, 1, 1] = 0.0  # ... and the best test error, which may not count
    return CompareResults(settings, {"iris": cells})


@pytest.mark.parametrize(
    ("robust", "without", "outcome"), [(0.1, 0.3, "pay"), (0.3, 0.1, "harm"), (0.2, 0.2, "as well")]
)
def test_outcomes_follow_from_paired_differences_of_what_validation_chooses(
    robust, without, outcome
):
    results = made_up(robust, without)
    assert [case.outcome for case in results.cases] == [outcome] * 2
    for case in results.cases:
        assert case.robust.mean() == pytest.approx(robust, abs=0.02)
        assert case.baseline.mean() == pytest.approx(without, abs=0.02)
        assert case.plain.mean() == pytest.approx(0.5, abs=0.02)


def test_of_one_seed_nothing_follows():
    assert {case.outcome for case in made_up(0.1, 0.9, seeds=1).cases} == {"as well"}


def test_candidates_are_chosen_for_each_seed_and_contamination_on_validation_points():
    cells = np.random.default_rng(1).random((3, 6, 2, 2, 3))
    results = CompareResults(made_up(0.1, 0.2).settings, {"iris": cells})
    found = results.chosen("iris")
    for i, k, c in np.ndindex(3, 6, 2):
        j = min((0, 1), key=lambda j: cells[i, k, c, j, 0])
        assert found[i, k, c] == cells[i, k, c, j, 1]
    best, which = results.best_of("iris", ("plain", "one line"))
    for k, c in np.ndindex(6, 2):
        i = min((0, 1), key=lambda i: cells[i, k, c, :, 0].min())
        assert which[k, c] == i
        assert best[k, c] == found[i, k, c]


def test_ranks_are_tested_by_whole_data_sets():
    rng = np.random.default_rng(0)
    cells = {"iris": rng.random((2, 2, 2, 2, 3)), "diabetes": rng.random((3, 2, 3, 2, 3))}
    results = CompareResults(CompareSettings(**SMALL), cells)
    assert results.common_methods() == ("plain mean", "trimmed mean")
    means = [results.chosen("iris").mean(axis=1).T, results.chosen("diabetes")[:2].mean(axis=1).T]
    expected = rank_methods(np.concatenate(means), [0, 0, 1, 1, 1])
    np.testing.assert_array_equal(results.ranking().ranks, expected.ranks)
    assert results.ranking().p_value == expected.p_value > 0.1


def test_all_methods_have_the_same_budget():
    rates = CompareSettings().learning_rates
    assert {len(candidates(method, rates)) for method in METHODS.values()} == {len(rates)}
    for method in METHODS.values():
        tried = candidates(method, rates)
        assert len({(c.value, c.rate) for c in tried}) == len(tried)
        assert not any("{}" in f"{c.method}" for c in tried)


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare")
    (folder / "small.toml").write_text(
        'data = ["iris", "diabetes"]\nmethods = ["plain mean", "trimmed mean", "Huber loss"]\n'
        'contaminations = ["none", "push:0.1", "heavy:0.2"]\nlearning_rates = [0.01, 0.1]\n'
        "seeds = 2\nupdates = 4\n"
    )
    options = ["--out", str(folder / "a"), "--workers", "1"]
    assert main(["compare", str(folder / "small.toml"), *options]) == 0
    return folder


def test_files_of_a_run(run_folder):
    with (run_folder / "a" / "errors.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 2 * 2 * 2 + 3 * 2 * 3 * 2
    row = next(
        r for r in rows
        if (r["data"], r["method"], r["contamination"], r["seed"], r["learning_rate"])
        == ("diabetes", "plain mean", "push:0.1", "1", "0.1")
    )  # fmt: skip
    texts = ("none", "push:0.1", "heavy:0.2")
    expected = train_cell("diabetes", "plain mean", 1, texts, (0.01, 0.1), 4)[1, 1, :2]
    assert [float(row["validation_score"]), float(row["test_error"])] == expected.tolist()
    summary = json.loads((run_folder / "a" / "summary.json").read_text())
    assert len(summary["cases"]) == 2 + 3
    assert summary["blas"]
    assert summary["machine"]
    report = (run_folder / "a" / "report.md").read_text()
    for said in ("setting: seed", "version: chainrob", "device", "processor", "BLAS", "duration"):
        assert f"| {said}" in report
    for name in ("when_classification", "time_regression", "ranks", "errors_iris"):
        assert f"figures/{name}.png" in report
        assert (run_folder / "a" / "figures" / f"{name}.png").stat().st_size > 5000
    assert "base64" in (run_folder / "a" / "report.html").read_text()


def test_resumed_run_ends_with_the_same_csv(run_folder, capsys):
    folder = run_folder / "a"
    before = (folder / "errors.csv").read_bytes()
    parts = sorted((folder / "partial").glob("*.npy"))
    assert len(parts) == 2 * 2 + 3 * 2
    for path in parts[::2]:  # as if killed before these were finished
        path.unlink()
    (folder / "errors.csv").unlink()
    config = str(run_folder / "small.toml")
    assert main(["compare", config, "--out", str(folder), "--resume", "--workers", "1"]) == 0
    assert (folder / "errors.csv").read_bytes() == before
    assert "robust gradients pay in" in capsys.readouterr().out
    options = ["--out", str(folder), "--resume", "--seeds", "3"]
    assert main(["compare", config, *options]) == 2
    assert "seeds was 2, now 3" in capsys.readouterr().err


def test_flags_win_over_the_file_and_the_file_over_quick(run_folder, monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr(
        "chainrob.experiments.compare.comparison.run_compare",
        lambda settings, out, **options: seen.append(settings) or made_up(0.1, 0.2),
    )
    config = str(run_folder / "small.toml")
    assert main(["compare", config, "--quick", "--seeds", "1", "--out", str(tmp_path)]) == 0
    assert seen[0] == CompareSettings(**{**SMALL, "seeds": 1})
    assert main(["compare", "--quick", "--out", str(tmp_path)]) == 0
    assert seen[1] == CompareSettings(**QUICK)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": ["boston"]}, "unknown data 'boston'"),
        ({"data": "iris"}, "data must be a list"),
        ({"methods": ["plain mean", "plain mean"]}, "methods must not repeat an entry"),
        ({"methods": ["medain"]}, "unknown method 'medain'"),
        ({"methods": ["krum:f=40"]}, "f"),
        ({"methods": ["label smoothing"]}, "methods must hold one that suits diabetes"),
        ({"contaminations": ["shove:0.1"]}, "unknown contamination 'shove'"),
        ({"contaminations": ["push:0.7"]}, "share must lie in"),
        ({"contaminations": ["push"]}, "written KIND:SHARE"),
        ({"contaminations": ["labels:0.1"]}, "contaminations must hold one that suits diabetes"),
        ({"learning_rates": [0]}, "learning_rates must be positive"),
        ({"seeds": 0}, "seeds must be an integer of at least 1"),
        ({"seeds": 1.5}, "seeds must be an integer"),
    ],
)
def test_bad_settings(change, message):
    with pytest.raises(ValueError, match=message):
        CompareSettings(**{**SMALL, **change})


def test_bad_files(tmp_path, capsys):
    path = tmp_path / "a.toml"
    path.write_text("color = 1\n")
    with pytest.raises(UsageError, match="unknown settings color; known settings are data"):
        read_settings(path)
    path.write_text("seeds = = 2")
    assert main(["compare", str(path)]) == 2
    assert "cannot be read" in capsys.readouterr().err


def test_a_robustifier_in_the_grammar_is_a_method():
    changes = {"data": ("iris",), "methods": ("plain mean", "krum:f=3"), "updates": 1}
    results = run_compare(CompareSettings(**{**SMALL, **changes}))
    assert method_of("krum:f=3").family == "robust gradients"
    assert results.cells["iris"].shape == (2, 2, 2, 2, 3)
