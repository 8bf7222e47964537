"""Files of models and snapshots hold arrays and None: whatever else is pickled there never runs."""

from __future__ import annotations

import pickle
import zipfile

import numpy as np
import pytest

import chainrob
import chainer
from chainrob._chainer.npz import SafeNpz, UnsafeFileError


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def objects(*values):
    array = np.empty(len(values), object)
    array[:] = values
    return array[0:1].reshape(()) if len(values) == 1 else array


@pytest.fixture
def model():
    return chainer.Sequential(chainer.links.Linear(3, 2), chainrob.links.Linear(2, 2))


def crafted(model, path, extra):
    content = {name.lstrip("/"): one.array for name, one in model.namedparams()}
    np.savez(path, **content, **extra)


@pytest.mark.parametrize("extra", ["bomb", "two", "dict", "none_in_a_list", "structured"])
def test_a_pickle_in_a_model_file_never_runs(tmp_path, model, extra):
    mark = tmp_path / "exploded"
    values = {
        "bomb": objects(Bomb(mark)),
        "two": objects(None, None),
        "dict": objects({"a": 1}),
        "none_in_a_list": objects([None]),
        "structured": np.array([(1, None)], dtype=[("a", int), ("b", object)]),
    }
    crafted(model, tmp_path / "model.npz", {"extra": values[extra]})
    before = [one.array.copy() for one in model.params()]
    for one in model.params():
        one.array[...] += 1.0
    changed = [one.array.copy() for one in model.params()]
    with pytest.raises(UnsafeFileError, match="'extra' holds pickled objects"):
        chainer.serializers.load_npz(str(tmp_path / "model.npz"), model)
    assert not mark.exists()
    for one, kept, old in zip(model.params(), changed, before, strict=True):
        np.testing.assert_array_equal(one.array, kept)  # nothing was half loaded
        assert not np.array_equal(one.array, old)


def test_a_file_that_is_a_pickle_itself_is_refused(tmp_path):
    path = tmp_path / "model"
    path.write_bytes(pickle.dumps(Bomb(tmp_path / "exploded")))
    with pytest.raises(UnsafeFileError, match=r"no \.npz file but a pickle"):
        chainer.serializers.load_npz(str(path), chainer.links.Linear(3, 2))
    assert not (tmp_path / "exploded").exists()


def test_uninitialized_parameters_are_none_and_load(tmp_path):
    """Chainer stores what has no value yet as None."""
    path = str(tmp_path / "lazy.npz")
    chainer.serializers.save_npz(path, chainer.links.Linear(None, 3))
    fresh = chainer.links.Linear(None, 3)
    chainer.serializers.load_npz(path, fresh)
    assert not fresh.W.is_initialized


def test_arrays_of_all_kinds_are_read_as_numpy_reads_them(tmp_path):
    content = {
        "f": np.arange(6.0).reshape(2, 3),
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "empty": np.zeros((0, 4), np.float16),
        "text": np.array(["a", "ä"]),
        "a/b": np.array(True),
        "record": np.array([(1, 2.0)], dtype=[("ä", int), ("b", float)]),
    }
    path = tmp_path / "all.npz"
    np.savez(path, **content)
    with SafeNpz(path) as found:
        assert set(found) == set(content)
        assert len(found) == len(content)
        assert "f" in found
        assert "g" not in found
        for name, array in content.items():
            np.testing.assert_array_equal(found[name], array)
            assert found[name].dtype == array.dtype


def test_loading_not_strictly_still_works(tmp_path, model):
    path = str(tmp_path / "part.npz")
    np.savez(path, **{"0/W": np.ones((2, 3), np.float32)})
    chainer.serializers.load_npz(path, model, strict=False)
    np.testing.assert_array_equal(model[0].W.array, 1.0)
    with pytest.raises(KeyError):
        chainer.serializers.load_npz(path, model)


def test_a_single_array_is_refused(tmp_path):
    np.save(tmp_path / "one.npy", np.ones(3))
    with pytest.raises(ValueError, match="a single array"):
        SafeNpz(tmp_path / "one.npy")


def test_members_that_are_no_arrays_are_bytes(tmp_path):
    path = tmp_path / "mixed.npz"
    np.savez(path, a=np.ones(2))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("note", b"hello")
    with SafeNpz(path) as found:
        assert bytes(found["note"]) == b"hello"
