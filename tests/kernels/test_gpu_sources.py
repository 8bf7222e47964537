"""The CUDA sources without a device: they compile for it, and as C++ they compute right."""

import ctypes
import re
from math import log
from pathlib import Path

import numpy as np
import pytest

import chainrob
from chainrob.kernels import constants, gpu
from chainrob.kernels.gpu.coordinates import DOUBT
from tests.kernels.host_kernels import COMPILER, libraries
from tests.kernels.nvrtc import Compiler, find_library

DTYPES = [np.float32, np.float64]
POINTERS = {np.float32: ctypes.c_float, np.float64: ctypes.c_double}


def test_there_are_sources():
    assert set(gpu.SOURCES) >= {
        "coordinate",
        "geometric_median",
        "m_estimator",
        "moments",
        "nearest_values",
        "soft_truncation",
    }


@pytest.mark.parametrize(
    ("architecture", "options"),
    [("sm_80", ()), ("sm_90", ()), ("sm_90", gpu.WIDE)],
    ids=["sm_80", "sm_90", "sm_90-wide"],
)
@pytest.mark.parametrize("name", gpu.SOURCES)
def test_compiles_for_a_device(name, architecture, options):
    library = find_library()
    if library is None:
        pytest.skip("the CUDA run-time compiler (wheel nvidia-cuda-nvrtc) is not installed")
    if options and "values.cuh" not in gpu.SOURCES[name].read_text():
        pytest.skip("has one form only")
    # With the two options that CuPy adds. The older architecture and the form for wide layers are
    # compiled in a hurry: that the code fits is the question, not how fast it is.
    compiler = Compiler(library)
    in_a_hurry = (architecture == "sm_80" or options) and compiler.version >= (13, 0)
    options = (*gpu.OPTIONS, "-ftz=true", "--device-as-default-execution-space", *options)
    options = (*options, "--Ofast-compile=max") if in_a_hurry else options
    binary = compiler.compile(gpu.source(name), architecture, options)
    entries = set(re.findall(r"(?:BOTH|ENTRY)\((\w+),", gpu.SOURCES[name].read_text()))
    entries |= set(re.findall(r"__global__ .*?(\w+_float64)\(", gpu.SOURCES[name].read_text()))
    assert entries - {"NAME"}
    for entry in entries - {"NAME"}:
        assert entry.encode() in binary


def test_a_broken_source_does_not_compile():
    library = find_library()
    if library is None:
        pytest.skip("the CUDA run-time compiler (wheel nvidia-cuda-nvrtc) is not installed")
    with pytest.raises(RuntimeError, match="undefined"):
        Compiler(library).compile("__global__ void f() { nonsense(); }", "sm_90", gpu.OPTIONS)


@pytest.fixture(scope="session")
def host():
    """The sources as libraries of the host."""
    if COMPILER is None:
        pytest.skip("no C++ compiler on this machine")
    return libraries()


def call(library, name, x, gy, arrays=(), scalars=()):
    """Run one entry point on x (R, N, P) and gy (R, N, Q)."""
    dtype = x.dtype.type
    replicas, n, n_inputs = x.shape
    out = np.empty((replicas, gy.shape[-1], n_inputs), dtype)
    pointers = [array.ctypes.data_as(ctypes.c_void_p) for array in (x, gy, *arrays, out)]
    sizes = [ctypes.c_int(size) for size in (n, n_inputs, gy.shape[-1])]
    strides = [ctypes.c_longlong(array[0].size) for array in (x, gy)]
    getattr(library, f"{name}_{np.dtype(dtype).name}")(
        *pointers, *sizes, *strides, *scalars, ctypes.c_int(replicas)
    )
    return out


def coordinate(host, name, x, gy, count=0, factor=1.0, floor=0.0):
    real = POINTERS[x.dtype.type]
    return call(
        host["coordinate"], name, x, gy, (), (ctypes.c_int(count), real(factor), real(floor))
    )


