import numpy as np
import pytest

from chainrob.datasets.contamination import choose_rows


@pytest.mark.parametrize(
    ("n", "share", "count"),
    [(100, 0.02, 2), (100, 0.0, 0), (100, 1.0, 100), (100, 0.145, 15), (30, 0.05, 2), (7, 0.07, 0)],
)
def test_counts_round_halves_up(n, share, count):
    rows = choose_rows(n, share, 5)
    assert len(set(rows.tolist())) == len(rows) == count
    assert np.isin(rows, np.arange(n)).all()


def test_choices_are_seeded_and_nested():
    np.testing.assert_array_equal(choose_rows(50, 0.1, 1), choose_rows(50, 0.1, 1))
    assert set(choose_rows(50, 0.1, 1)) < set(choose_rows(50, 0.3, 1))


def test_every_row_is_equally_likely():
    counts = np.bincount(
        np.concatenate([choose_rows(10, 0.2, seed) for seed in range(2000)]), minlength=10
    )
    # Chi-squared with 9 degrees of freedom, 99.9% point 27.9; fixed seeds.
    assert ((counts - 400) ** 2 / 400).sum() < 27.9


@pytest.mark.parametrize("share", [-0.01, 1.01, float("nan")])
def test_share_outside_the_unit_interval_is_refused(share):
    with pytest.raises(ValueError, match="share must be between 0 and 1"):
        choose_rows(10, share, 0)
