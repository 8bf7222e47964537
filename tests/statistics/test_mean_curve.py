import numpy as np
import pytest

from chainrob.statistics import mean_curve_test

TIMES = np.arange(0, 1000, 25)


def trials(rng, n):
    """Curves that fall to 0.05 or stay at 0.7, smooth in time."""
    learns = rng.random((n, 1)) < 0.6
    speed = rng.uniform(100, 400, (n, 1))
    return np.where(learns, 0.05 + 0.65 * np.exp(-TIMES / speed), 0.7)


def test_p_values_of_true_curves_are_spread_evenly():
    rng = np.random.default_rng(0)
    p = [
        mean_curve_test(
            TIMES, trials(rng, 400), TIMES, trials(rng, 20).mean(axis=0), size=20, resamples=400
        ).p_value
        for _ in range(150)
    ]
    # The rule "p < 0.05" should refuse about one true curve in twenty: 2 to 16 of 150.
    assert 2 <= np.sum(np.array(p) < 0.05) <= 16
    assert 0.4 < np.mean(p) < 0.6


def test_a_curve_elsewhere_is_refused_and_the_worst_point_named():
    rng = np.random.default_rng(1)
    ours = trials(rng, 200)
    curve = ours[:20].mean(axis=0)
    curve[30] -= 0.5
    found = mean_curve_test(TIMES, ours, TIMES, curve, size=20)
    assert 0 < found.p_value < 0.05
    assert found.worst == 30
    assert found.inside == pytest.approx(39 / 40, abs=0.06)


def test_reading_errors_are_granted_in_both_directions():
    rng = np.random.default_rng(2)
    ours = np.exp(-TIMES / 50) + 1e-4 * rng.normal(size=(100, len(TIMES)))
    late = np.exp(-(TIMES - 10) / 50)  # read 10 too far to the right
    strict = mean_curve_test(TIMES, ours, TIMES[1:], late[1:], size=20)
    granted = mean_curve_test(TIMES, ours, TIMES[1:], late[1:], size=20, x_error=12, y_error=0.02)
    assert strict.p_value < 0.01
    assert strict.inside < 0.9
    assert granted.p_value > 0.5
    assert granted.inside == 1


def test_points_outside_the_run_are_left_out():
    ours = trials(np.random.default_rng(3), 50)
    x = np.append(TIMES, [5000])
    y = np.append(ours.mean(axis=0), [9.0])
    assert mean_curve_test(TIMES, ours, x, y, size=20).p_value > 0.9
    with pytest.raises(ValueError, match="between 0 and 975"):
        mean_curve_test(TIMES, ours, [5000], [0.1], size=20)
