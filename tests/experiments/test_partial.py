import numpy as np
import pytest

from chainrob.experiments import UsageError
from chainrob.experiments.partial import PartialResults

SETTINGS = {"seed": 1, "hidden": (10, 10), "version of numpy": "2.0"}


def test_parts_survive_and_are_equal(tmp_path):
    part = np.random.default_rng(0).normal(size=(3, 4))
    PartialResults(tmp_path, SETTINGS, resume=False).save("deep-0-2", part)
    kept = PartialResults(tmp_path, SETTINGS, resume=True)
    np.testing.assert_array_equal(kept.load("deep-0-2"), part)
    assert kept.load("deep-3-5") is None


def test_a_new_run_forgets_them(tmp_path):
    PartialResults(tmp_path, SETTINGS, resume=False).save("a", np.ones(1))
    assert PartialResults(tmp_path, {"seed": 2}, resume=False).load("a") is None
    assert [file.name for file in tmp_path.iterdir()] == ["partial"]


def test_changed_settings_are_named(tmp_path):
    PartialResults(tmp_path, SETTINGS, resume=False)
    with pytest.raises(UsageError, match=r"seed was 1, now 2; version of numpy was \"2.0\", now"):
        PartialResults(tmp_path, {**SETTINGS, "seed": 2, "version of numpy": "2.1"}, resume=True)


def test_damaged_part_is_named_and_not_used(tmp_path):
    kept = PartialResults(tmp_path, SETTINGS, resume=False)
    kept.save("a", np.ones(100))
    file = tmp_path / "partial" / "a.npy"
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(UsageError, match=r"a\.npy is damaged"):
        kept.load("a")


def test_remove_leaves_nothing(tmp_path):
    kept = PartialResults(tmp_path, SETTINGS, resume=False)
    kept.save("a", np.ones(1))
    kept.remove()
    kept.remove()
    assert list(tmp_path.iterdir()) == []
