"""Programs on several ranks, in one start of mpiexec, each of which checks many things."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

import chainrob


@pytest.mark.timeout(300)
def test_programs_on_two_three_and_four_ranks(run_ranks):
    lines = run_ranks(4, "together.py", timeout=280).stdout.splitlines()
    checks = {line.split(":")[0]: int(line.split()[1]) for line in lines}
    for ranks in (2, 3, 4):
        assert checks.pop(f"equality-{ranks}") >= 70
    assert checks.pop("edges-2") >= 60
    assert checks.pop("training-3") >= 50
    assert not checks


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
