"""Compilation: at the first call, kept on disk, said where it takes long."""

import logging
import pickle
import threading
from pathlib import Path

import numpy as np
import pytest

import chainrob
from chainrob.kernels.cpu import compiling
from chainrob.kernels.cpu.compiling import Kernel


def double(array, out):
    for i in range(len(array)):
        out[i] = 2 * array[i]


def test_import_compiles_nothing(run_python):
    printed = run_python("import sys, chainrob\nprint('numba' in sys.modules)")
    assert printed.strip() == "False"


@pytest.mark.parametrize(("patience", "lines"), [(0.0, 1), (600.0, 0)])
def test_a_long_compilation_is_announced_once(monkeypatch, caplog, patience, lines):
    monkeypatch.setattr(compiling, "PATIENCE", patience)
    kernel = Kernel(double)
    monkeypatch.setattr(kernel, "compiled", _Slow(kernel.compiled))
    out = np.empty(3)
    with caplog.at_level(logging.WARNING, "chainrob.kernels"):
        callers = [threading.Thread(target=kernel, args=(np.ones(3), out)) for _ in range(3)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
    assert len(caplog.records) == lines
    assert all("compiling double for float64" in one.getMessage() for one in caplog.records)
    np.testing.assert_array_equal(out, 2)


class _Slow:
    """A compiled function whose compilation takes a moment."""

    def __init__(self, compiled):
        self.compiled = compiled
        self.__name__ = "double"

    def compile(self, signature):
        self.compiled.compile(signature)
        threading.Event().wait(0.05)

    def __call__(self, *args):
        return self.compiled(*args)


def test_runs_where_nothing_can_be_stored(monkeypatch):
    numba = compiling.numba
    original = numba.njit

    def njit(*args, **options):
        if options.get("cache"):
            raise RuntimeError("cannot cache function 'double': no locator available")
        return original(*args, **options)

    monkeypatch.setattr(numba, "njit", njit)
    out = np.empty(3, np.float32)
    Kernel(double)(np.ones(3, np.float32), out)
    np.testing.assert_array_equal(out, 2)


@pytest.mark.slow
def test_is_stored_and_found_again(run_python, tmp_path, monkeypatch):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "cache"))
    program = (
        "import logging, numpy as np, chainrob\n"
        "logging.disable()\n"
        "chainrob.TrimmedMean(count=1)(np.ones((5, 4), np.float32))\n"
        "from chainrob.kernels.cpu.order_statistics import _trimmed_mean\n"
        "stats = _trimmed_mean.plain.compiled.stats\n"
        "print(sum(stats.cache_hits.values()), sum(stats.cache_misses.values()))\n"
    )
    assert run_python(program).split() == ["0", "1"]
    assert run_python(program).split() == ["1", "0"]


def test_read_only_and_unaligned_arrays():
    rows = np.random.default_rng(0).normal(size=(9, 32)).astype(np.float32)
    expected = chainrob.CoordinateMedian()(rows)
    frozen = rows.copy()
    frozen.flags.writeable = False
    np.testing.assert_array_equal(chainrob.CoordinateMedian()(frozen), expected)
    raw = np.empty(rows.nbytes + 1, np.uint8)
    unaligned = raw[1:].view(np.float32).reshape(rows.shape)
    unaligned[:] = rows
    np.testing.assert_array_equal(chainrob.CoordinateMedian()(unaligned), expected)
    np.testing.assert_array_equal(chainrob.CoordinateMedian()(np.asfortranarray(rows)), expected)
    swapped = rows.astype(rows.dtype.newbyteorder())
    np.testing.assert_array_equal(chainrob.CoordinateMedian()(swapped), expected)


def test_stored_code_is_out_of_date_when_any_source_is(monkeypatch):
    compiling._stamp.cache_clear()
    before = Kernel(double).compiled._cache._cache_file._source_stamp
    again = Kernel(double).compiled._cache._cache_file._source_stamp
    monkeypatch.setattr(compiling, "_stamp", lambda: "another file has changed")
    after = Kernel(double).compiled._cache._cache_file._source_stamp
    assert before == again != after


def test_what_another_version_stored_does_not_stand_in_the_way(monkeypatch, tmp_path):
    """Its pickled types may refer to modules that a newer version does not have."""
    monkeypatch.setattr(compiling.numba.config, "CACHE_DIR", str(tmp_path))
    kernel = Kernel(double)
    index = Path(kernel.compiled._cache._cache_file._index_path)
    version = kernel.compiled._cache._cache_file._version
    gone = b"cchainrob.kernels.cpu.gone\nSomething\n."  # a pickle that imports
    index.parent.mkdir(parents=True, exist_ok=True)
    index.write_bytes(pickle.dumps(version) + gone)
    with pytest.raises(ImportError):
        kernel.compiled._cache._cache_file._load_index()
    out = np.empty(3)
    kernel(np.ones(3), out)
    np.testing.assert_array_equal(out, 2)
    assert gone not in index.read_bytes()
