from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chainrob.datasets.contamination import choose_rows, flip_labels, flip_labels_by_class


@given(
    st.integers(1, 60),
    st.integers(2, 12),
    st.floats(0, 1),
    st.sampled_from(["symmetric", "pairwise"]),
    st.integers(0, 2**32),
    st.sampled_from([np.uint8, np.int32, np.int64]),
)
def test_every_named_label_is_wrong_and_every_other_one_is_right(n, c, share, kind, seed, dtype):
    t = np.random.default_rng(seed).integers(0, c, n).astype(dtype)
    before = t.copy()
    flipped = flip_labels(t, share, kind=kind, n_classes=c, seed=seed)
    np.testing.assert_array_equal(t, before)
    assert np.flatnonzero(flipped.data != t).tolist() == flipped.rows.tolist()
    assert flipped.rows.tolist() == choose_rows(n, share, seed).tolist()
    assert flipped.data.dtype == dtype
    assert flipped.data.min() >= 0
    assert flipped.data.max() < c
    if kind == "pairwise":
        assert (flipped.data[flipped.rows] == (t[flipped.rows].astype(int) + 1) % c).all()


def test_symmetric_flips_reach_every_wrong_class_equally_often():
    t = np.full(30_000, 2)
    counts = np.bincount(flip_labels(t, 1.0, n_classes=4, seed=0).data, minlength=4)
    assert counts[2] == 0
    assert abs(counts[[0, 1, 3]] / 30_000 - 1 / 3).max() < 0.015


def test_class_conditional_flips_follow_the_transition_matrix():
    transition = np.array([[0.7, 0.2, 0.1], [0.0, 1.0, 0.0], [0.5, 0.0, 0.5]])
    t = np.random.default_rng(0).integers(0, 3, 60_000)
    noisy = flip_labels_by_class(t, transition, seed=3)
    assert np.flatnonzero(noisy.data != t).tolist() == noisy.rows.tolist()
    found = np.array([np.bincount(noisy.data[t == j], minlength=3) for j in range(3)])
    found = found / found.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found, transition, atol=0.02)
    assert (found[transition == 0] == 0).all()


def test_a_matrix_whose_rows_add_up_to_a_hair_less_than_one_never_makes_a_new_class():
    third = np.full((3, 3), 1 / 3)
    noisy = flip_labels_by_class(np.zeros(10_000, int), third - 1e-9, seed=0)
    assert set(noisy.data.tolist()) == {0, 1, 2}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "circular"}, "kind must be"),
        ({"t": [0, 0]}, "n_classes must be at least 2, found 1"),
        (
            {"t": [0, 3], "n_classes": 3},
            "n_classes - 1 = 2, found labels from 0 to 3",
        ),
        ({"t": [-1, 1]}, "found labels from -1 to 1"),
        ({"t": [[0, 1]]}, r"shape \(n,\)"),
        ({"share": -0.1}, "share must be"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        flip_labels(**{"t": [0, 1], "share": 0.5, "seed": 0, **arguments})


@pytest.mark.parametrize("matrix", [[[0.5, 0.4], [0, 1]], [[1.5, -0.5], [0, 1]], [[1.0, 0.0]]])
def test_what_is_no_transition_matrix(matrix):
    with pytest.raises(ValueError, match="transition"):
        flip_labels_by_class([0, 1], matrix, seed=0)


def test_labels_must_be_integers():
    with pytest.raises(TypeError, match="t must hold integers, found dtype float64"):
        flip_labels([0.0, 1.0], 0.5, seed=0)


def test_labels_that_the_dtype_cannot_hold_are_refused():
    with pytest.raises(ValueError, match="int8"):
        flip_labels(np.zeros(9, np.int8), 0.5, n_classes=300, seed=0)
    with pytest.raises(TypeError, match=r"n_classes must be an integer, found 2.7"):
        flip_labels([0, 1, 1], 0.5, n_classes=2.7, seed=0)
