import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chainrob.datasets.contamination import choose_rows, push_inputs, push_random_inputs


@settings(deadline=None, max_examples=60)
@given(
    st.integers(2, 40),
    st.integers(1, 4),
    st.floats(0.01, 1e6),
    st.integers(0, 2**32 - 1),
)
def test_a_pushed_point_lies_k_deviations_away_on_the_opposite_side(n, d, k, seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d)) * 10.0 ** rng.integers(-3, 4)
    rows = rng.permutation(n)[: rng.integers(1, n + 1)]
    before = x.copy()
    pushed = push_inputs(x, rows, k)
    np.testing.assert_array_equal(x, before)
    center = x.mean(axis=0)
    distances = np.sqrt(((x - center) ** 2).sum(axis=1))
    sigma = np.sqrt(np.mean((distances - distances.mean()) ** 2))
    for i in range(n):
        if i not in rows:
            np.testing.assert_array_equal(pushed[i], x[i])
            continue
        away = pushed[i] - center
        scale = np.abs(x).max() + k * sigma
        assert np.linalg.norm(away) == pytest.approx(k * sigma, rel=1e-9, abs=1e-9 * scale)
        direction = -(x[i] - center) / distances[i]
        np.testing.assert_allclose(away, k * sigma * direction, atol=1e-9 * scale)


def test_k_zero_moves_the_point_to_the_center():
    x = np.array([[0.0, 0.0], [2.0, 0.0], [0.0, 5.0]])
    np.testing.assert_allclose(push_inputs(x, [1], 0)[1], x.mean(axis=0))


def test_no_rows_changes_nothing():
    x = np.arange(6.0).reshape(3, 2)
    np.testing.assert_array_equal(push_inputs(x, [], 10.0), x)


@pytest.mark.parametrize(
    ("x", "rows", "k", "message"),
    [
        (np.ones(3), [0], 1.0, r"shape \(n, d\)"),
        (np.ones((0, 2)), [], 1.0, "not be empty"),
        (np.eye(2), [0], -1.0, "k must be finite and not negative, found -1"),
        (np.eye(2), [0], np.inf, "k must be finite"),
        (np.eye(2), [2], 1.0, "rows must be between 0 and n - 1 = 1"),
        (np.eye(2), [-1], 1.0, "rows must be between 0"),
        (np.eye(2), [1, 1], 1.0, "not name a row twice"),
        (np.array([[-1.0], [0.0], [1.0]]), [1], 1.0, r"rows \[1\] lie at the center"),
    ],
)
def test_bad_input_is_named(x, rows, k, message):
    with pytest.raises(ValueError, match=message):
        push_inputs(x, rows, k)


def test_a_random_push_moves_the_rows_it_names_and_no_other():
    x = np.random.default_rng(0).normal(size=(50, 3))
    pushed = push_random_inputs(x, 0.1, 10, seed=3)
    assert pushed.rows.tolist() == choose_rows(50, 0.1, seed=3).tolist()
    np.testing.assert_array_equal(pushed.data, push_inputs(x, pushed.rows, 10))
    assert np.flatnonzero((pushed.data != x).any(axis=1)).tolist() == pushed.rows.tolist()
