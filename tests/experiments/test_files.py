import os

import pytest

from chainrob.experiments import UsageError
from chainrob.experiments.files import (
    atomic_path,
    prepare_folder,
    read_json,
    save_figure,
    write_bytes,
    write_json,
)
from chainrob.plotting import new_figure


def test_a_failure_half_way_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / "curves.csv"
    write_bytes(target, b"old")

    def write_half():
        with atomic_path(target) as temporary:
            temporary.write_bytes(b"ne")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["curves.csv"]


def test_files_get_the_permissions_of_ordinary_files(tmp_path):
    ordinary = tmp_path / "ordinary"
    ordinary.write_text("")
    write_bytes(tmp_path / "ours", b"")
    assert (tmp_path / "ours").stat().st_mode == ordinary.stat().st_mode


def test_json_round_trip_and_its_errors(tmp_path):
    write_json(tmp_path / "a.json", {"ψ": [1, 2.5, None]})
    assert read_json(tmp_path / "a.json") == {"ψ": [1, 2.5, None]}
    (tmp_path / "b.json").write_text("{")
    with pytest.raises(UsageError, match=r"b\.json cannot be read"):
        read_json(tmp_path / "b.json")
    with pytest.raises(UsageError, match=r"none\.json cannot be read"):
        read_json(tmp_path / "none.json")


def test_folder_that_cannot_be_made_or_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"cannot write to the folder .*file/sub: Not a directory"):
        prepare_folder(tmp_path / "file" / "sub")
    assert prepare_folder(tmp_path / "a" / "b").is_dir()


def test_figures_are_the_same_bytes_every_time(tmp_path):
    for name in ("one", "two"):
        with new_figure(2, 2) as figure:
            figure.subplots().plot([0, 1], [1, 0])
        save_figure(figure, tmp_path / name)
    for suffix in ("png", "pdf"):
        one, two = ((tmp_path / f"{name}.{suffix}").read_bytes() for name in ("one", "two"))
        assert one == two
    assert one.startswith(b"%PDF")
