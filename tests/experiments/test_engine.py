"""A run: what it keeps, what it says of itself, and options from settings."""

import argparse
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pytest

from chainrob.experiments import UsageError
from chainrob.experiments.engine import Run, flat_record
from chainrob.experiments.jobs import Job
from chainrob.experiments.options import add_run_options, add_settings, described, given, made
from chainrob.experiments.versions import blas


@dataclass(frozen=True)
class Settings:
    """Some settings.

    Args:
        number: How many there
            are of them.
        texts: Several words, 100% free.
        rates: Of learning.
        kind: Which one.
    """

    number: int = 3
    texts: tuple[str, ...] = ()
    rates: tuple[float, ...] = (0.1, 0.2)
    kind: Literal["a", "b"] = "a"

    def __post_init__(self):
        if self.number < 1:
            raise ValueError(f"number must be at least 1, found {self.number}")


NAMES = ("number", "texts", "rates", "kind")


def parser():
    made_here = argparse.ArgumentParser()
    add_settings(made_here, Settings, NAMES, repeated=["texts"])
    add_run_options(made_here, "results/here")
    return made_here


def test_options_follow_from_the_fields():
    assert described(Settings)["number"] == "how many there are of them"
    args = parser().parse_args(
        ["--number", "5", "--texts", "x", "--texts", "y z", "--rates", "1", "2", "--kind", "b"]
    )
    assert Settings(**given(args, NAMES)) == Settings(5, ("x", "y z"), (1.0, 2.0), "b")
    assert given(parser().parse_args([]), NAMES) == {}
    text = parser().format_help()
    for said in ("default: 3", "default: 0.1 0.2", "100% free (default: empty)", "results/here"):
        assert said in " ".join(text.split())


@pytest.mark.parametrize("line", [["--number", "many"], ["--kind", "c"], ["--rates", "fast"]])
def test_bad_options_are_refused(line, capsys):
    with pytest.raises(SystemExit):
        parser().parse_args(line)
    assert line[0] in capsys.readouterr().err


def test_what_settings_refuse_is_the_users_to_put_right():
    with pytest.raises(UsageError, match="number must be at least 1, found 0"):
        made(Settings, number=0)


def doubled(value):
    return np.array([2.0 * value])


def test_a_run_takes_over_what_was_finished(tmp_path):
    jobs = [Job(f"job-{i}", (i,)) for i in range(4)]
    first = Run({"seed": 0}, tmp_path)
    assert first.compute(doubled, jobs[:2], "part")["job-1"].tolist() == [2.0]
    again = Run({"seed": 0}, tmp_path, resume=True)
    calls = []

    def counted(value):
        calls.append(value)
        return doubled(value)

    found = again.compute(counted, jobs, "part")
    assert calls == [2, 3]
    assert [found[job.name][0] for job in jobs] == [0, 2, 4, 6]
    assert again.record()["parts from an earlier run"] == 2
    with pytest.raises(UsageError, match="seed was 0, now 1"):
        Run({"seed": 1}, tmp_path, resume=True)


def test_a_stepwise_job_advances_the_bar_itself(capsys):
    def stepwise(count, advance):
        for _ in range(count):
            advance(1)
        return np.zeros(1)

    Run({}, progress=True).compute(stepwise, [Job("a", (3,), 3)], "step", stepwise=True)
    assert "3/3" in capsys.readouterr().err


def test_the_record_says_what_the_numbers_depend_on():
    run = Run({"seed": 0}, workers=1)
    record = run.record()
    assert record["blas"] == blas()
    assert record["machine"]
    assert flat_record(record)["version of numpy"] == np.__version__
    section = run.section(record, "More.")
    assert "same BLAS kernel" in section.blocks[0].text
    assert section.blocks[0].text.endswith("More.")
    assert ["setting: seed", "0"] in section.blocks[1].rows


def test_what_cannot_work_is_said_before_anything_is_written(tmp_path):
    for options, message in (
        ({"workers": 0}, "workers must be at least 1"),
        ({"device": "gpu"}, "must be @numpy or @cupy:N"),
    ):
        with pytest.raises(UsageError, match=message):
            Run({}, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()
