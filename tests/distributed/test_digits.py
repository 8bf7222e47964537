"""The command ``chainrob digits --distributed``, ranks that die, and going on without them."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from chainrob import cli
from tests.distributed.mpi import start

SETTINGS = ("--quiet", "--epochs", "4", "--batch-size", "240", "--learning-rate", "0.05")
OPTIONS = (*SETTINGS, "--checkpoint-every", "4")
ITERATIONS = 24


def difference(a: Path, b: Path) -> float:
    """Largest difference between two trained models."""
    with np.load(a / "model.npz") as one, np.load(b / "model.npz") as other:
        assert set(one.files) == set(other.files)
        return max(float(np.abs(one[name] - other[name]).max()) for name in one.files)


def wait_for(condition, process, timeout=60.0):
    """Wait until something has happened while the process runs."""
    end = time.monotonic() + timeout
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture(scope="module")
def on_one_process(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one")
    assert cli.main(["digits", *SETTINGS, "--out", str(folder)]) == 0
    return folder


def test_two_ranks_learn_what_one_process_learns(run_ranks, on_one_process, tmp_path):
    done = run_ranks(2, "-m chainrob digits --distributed", "--out", str(tmp_path), *OPTIONS)
    assert "on 2 ranks" in done.stdout.splitlines()[-1]
    summary = json.loads((tmp_path / "summary.json").read_text())
    alone = json.loads((on_one_process / "summary.json").read_text())
    assert summary["accuracy"] == alone["accuracy"] > 0.8
    assert difference(tmp_path, on_one_process) < 1e-5
    assert not list(tmp_path.glob("digits.*"))  # checkpoints of a run that is complete


def test_killed_rank_ends_the_run_and_nothing_is_lost(run_ranks, on_one_process, tmp_path):
    pytest.importorskip("mpi4py")
    folder = tmp_path / "killed"
    arguments = ("none", "0", "0", str(folder), *OPTIONS)
    process = start(3, "digits.py", *arguments)
    try:
        wait_for(lambda: len(list(folder.glob("digits.?.4"))) == 3, process)
        time.sleep(random.uniform(0.0, 0.2))  # any moment will do
        victim = random.randrange(3)
        os.kill(int((folder / f"process{victim}").read_text()), signal.SIGKILL)
        began = time.monotonic()
        said = "".join(process.communicate(timeout=30))
        assert time.monotonic() - began < 15
    finally:
        process.kill()
    assert process.returncode != 0
    assert "KILLED BY SIGNAL: 9" in said or "signal 9" in said, said
    assert not (folder / "model.npz").exists()
    # The other two go on by themselves.
    kept = max(int(file.name.split(".")[2]) for file in folder.glob("digits.0.*"))
    run_ranks(2, "digits.py", "none", "0", "0", str(folder), *OPTIONS, "--resume")
    assert [int((folder / f"began{rank}").read_text()) for rank in range(2)] == [kept] * 2
    assert difference(folder, on_one_process) < 1e-5
    log = json.loads((folder / "log").read_text())
    assert [entry["iteration"] for entry in log] == [6, 12, 18, ITERATIONS]


@pytest.mark.parametrize("failure", ["raise", "exit"])
def test_failed_rank_ends_the_run_with_a_message(run_ranks, on_one_process, tmp_path, failure):
    # Every rank has a folder of its own, as machines without a common disk have.
    folders = str(tmp_path / "rank{rank}")
    done = run_ranks(2, "digits.py", failure, "1", "14", folders, *OPTIONS, status=None)
    assert time.time() - float((tmp_path / "rank1" / "failed").read_text()) < 15
    assert done.returncode != 0
    assert "chainrob: rank 1 of 2" in done.stderr
    assert "the disk of this rank is gone" in done.stderr or failure == "exit"
    assert "from the last checkpoint" in done.stderr
    # The failed rank's files are still there; but now a new machine takes its place.
    assert (tmp_path / "rank1" / "digits.1.12").exists()
    if failure == "exit":
        return
    shutil.rmtree(tmp_path / "rank1")
    done = run_ranks(2, "digits.py", "none", "0", "0", folders, *OPTIONS, "--resume")
    assert [(tmp_path / f"rank{r}" / f"began{r}").read_text() for r in range(2)] == ["12", "12"]
    assert difference(tmp_path / "rank0", on_one_process) < 1e-5


def test_bad_options_end_with_one_line(capsys):
    for options, words in (
        (["--epochs", "0"], "epochs must be at least 1, found 0"),
        (["--flips", "1"], "flips must lie in [0, 1)"),
        (["--batch-size", "2000"], "batch_size must not exceed 1437"),
        (["--robustifier", "l9=mean"], "l9"),
        (["--checkpoint-every", "0"], "checkpoint-every"),
    ):
        assert cli.main(["digits", *options]) == 2
        error = capsys.readouterr().err
        assert error.startswith("chainrob digits: error: ")
        assert words in error
        assert error.count("\n") == 1
