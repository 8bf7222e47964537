"""Data, contaminations and scales of the comparison."""

import numpy as np
import pytest

from chainrob.experiments.compare.corruption import CORRUPTIONS, corrupt
from chainrob.experiments.compare.data_sources import DATA, parse_data
from chainrob.experiments.compare.problems import make_problem, scaled
from chainrob.experiments.compare.train_cell import train_cell


@pytest.mark.parametrize("data", DATA)
def test_contamination_hits_its_share_of_training_and_validation_points_alone(data):
    clean = make_problem(data, "none", 3)
    task = "classification" if DATA[data].classification else "regression"
    for kind, corruption in CORRUPTIONS.items():
        if not getattr(corruption, task):
            continue
        bad = make_problem(data, f"{kind}:0.2", 3)
        np.testing.assert_array_equal(clean.x_test, bad.x_test)
        np.testing.assert_array_equal(clean.t_test, bad.t_test)
        for part in ("train", "validation"):
            moved = np.zeros(len(getattr(clean, f"t_{part}")), bool)
            for field in (f"x_{part}", f"t_{part}"):
                changed = getattr(clean, field) != getattr(bad, field)
                moved |= changed.reshape(len(moved), -1).any(axis=1)
            share = 0.2 * len(moved)
            least = 0.5 if kind == "outliers" else 0.99  # where no feature is hit nothing moves
            assert least * (share - 0.6) <= moved.sum() <= share + 0.6, (kind, part)


def test_parts_are_disjoint_and_make_up_the_data():
    problem = make_problem("wine", "none", 0)
    parts = [problem.x_train, problem.x_validation, problem.x_test]
    assert [len(part) for part in parts] == [106, 36, 36]
    assert len(np.unique(np.vstack(parts), axis=0)) == 178


def test_a_larger_share_has_the_points_of_a_smaller_one():
    x, t = np.random.default_rng(0).normal(size=(50, 3)), np.arange(50) % 3
    seed = np.random.SeedSequence(1)
    few, many = (corrupt(f"labels:{s}", x, t, seed)[1] != t for s in (0.1, 0.3))
    assert (few <= many).all()
    assert corrupt("labels:0.001", x, t, seed)[1] is t


@pytest.mark.parametrize("how", ["robust", "standard", "clipped=2"])
def test_inputs_are_scaled_by_the_contaminated_training_points(how):
    problem = make_problem("wine", "push:0.1", 0)
    train, _, test = scaled(problem, how)
    assert train.dtype == np.float32
    if how == "standard":
        np.testing.assert_allclose(train.std(axis=0), 1, rtol=1e-4)
    else:
        low, middle, high = np.quantile(train, (0.25, 0.5, 0.75), axis=0)
        np.testing.assert_allclose(middle, 0, atol=1e-5)
        np.testing.assert_allclose(high - low, 1.349, rtol=1e-4)
    if how == "clipped=2":
        assert max(np.abs(train).max(), np.abs(test).max()) <= 2
    moved = problem._replace(x_test=problem.x_test + 1e6)
    np.testing.assert_array_equal(scaled(moved, how)[0], train)


def test_own_files(tmp_path):
    rng = np.random.default_rng(0)
    x, t = rng.normal(size=(40, 3)), rng.integers(0, 2, 40)
    np.savez(tmp_path / "own.npz", x=x, t=t)
    lines = ["a,price,b", *(f"{r[0]},{r[1]},{r[2]}" for r in x)]
    (tmp_path / "own.csv").write_text("\n".join(lines) + "\n")
    found = parse_data(f"{tmp_path / 'own.npz'}:network=mlp4:batch=8")
    assert (found.classification, found.network, found.batch) == (True, "mlp4", 8)
    text = f"{tmp_path / 'own.csv'}:target=price"
    assert not parse_data(text).classification
    np.testing.assert_allclose(parse_data(text).load().t, x[:, 1])
    assert train_cell(text, "plain mean", 0, ["none"], [0.1], 2).shape == (1, 1, 3)
    (tmp_path / "names.csv").write_text("a,kind\n" + "1,cat\n2,dog\n" * 15)
    assert parse_data(str(tmp_path / "names.csv")).load().t.max() == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("iris:network=tree", "network must be linear, mlpN or cnnN, found 'tree'"),
        ("iris:network=cnn3", "a cnn needs images"),
        ("iris:batch=one", "batch must be an integer"),
        ("iris:target=a", "are only for files"),
        ("iris:rate=1", "unknown option rate"),
        ("missing.csv", "cannot be read"),
    ],
)
def test_data_that_cannot_be_used(text, message):
    with pytest.raises(ValueError, match=message):
        parse_data(text)
