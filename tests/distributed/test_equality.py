"""The same estimate on more workers: every robustifier against one process."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

import chainrob


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_every_robustifier_equals_one_process(run_ranks, ranks):
    done = run_ranks(ranks, "equality.py")
    assert int(done.stdout.split()[0]) >= 70


def test_no_robustifier_is_left_out():
    path = Path(__file__).parent / "programs" / "cases.py"
    spec = importlib.util.spec_from_file_location("distributed_cases", path)
    cases = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(cases)
    used = {
        type(one)
        for robustifier in cases.ROBUSTIFIERS
        for one in (
            robustifier,
            *getattr(robustifier, "steps", ()),
            getattr(robustifier, "robustifier", None),
        )
    }
    missing = [
        name
        for name in chainrob.robustifiers.names()
        if not any(kind.__name__.lower() == name.replace("_", "") for kind in used)
    ]
    assert not missing