def truncated(host, x, gy, delta, floor=0.0):
    dtype, n = x.dtype.type, x.shape[1]
    real = POINTERS[dtype]
    with np.errstate(over="ignore", invalid="ignore"):
        mean = np.matmul(gy.swapaxes(-1, -2), x) / dtype(n)
        second = np.matmul(np.square(gy).swapaxes(-1, -2), np.square(x)) / dtype(n)
    scalars = (real(n / (2 * log(1 / delta))), real(floor), real(DOUBT[x.dtype]))
    return call(host["soft_truncation"], "soft_truncation_mean", x, gy, (mean, second), scalars)


def make(kind, dtype, n=70, replicas=2):
    rng = np.random.default_rng(3)
    x, gy = rng.normal(size=(replicas, n, 5)), rng.normal(size=(replicas, n, 4))
    if kind == "outliers":
        x[:, 0] *= 1e6
    elif kind == "huge row":
        x[:, 0] *= 1e10
        gy[:, 0] *= 1e10
    elif kind == "close rows":
        x, gy = 1.0 + 1e-3 * x, 2.0 + 1e-3 * gy
    elif kind == "zeros":
        x[...] = 0.0
    elif kind == "ties":
        x, gy = np.round(x), np.round(gy)
    return x.astype(dtype), gy.astype(dtype)


def values_of(x, gy):
    """The rows (R, N, Q, P) in float64, each product rounded as the kernels round it."""
    return (gy[..., :, None] * x[..., None, :]).astype(np.float64)


KINDS = ["normal", "outliers", "huge row", "close rows", "zeros", "ties"]


def assert_close(found, expected, values):
    dtype = found.dtype
    tolerance = 1e-5 if dtype == np.float32 else 1e-12
    spread = np.median(np.abs(values), axis=1)
    error = np.abs(found - expected)
    assert (error <= tolerance * np.maximum(np.abs(expected), spread) + np.finfo(dtype).tiny).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [1, 2, 69, 70])
def test_order_statistics(host, kind, dtype, n):
    x, gy = make(kind, dtype, n)
    values = values_of(x, gy)
    assert_close(coordinate(host, "coordinate_median", x, gy), np.median(values, axis=1), values)
    for k in {0, n // 10, (n - 1) // 2}:
        inner = np.sort(values, axis=1)[:, k : n - k]
        found = coordinate(host, "trimmed_mean", x, gy, k)
        reference = np.abs(inner).max(axis=1, keepdims=True)
        assert_close(found, inner.mean(axis=1), np.maximum(np.abs(values), reference))
        clipped = np.clip(values, inner[:, :1], inner[:, -1:])
        found = coordinate(host, "winsorized_mean", x, gy, k)
        assert_close(found, clipped.mean(axis=1), np.maximum(np.abs(values), reference))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("delta", [0.005, 0.5])
@pytest.mark.parametrize("n", [1, 2, 70])
def test_soft_truncation(host, kind, dtype, delta, n):
    x, gy = make(kind, dtype, n)
    values = values_of(x, gy)
    flat = values.reshape(len(values), n, -1)
    for pilot in ("mean", "median"):
        robust = chainrob.SoftTruncation(delta, pilot=pilot)
        expected = robust.reduce(flat).reshape(values[:, 0].shape)
        factor = n / (2 * log(1 / delta))
        found = (
            truncated(host, x, gy, delta)
            if pilot == "mean"
            else coordinate(host, "soft_truncation", x, gy, 1, factor)
        )
        # About a mean, what is small beside the largest value of its coordinate carries its
        # rounding.
        largest = np.abs(values).max(axis=1, keepdims=True) + 0 * values
        assert_close(found, expected, largest if pilot == "mean" else values)


def test_floor_of_the_variance(host):
    x, gy = make("normal", np.float64)
    values = values_of(x, gy).reshape(2, 70, -1)
    expected = chainrob.SoftTruncation(0.01, min_variance=4.0).reduce(values).reshape(2, 4, 5)
    np.testing.assert_allclose(truncated(host, x, gy, 0.01, 4.0), expected, rtol=1e-12)


def test_constants_are_those_of_python():
    folder = Path(gpu.__file__).parent
    assert repr(constants.CHI_LEVEL) in (folder / "m_estimator.cu").read_text()
    assert repr(constants.MAD_TO_SIGMA) in (folder / "truncation.cuh").read_text()
