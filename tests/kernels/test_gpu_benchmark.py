"""The script for machines with a GPU: what it says without one, and what it writes."""

import importlib.util
import json
from pathlib import Path

import pytest

import chainrob

ROOT = Path(__file__).parents[2]


@pytest.fixture
def script():
    spec = importlib.util.spec_from_file_location("gpu_benchmark", ROOT / "benchmarks" / "gpu.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def there_is_a_gpu():
    try:
        import cupy
    except ImportError:
        return False
    return cupy.cuda.is_available()


@pytest.mark.skipif(there_is_a_gpu(), reason="there is a GPU")
def test_without_a_gpu_it_says_what_is_missing(script, capsys, tmp_path):
    assert script.main(["--out", str(tmp_path / "out")]) == 2
    message = capsys.readouterr().err
    assert "nothing was measured: --device @cupy:0" in message
    assert "chainrob[cuda13]" in message or "nvidia-smi" in message
    assert not (tmp_path / "out").exists()


def test_one_json_and_one_table(script, monkeypatch, tmp_path, capsys):
    chosen = [chainrob.SoftTruncation(), chainrob.SMEA(f=19)]
    monkeypatch.setattr(script, "robustifiers", lambda rows: chosen)
    sizes = ["--width", "9", "--rows", "40", "--iris-trials", "2", "--iterations", "3"]
    options = [*sizes, "--seconds", "0.01", "--no-tests", "--out", str(tmp_path)]
    assert script.main(["--device", "@numpy", *options]) == 0
    record = json.loads((tmp_path / "gpu.json").read_text())
    timed, refused = record["layers"]
    assert timed["ratio"] == timed["seconds"] / timed["stock_seconds"] > 0.0
    assert "subsets" in refused["refused"]
    assert record["iris"]["seconds"] > 0.0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gpu.json", "gpu.md"]
    assert "| SoftTruncation(delta=0.005) |" in (tmp_path / "gpu.md").read_text()
    assert "gpu.json" in capsys.readouterr().out


def test_tests_run_by_themselves(script):
    """Where there is no device they skip, each with the reason; none fails to be collected."""
    found = script.run_tests("@cupy:0")
    assert found["failures"] == []
    assert found["passed"] + found["skipped"] > 100


def test_every_robustifier_is_timed(script):
    timed = " ".join(map(repr, script.robustifiers(100)))
    for name in chainrob.robustifiers.names():
        assert "".join(part.title() for part in name.split("_")).lower() in timed.lower()
