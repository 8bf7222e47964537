from dataclasses import replace

import numpy as np
import pytest
from matplotlib.patches import Circle

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


def test_figure3_draws_every_point_the_ball_and_the_push_of_ten_deviations():
    settings = iris_settings("released")
    projected, clean, pushed = figure3(settings, trial=2).axes
    data = trial_data(iris_settings("released", push=10.0), 2)
    for ax, points in ((projected, data.projected), (clean, data.x_clean), (pushed, data.x_train)):
        drawn = np.vstack([one.get_offsets() for one in ax.collections[:3]])
        np.testing.assert_allclose(sorted(drawn.tolist()), sorted(points.tolist()))
    assert data.projected.shape == (150, 2)
    np.testing.assert_allclose(clean.collections[3].get_offsets(), data.x_clean[data.pushed])
    assert "k = 10" in pushed.get_title()
    for ax in (clean, pushed):
        (ball,) = [one for one in ax.patches if isinstance(one, Circle)]
        np.testing.assert_allclose(ball.center, data.x_clean.mean(axis=0))
        on_it = np.linalg.norm(data.x_train[data.pushed] - ball.center, axis=1)
        np.testing.assert_allclose(on_it, ball.radius, rtol=1e-12)
        assert ax.get_xlim()[0] < ball.center[0] - ball.radius
        assert ax.get_ylim()[1] > ball.center[1] + ball.radius


def test_the_projection_is_what_is_scaled():
    """The scaled points are the projected ones, moved and stretched along each axis."""
    for name in ("text", "released"):
        settings = iris_settings(name)
        data = trial_data(settings, 1)
        scaled = np.vstack((data.x_clean, data.x_test))
        for axis in range(2):
            order = [np.sort(one[:, axis]) for one in (data.projected, scaled)]
            stretch = [(one - one[0]) / (one[-1] - one[0]) for one in order]
            np.testing.assert_allclose(*stretch, atol=1e-9)


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
