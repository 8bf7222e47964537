from dataclasses import replace

import numpy as np
import pytest

from chainrob.experiments.iris import (
    IrisResults,
    figure3,
    figure4,
    iris_settings,
    published_figure4,
    trial_data,
)


def some_results(trials, iterations=1000):
    settings = iris_settings("released", trials=trials, iterations=iterations, record_every=100)
    rng = np.random.default_rng(0)
    shape = (trials, len(settings.recorded), 2)
    return IrisResults(settings, {m: rng.uniform(0.2, 0.9, shape) for m in ("deep", "deep-rob")})


def test_figure3_draws_every_point_and_the_push_of_ten_deviations():
    settings = iris_settings("released")
    test, clean, pushed = figure3(settings, trial=2).axes
    data = trial_data(iris_settings("released", push=10.0), 2)
    for ax, points in ((test, data.x_test), (clean, data.x_clean), (pushed, data.x_train)):
        drawn = np.vstack([one.get_offsets() for one in ax.collections[:3]])
        np.testing.assert_allclose(sorted(drawn.tolist()), sorted(points.tolist()))
    np.testing.assert_allclose(clean.collections[3].get_offsets(), data.x_clean[data.pushed])
    assert "k = 10" in pushed.get_title()


@pytest.mark.parametrize(("trials", "bands"), [(1, 0), (20, 2), (30, 4)])
def test_figure4_draws_means_bands_and_the_published_curves(trials, bands):
    results = some_results(trials)
    figure = figure4(results)
    published = published_figure4()
    assert len(figure.axes) == 2
    for part, (ax, name) in enumerate(zip(figure.axes, ("train", "test"), strict=True)):
        lines = {line.get_label(): line for line in ax.lines}
        for method in ("deep", "deep-rob"):
            expected = results.errors[method][:, :, part].mean(axis=0)
            np.testing.assert_allclose(lines[method].get_ydata(), expected)
            np.testing.assert_array_equal(lines[method].get_xdata(), results.costs)
            np.testing.assert_array_equal(
                lines[f"{method}, published"].get_ydata(), published[method, name].error
            )
        assert len(ax.collections) == bands
        # Nothing is cut off.
        assert ax.get_ylim()[0] == 0
        top = max(np.max(line.get_ydata()) for axis in figure.axes for line in axis.lines)
        assert ax.get_ylim()[1] >= top


def test_published_curves_stand_only_beside_published_settings():
    assert iris_settings("text", seed=3, trials=7).is_published()
    assert not iris_settings("released", push=100.0).is_published()
    assert not iris_settings("released", iterations=10).is_published()
    assert iris_settings("released", iterations=10).is_published(whole=False)
    changed = replace(some_results(2).settings, contamination=0.1)
    figure = figure4(IrisResults(changed, some_results(2).errors))
    labels = [line.get_label() for ax in figure.axes for line in ax.lines]
    assert not any("published" in label for label in labels)


def test_figure4_of_a_short_run_ends_where_the_run_ends():
    axes = figure4(some_results(2, iterations=100)).axes
    assert all(ax.get_xlim() == (0, 10_000) for ax in axes)
    assert figure4(some_results(1, iterations=0)).axes
