import numpy as np
import pytest

from chainrob.datasets import load_iris
from chainrob.experiments.iris import initial_parameters, iris_settings, trial_data

SETTINGS = {name: iris_settings(name) for name in ("text", "released")}


@pytest.mark.parametrize("name", ["text", "released"])
def test_data_equal_components_and_scaling_written_out(name):
    settings = SETTINGS[name]
    data = trial_data(settings, 3)
    x, t = load_iris()[:2]
    # The split is recovered from the data themselves: rows are identified after the same maps.
    fit_rows = x
    if name == "text":
        order = np.random.default_rng(np.random.SeedSequence(0, spawn_key=(3, 0))).permutation(150)
        fit_rows = x[order[:100]]
    mean = fit_rows.mean(axis=0)
    directions = np.linalg.svd(fit_rows - mean, full_matrices=False)[2][:2]
    # A sign is a convention: the largest loading is positive. Whitening goes with the scaling.
    directions *= np.sign(directions[[0, 1], np.abs(directions).argmax(axis=1)])[:, None]
    z, fitted = (x - mean) @ directions.T, (fit_rows - mean) @ directions.T
    z = (z - fitted.min(axis=0)) / np.ptp(fitted, axis=0)
    ours = np.vstack([data.x_clean, data.x_test])
    classes = np.concatenate([data.t_train, data.t_test])
    key = np.lexsort((classes, *ours.T.round(9)))
    theirs = np.lexsort((t, *z.T.round(9)))
    np.testing.assert_allclose(ours[key], z[theirs], atol=1e-9)
    np.testing.assert_array_equal(classes[key], t[theirs])


def test_only_the_pushed_training_points_change_and_lie_where_they_should():
    data = trial_data(SETTINGS["released"], 0)
    assert len(data.pushed) == 2
    others = np.setdiff1d(np.arange(100), data.pushed)
    np.testing.assert_array_equal(data.x_train[others], data.x_clean[others])
    center = data.x_clean.mean(axis=0)
    distances = np.linalg.norm(data.x_clean - center, axis=1)
    away = np.linalg.norm(data.x_train[data.pushed] - center, axis=1)
    np.testing.assert_allclose(away, 1e4 * distances.std(), rtol=1e-10)


def test_trials_differ_and_depend_on_seed_and_number_alone():
    first = trial_data(SETTINGS["released"], 0)
    again = trial_data(iris_settings("released", trials=500, iterations=3), 0)
    for one, two in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, two)
    assert not np.array_equal(first.t_train, trial_data(SETTINGS["released"], 1).t_train)
    other_seed = trial_data(iris_settings("released", seed=1), 0)
    assert not np.array_equal(first.t_train, other_seed.t_train)


def test_contamination_leaves_split_and_weights_as_they_were():
    clean = iris_settings("released", contamination=0.0)
    np.testing.assert_array_equal(
        trial_data(clean, 5).x_train, trial_data(SETTINGS["released"], 5).x_clean
    )
    for (W, b), (W2, b2) in zip(
        initial_parameters(clean, 5), initial_parameters(SETTINGS["released"], 5), strict=True
    ):
        np.testing.assert_array_equal(W, W2)
        np.testing.assert_array_equal(b, b2)


def test_initial_weights_have_the_stated_distribution():
    uniform = [initial_parameters(SETTINGS["released"], trial) for trial in range(200)]
    values = np.concatenate([a.ravel() for one in uniform for layer in one for a in layer])
    assert np.abs(values).max() <= 0.05
    # 200 x 173 uniform numbers: the mean has deviation 1.6e-4, the variance 1% of itself.
    assert abs(values.mean()) < 7e-4
    assert values.var() == pytest.approx(0.1**2 / 12, rel=0.04)
    settings = iris_settings("text", initial_weights="lecun_normal")
    normal = [initial_parameters(settings, trial) for trial in range(200)]
    for layer, inputs in enumerate((2, 10, 10)):
        W = np.concatenate([one[layer][0].ravel() for one in normal])
        assert W.var() == pytest.approx(1 / inputs, rel=0.1)
        assert all((one[layer][1] == 0).all() for one in normal)
