import csv

import numpy as np
import pytest

from chainrob.experiments import UsageError
from chainrob.experiments.iris import IrisResults, iris_settings, published_figure4
from chainrob.experiments.iris.trial_errors import COLUMNS


@pytest.fixture
def results():
    settings = iris_settings(trials=3, iterations=25, record_every=10)
    rng = np.random.default_rng(0)
    errors = {
        method: np.stack(
            [rng.integers(0, 101, (3, 4)) / 100, rng.integers(0, 51, (3, 4)) / 50], axis=-1
        )
        for method in ("deep", "deep-rob")
    }
    return IrisResults(settings, errors)


def test_csv_holds_every_error_once_and_exactly(results, tmp_path):
    results.write_csv(tmp_path / "curves.csv")
    with (tmp_path / "curves.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    assert len(rows) == 2 * 3 * 4
    for row in rows:
        time = [0, 10, 20, 25].index(int(row["iteration"]))
        train, test = results.errors[row["method"]][int(row["trial"]), time]
        assert int(row["cost_in_gradients"]) == 100 * int(row["iteration"])
        assert (float(row["train_error"]), float(row["test_error"])) == (train, test)


def test_csv_round_trip(results, tmp_path):
    results.write_csv(tmp_path / "curves.csv")
    again = IrisResults.read_csv(tmp_path / "curves.csv", results.settings)
    for method, errors in results.errors.items():
        np.testing.assert_array_equal(again.errors[method], errors)
    again.write_csv(tmp_path / "again.csv")
    assert (tmp_path / "again.csv").read_bytes() == (tmp_path / "curves.csv").read_bytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: lines[:-1], "does not hold every row once"),
        (lambda lines: [*lines, lines[-1]], "does not hold every row once"),
        (lambda lines: [lines[0], lines[1].replace("deep", "dep"), *lines[2:]], "is damaged"),
        (lambda lines: [lines[0], lines[1] + "x", *lines[2:]], "is damaged"),
        (lambda lines: [lines[0], "deep,7,0,0,0.1,0.1", *lines[2:]], "is damaged"),
        (lambda lines: lines[1:], "is damaged"),
        (lambda lines: [], "does not hold every row"),
    ],
)
def test_damaged_csv_is_refused(results, tmp_path, change, message):
    file = tmp_path / "curves.csv"
    results.write_csv(file)
    file.write_text("\n".join(change(file.read_text().splitlines())))
    with pytest.raises(UsageError, match=message):
        IrisResults.read_csv(file, results.settings)


def test_final_values_and_the_last_line(results):
    final = results.final()
    last = results.errors["deep"][:, -1, 1]
    assert final["deep"]["mean"] == pytest.approx(last.mean())
    low, high = final["deep"]["interval"]
    assert last.min() <= low < last.mean() < high <= last.max()
    assert final["deep"]["published"] is None  # 25 iterations are not the published settings
    line = results.last_line()
    assert line.startswith("test error after 25 iterations (3 trials, 95% bootstrap intervals")
    assert f"deep {last.mean():.3f} [{low:.3f}, {high:.3f}], deep-rob" in line
    assert "published" not in line


def test_one_trial_has_no_interval():
    results = IrisResults(
        iris_settings(trials=1, record_every=1000),
        {"deep": np.full((1, 2, 2), 0.5), "deep-rob": np.full((1, 2, 2), 1.0)},
    )
    final = results.final()
    assert final["deep"]["published"] == 0.3946
    assert final["deep"]["interval"] is None
    assert (final["deep"]["trials_that_diverged"], final["deep-rob"]["trials_that_diverged"]) == (
        0,
        1,
    )
    assert "(1 trial): deep 0.500 (published 0.395), deep-rob 1.000" in results.last_line()


def test_published_curves():
    curves = published_figure4()
    assert set(curves) == {(m, p) for m in ("deep", "deep-rob") for p in ("train", "test")}
    for curve in curves.values():
        assert len(curve.cost_in_gradients) == len(curve.error) > 270
        assert (np.diff(curve.cost_in_gradients) > 0).all()
        assert ((curve.error >= 0) & (curve.error <= 1)).all()
