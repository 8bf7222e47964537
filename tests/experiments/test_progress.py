"""Progress in a pipe: a line now and then, with the remaining time."""

import re

import pytest

from chainrob.experiments import progress
from chainrob.experiments.progress import LineProgress, progress_bar, skip


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test sets."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_lines_come_at_intervals_and_tell_the_remaining_time(capsys, clock):
    with LineProgress(12, "trial", 60.0, last=False) as bar:
        for _ in range(12):
            clock[0] += 25
            bar.update()
    # After 25, 50, 75 (first line), ... seconds; the next ones 75 seconds later each.
    assert capsys.readouterr().err.splitlines() == [
        "3/12 trials (25%) in 01:15, about 03:45 left",
        "6/12 trials (50%) in 02:30, about 02:30 left",
        "9/12 trials (75%) in 03:45, about 01:15 left",
    ]


def test_parts_of_an_earlier_run_do_not_enter_the_remaining_time(capsys, clock):
    with LineProgress(10, "part", 10.0, last=True) as bar:
        skip(bar, 8)
        clock[0] += 20
        bar.update()
        clock[0] += 20
        bar.update()
    assert capsys.readouterr().err.splitlines() == [
        "9/10 parts (90%) in 00:20, about 00:20 left",
        "10/10 parts (100%) in 00:40",
    ]


@pytest.mark.parametrize(("show", "last"), [(None, False), (True, True)])
def test_without_a_terminal_there_are_lines(capsys, show, last):
    with progress_bar(3, "step", show) as bar:
        bar.update(3)
    found = capsys.readouterr().err
    assert bool(re.fullmatch(r"3/3 steps \(100%\) in 00:00\n", found)) == last


def test_on_a_terminal_there_is_a_bar(capsys, monkeypatch):
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: True)
    with progress_bar(3, "step") as bar:
        skip(bar, 1)
        bar.update(2)
    assert "3/3" in capsys.readouterr().err
    with progress_bar(3, "step", show=False) as bar:
        skip(bar, 1)
        bar.update(2)
    assert capsys.readouterr().err == ""
