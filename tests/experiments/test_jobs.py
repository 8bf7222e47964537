"""Jobs: the same results on any number of processes, kept, and never left behind."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from chainrob.experiments import UsageError
from chainrob.experiments.jobs import Job, check_workers, run_jobs
from chainrob.experiments.partial import PartialResults


def draw(seed):
    return np.random.default_rng(seed).normal(size=(40, 40)) @ np.ones((40, 3))


def draw_or_fail(seed, folder):
    """Numbers of a seed and the process that drew them; 3 fails once the others are kept."""
    if seed == 3:
        wait_for(lambda: len(list(folder.glob("partial/[012].npy"))) == 3)
        raise RuntimeError("three")
    return np.append(draw(seed).ravel(), os.getpid())


def fails_on_two(n):
    if n == 2:
        raise RuntimeError("two")
    return np.array(n)


def test_workers_compute_what_one_process_computes_until_one_fails(tmp_path):
    kept = PartialResults(tmp_path, {}, resume=True)
    jobs = [Job(str(seed), (seed, tmp_path)) for seed in range(4)]
    with pytest.raises(RuntimeError, match="three"):
        run_jobs(draw_or_fail, jobs, kept=kept, workers=2)
    for seed in range(3):
        numbers = kept.load(str(seed))
        np.testing.assert_array_equal(numbers[:-1], run_jobs(draw, [Job("", (seed,))])[""].ravel())
        assert int(numbers[-1]) != os.getpid()


def test_finished_jobs_are_kept_and_taken_over(tmp_path):
    kept = PartialResults(tmp_path, {}, resume=True)
    jobs = [Job(str(n), (n,)) for n in (1, 2, 3)]
    with pytest.raises(RuntimeError, match="two"):
        run_jobs(fails_on_two, jobs, kept=kept)
    assert kept.load("1") == 1
    assert kept.load("2") is None
    kept.save("2", np.array(20))
    again = run_jobs(fails_on_two, jobs, kept=kept)
    assert {name: int(value) for name, value in again.items()} == {"1": 1, "2": 20, "3": 3}


def test_jobs_of_one_name_are_computed_once():
    jobs = [Job("same", (1,)), Job("same", (1,))]
    assert list(run_jobs(draw, jobs)) == ["same"]


def test_workers_leave_when_the_parent_is_killed(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        "import os, pathlib, sys, time\n"
        "import numpy as np\n"
        "from chainrob.experiments.jobs import Job, run_jobs\n"
        "def sleep(folder, i):\n"
        "    (pathlib.Path(folder) / f'pid-{os.getpid()}').touch()\n"
        "    time.sleep(60)\n"
        "if __name__ == '__main__':\n"
        "    run_jobs(sleep, [Job(str(i), (sys.argv[1], i)) for i in range(2)], workers=2)\n"
    )
    parent = subprocess.Popen([sys.executable, str(program), str(tmp_path)])
    try:
        wait_for(lambda: len(list(tmp_path.glob("pid-*"))) == 2)
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    workers = [int(path.name[4:]) for path in tmp_path.glob("pid-*")]
    wait_for(lambda: not any(alive(pid) for pid in workers))


def wait_for(condition, seconds=90):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_workers_are_checked():
    assert check_workers(None) >= 1
    assert check_workers(3) == 3
    with pytest.raises(UsageError, match="workers must be at least 1, found 0"):
        check_workers(0)
