"""What the manual's table of robustifiers says is so."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import chainrob
from chainrob import robustifiers

TABLE = Path(__file__).parents[2] / "docs" / "reference" / "robustifiers.md"
ROWS = {}
for line in TABLE.read_text(encoding="utf-8").splitlines():
    named = re.match(r"\| \{py:class\}`~chainrob\.robustifiers\.(\w+)` \|", line)
    if named:
        ROWS[named.group(1)] = [cell.strip() for cell in line.strip("| ").split(" | ")]

N = 11
BY_HAND = {
    "ClipNorm": lambda: chainrob.ClipNorm(1.0),
    "Grouped": lambda: robustifiers.Grouped(chainrob.GeometricMedian()),
}


def make(name: str):
    cls = getattr(robustifiers, name)
    made = BY_HAND[name]() if name in BY_HAND else robustifiers.default(name, N, 0.1)
    assert isinstance(made, cls)
    return made >> chainrob.Mean() if isinstance(made, robustifiers.PreAggregation) else made


def test_every_registered_robustifier_stands_in_the_table():
    known = {type(make(name)).__name__ for name in ROWS} - {"Pipeline"}
    assert known <= set(ROWS)
    short = {name.lower() for name in ROWS}
    assert {name for name in robustifiers.names() if name.replace("_", "") not in short} == set()


@pytest.mark.parametrize("name", ROWS)
def test_derivative_is_there_where_the_table_says_so(name):
    """The last column but one, or the last one of pre-aggregations."""
    says = [cell for cell in ROWS[name][-2:] if cell in ("yes", "no")]
    assert len(says) == 1, ROWS[name]
    rows = np.random.default_rng(0).normal(size=(N, 3))
    groups, losses = np.arange(N) % 2, rows[:, 0] ** 2
    with robustifiers.sample_facts(groups=groups, losses=losses):
        if says == ["yes"]:
            (cotangent,) = make(name).pullback(rows, np.ones(3))
            assert np.isfinite(cotangent).all()
        else:
            with pytest.raises(chainrob.NotDifferentiableError):
                make(name).pullback(rows, np.ones(3))


@pytest.mark.parametrize("name", ROWS)
def test_breakdown_is_not_sooner_than_the_table_says(name):
    """One bad row of eleven: those that break down at the first one, and no others."""
    if len(ROWS[name]) < 6:
        pytest.skip("a pre-aggregation has no breakdown point of its own")
    made = make(name)
    first = ROWS[name][2].startswith("1 row") and getattr(made, "pilot", "mean") == "mean"
    rows = np.random.default_rng(0).normal(size=(N, 3))
    bad = rows.copy()
    bad[5] = 1e9
    facts = {"groups": np.zeros(N, int), "losses": (bad**2).sum(axis=1)}
    with robustifiers.sample_facts(**facts):
        moved = float(np.abs(made(bad)).max())
    if first and name != "DnC":  # which only breaks down at two rows in two directions
        assert moved > 1e6
    else:
        assert moved < 10
