"""Files that are whole or not there: what readers, failures and kills leave."""

import os

import numpy as np
import pytest

from chainrob.atomic_files import atomic_path, remove_leftovers


def test_the_old_file_is_there_until_the_new_one_is_whole(tmp_path):
    target = tmp_path / "curves.npy"
    np.save(target, np.zeros(3))
    with atomic_path(target) as temporary:
        assert temporary.suffix == ".npy"
        assert temporary.parent == tmp_path
        np.save(temporary, np.ones(4))
        np.testing.assert_array_equal(np.load(target), np.zeros(3))
    np.testing.assert_array_equal(np.load(target), np.ones(4))
    assert os.listdir(tmp_path) == ["curves.npy"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_a_failure_half_way_leaves_the_old_file_and_nothing_else(tmp_path, error):
    target = tmp_path / "snapshot_10"
    target.write_text("old")

    def write_half():
        with atomic_path(target) as temporary:
            temporary.write_text("ne")
            raise error

    with pytest.raises(error):
        write_half()
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["snapshot_10"]


def test_a_block_that_writes_nothing_is_an_error(tmp_path):
    (tmp_path / "a").write_text("old")
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "a"):
        pass
    assert (tmp_path / "a").read_text() == "old"


def test_two_writers_of_one_file_do_not_meet(tmp_path):
    with atomic_path(tmp_path / "a") as first, atomic_path(tmp_path / "a") as second:
        assert first != second
        first.write_text("first")
        second.write_text("second")
    assert os.listdir(tmp_path) == ["a"]
    assert (tmp_path / "a").read_text() == "first"  # the outer block ends last


def test_what_a_killed_writer_left_is_removed_and_a_living_ones_is_not(run_python, tmp_path):
    names = ["snapshot_7", "suspects.csv", "a.b.png"]
    folders = [tmp_path / str(number) for number in range(len(names))]
    program = """
import os, signal, sys
from chainrob.atomic_files import atomic_path
for name in sys.argv[1:]:
    child = os.fork()
    if child == 0:
        with atomic_path(name) as temporary:
            temporary.write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
"""
    for folder in folders:
        folder.mkdir()
    targets = [folder / name for folder, name in zip(folders, names, strict=True)]
    run_python(program, *map(str, targets))
    for target in targets:
        folder, name = target.parent, target.name
        assert len(os.listdir(folder)) == 1
        others = [".other.12.tmp", f".{name}.tmp", f".{name}.0.x.tmp", "ordinary.tmp"]
        for other in others:
            (folder / other).write_text("")
        with atomic_path(target) as living:
            living.write_text("whole")
            remove_leftovers(folder, name[:5])
            assert set(os.listdir(folder)) == {*others, living.name}
        assert target.read_text() == "whole"
