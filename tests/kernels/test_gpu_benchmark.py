"""The script for machines with a GPU: what it says without one, and what it writes."""

import importlib.util
import json
import logging
import os
import subprocess
import sys
import tarfile
import zipfile
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


def test_the_table_names_what_ran(script):
    """Also where the tests of the device could not start: figures are not lost with them."""
    log = logging.getLogger("chainrob.kernels.gpu.loading")
    with script.kernels_launched() as kernels:
        log.debug("%s", "soft_truncation_moments_float32")
    log.debug("%s", "after it")
    assert kernels == {"soft_truncation_moments_float32"}
    entry = {"robustifier": "A()", "seconds": 2.0, "ratio": 1.5, "goal": 3.0}
    record = {
        "device": {"name": "a device"},
        "sizes": {"width": 3, "rows": 4},
        "layers": [{**entry, "kernels": sorted(kernels)}, {"robustifier": "B()", "refused": "no"}],
        "iris": {"trials": 2, "iterations": 3, "seconds": 4.0, "goal": None},
        "tests": {"error": "the tests did not start"},
    }
    text = script.table(record)
    assert "| A() | 2000.000 | 1.50 | at most 3 | soft_truncation_moments_float32 |" in text
    assert "| B() | | | | refused: no |" in text
    assert "Tests on the device: the tests did not start." in text


def test_what_fails_does_not_take_the_rest_along(script, monkeypatch, tmp_path, capsys):
    def broken(*given):
        raise RuntimeError("no such kernel\nin line 2")

    class Broken(chainrob.Mean):
        _estimate = broken

    monkeypatch.setattr(script, "robustifiers", lambda rows: [Broken(), chainrob.Mean()])
    monkeypatch.setattr(script, "iris", broken)
    sizes = ["--device", "@numpy", "--width", "9", "--rows", "40", "--seconds", "0.01"]
    assert script.main([*sizes, "--no-tests", "--out", str(tmp_path)]) == 1
    record = json.loads((tmp_path / "gpu.json").read_text())
    assert "no such kernel" in record["layers"][0]["failed"]
    assert record["layers"][1]["ratio"] > 0.0
    text = (tmp_path / "gpu.md").read_text()
    assert "| failed: " in text
    assert "Iris: RuntimeError: no such kernel in line 2." in text
    capsys.readouterr()


def test_tests_run_by_themselves(script):
    """Where there is no device they skip, each with the reason; none fails to be collected."""
    found = script.run_tests("@cupy:0")
    assert found["failures"] == []
    assert found["passed"] + found["skipped"] > 100


def test_every_robustifier_is_timed(script):
    timed = " ".join(map(repr, script.robustifiers(100)))
    for name in chainrob.robustifiers.names():
        assert "".join(part.title() for part in name.split("_")).lower() in timed.lower()


def test_what_the_shell_script_unpacks(tmp_path):
    """A wheel that is missing and the packages of Chainer's source archive, nothing else."""
    folder, out = tmp_path / "wheels", tmp_path / "out"
    folder.mkdir()
    with zipfile.ZipFile(folder / "missing_here-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("missing_here/__init__.py", "")
    with zipfile.ZipFile(folder / "json-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("json/__init__.py", "")
    with tarfile.open(folder / "chainer-7.8.1.tar.gz", "w:gz") as archive:
        for name in ("chainer", "chainermn", "chainerx", "tests"):
            archive.addfile(tarfile.TarInfo(f"chainer-7.8.1/{name}/__init__.py"))
        archive.addfile(tarfile.TarInfo("chainer-7.8.1/setup.py"))
    # A Python without packages, which shows what it was given instead of measuring.
    python = tmp_path / "python"
    python.write_text(
        f'#!/bin/sh\nif [ "$1" = - ]; then exec {sys.executable} -S "$@"; fi\n'
        f'ls "${{PYTHONPATH%%:*}}" > {out}\necho "$@" >> {out}\n'
    )
    python.chmod(0o755)
    environment = {**os.environ, "WHEELS": str(folder), "PYTHON": str(python)}
    subprocess.run(
        ["sh", str(ROOT / "benchmarks" / "gpu.sh"), "--no-tests"], env=environment, check=True
    )
    *found, call = out.read_text().splitlines()
    assert found == ["chainer", "chainermn", "chainerx", "missing_here"]
    assert call == f"{ROOT / 'benchmarks' / 'gpu.py'} --no-tests"
