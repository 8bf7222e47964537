"""Edges of rows and ranks, models, optimizers, iterators: each program checks many things."""

from __future__ import annotations

import pytest


@pytest.mark.parametrize(
    ("program", "ranks", "least"),
    [("edges.py", 2, 60), ("training.py", 3, 50)],
)
def test_program(run_ranks, program, ranks, least):
    done = run_ranks(ranks, program)
    assert int(done.stdout.split()[0]) >= least
