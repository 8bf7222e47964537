import numpy as np
import pytest
from sklearn.datasets import load_iris as sklearn_iris

from chainrob.datasets import DataFileError, data_folder, load_iris


def test_equals_scikit_learns_copy_but_for_the_two_rows_that_uci_has_differently():
    ours, theirs = load_iris(), sklearn_iris()
    expected = theirs.data.copy()
    expected[[34, 37]] = [4.9, 3.1, 1.5, 0.1]
    np.testing.assert_array_equal(ours.x, expected)
    np.testing.assert_array_equal(ours.t, theirs.target)
    assert list(ours.class_names) == list(theirs.target_names)
    assert ours.x.dtype == np.float64
    assert ours.t.dtype == np.int32


def test_file_can_be_rebuilt_byte_by_byte_from_scikit_learns_copy():
    theirs = sklearn_iris()
    x = theirs.data.copy()
    x[[34, 37]] = [4.9, 3.1, 1.5, 0.1]
    names = ["Iris-" + theirs.target_names[k] for k in theirs.target]
    lines = [
        ",".join(f"{v:.1f}" for v in row) + f",{name}\n" for row, name in zip(x, names, strict=True)
    ]
    assert (data_folder() / "iris" / "iris.data").read_text() == "".join(lines) + "\n"


def test_damaged_file_is_refused_with_its_path_and_checksum(tmp_path):
    damaged = tmp_path / "iris.data"
    content = (data_folder() / "iris" / "iris.data").read_bytes()
    damaged.write_bytes(content.replace(b"5.1,3.5", b"5.1,3.6", 1))
    with pytest.raises(DataFileError, match=r"iris\.data is damaged: its SHA-256 should be 6f608b"):
        load_iris(damaged)


def test_missing_file_and_missing_folder_are_named(tmp_path, monkeypatch):
    with pytest.raises(DataFileError, match=r"cannot read the data file .*nowhere"):
        load_iris(tmp_path / "nowhere")
    monkeypatch.setenv("CHAINROB_DATA", str(tmp_path))
    with pytest.raises(DataFileError, match="data folder was not found"):
        load_iris()


def test_environment_variable_names_the_folder(tmp_path, monkeypatch):
    content = (data_folder() / "iris" / "iris.data").read_bytes()
    (tmp_path / "iris").mkdir()
    (tmp_path / "iris" / "iris.data").write_bytes(content)
    monkeypatch.setenv("CHAINROB_DATA", str(tmp_path))
    assert data_folder() == tmp_path
    assert load_iris().x.shape == (150, 4)


def test_checksums_in_the_readme_are_those_of_the_files():
    import hashlib

    readme = (data_folder() / "README.md").read_text()
    for name in ("iris/iris.data", "published/figure4_published.json"):
        digest = hashlib.sha256((data_folder() / name).read_bytes()).hexdigest()
        assert any(name in line and digest in line for line in readme.splitlines()), name
