import numpy as np
import pytest

from chainrob.datasets import random_split


def test_every_row_is_in_exactly_one_part():
    train, test = random_split(150, 100, seed=3)
    assert (len(train), len(test)) == (100, 50)
    assert sorted([*train, *test]) == list(range(150))


def test_seeded():
    np.testing.assert_array_equal(random_split(9, 4, 7).train, random_split(9, 4, 7).train)
    assert any(
        random_split(9, 4, seed).train.tolist() != random_split(9, 4, 7).train.tolist()
        for seed in range(5)
    )


def test_every_split_is_equally_likely():
    counts = {}
    for seed in range(3000):
        key = tuple(sorted(random_split(4, 2, seed).train.tolist()))
        counts[key] = counts.get(key, 0) + 1
    assert len(counts) == 6
    # Chi-squared with 5 degrees of freedom: 20.5 is its 99.9% point, and the seeds are fixed.
    assert sum((c - 500) ** 2 / 500 for c in counts.values()) < 20.5


@pytest.mark.parametrize("n_train", [0, 5, -1, 6])
def test_empty_parts_are_refused(n_train):
    with pytest.raises(
        ValueError, match=f"n_train must be between 1 and n - 1 = 4, found {n_train}"
    ):
        random_split(5, n_train, 0)
