"""Every robustifier on every operator: the device against the host."""

import numpy as np
import pytest

import chainrob
from chainrob.kernels.gpu import moments
from chainrob.robustifiers import convergence
from chainrob.sample_gradients import Dense, Joined, OuterProducts
from tests.gpu.conftest import NAME, assert_close, to_host
from tests.kernels.test_device_arrays import SEARCHING, WITHOUT_WAITING, without_looking

DTYPES = ["float32", "float64", "float16"]
SIZES = {
    "layer": {},
    "tiles": {"n": 70, "p": 37, "q": 19},
    "replicas": {"replicas": (3,)},
    "positions": {"s": 3},
    "one row": {"n": 1},
}
RHOS = ("pseudo_huber", "log_cosh", "gudermannian", "catoni")
ROBUSTIFIERS = [
    *WITHOUT_WAITING,
    *SEARCHING,
    *(chainrob.MEstimator(rho, pilot="median") for rho in RHOS),
]


def operators(dtype, n=12, s=1, p=5, q=4, replicas=(), scale=1.0):
    rng = np.random.default_rng(2)
    x, gy = rng.normal(size=(*replicas, n, s, p)), rng.normal(size=(*replicas, n, s, q))
    gy[..., : n // 6, :, :] *= 50.0
    x, gy = (x * scale).astype(dtype), gy.astype(dtype)

    def make(send):
        products = OuterProducts(send(x), send(gy))
        bias = Dense(send(gy.sum(axis=-2)), len(replicas))
        return {
            "outer": products,
            "dense": bias,
            "joined": Joined([products, bias]),
            "units": products.units(),
        }

    return make


def works_with(robustifier, n):
    try:
        robustifier.check(n)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("robustifier", ROBUSTIFIERS, ids=repr)
def test_estimates(device, robustifier, sizes, dtype):
    n = sizes.get("n", 12)
    if not works_with(robustifier, n) or (robustifier in SEARCHING and n > 20):
        pytest.skip(f"does not work with {n} rows")
    make = operators(dtype, **sizes)
    host = make(np.array)
    for kind, operator in make(device.send).items():
        assert_close(robustifier(operator), robustifier(host[kind]))
    convergence.check_convergence()


@pytest.mark.parametrize("scale", [1e-12, 1e12])
@pytest.mark.parametrize("robustifier", WITHOUT_WAITING, ids=repr)
def test_scales(device, robustifier, scale):
    make = operators("float32", n=40, scale=scale)
    found = robustifier(make(device.send)["outer"])
    assert_close(found, robustifier(make(np.array)["outer"]))


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_soft_truncation_from_moments(device, monkeypatch, dtype, scale):
    """Blocks at the edges, rows that are truncated, and columns that are taken value by value."""
    monkeypatch.setattr(moments, "MANY", 1)
    rng = np.random.default_rng(4)
    x, gy = rng.normal(size=(700, 90)), rng.normal(size=(700, 70))
    gy[:60] *= 50.0
    x[:, 40:43] = 1.0 + 1e-3 * x[:, 40:43]
    gy[:, 30] = 2.0 + 1e-3 * gy[:, 30]
    x[:, 7], gy[:, 9] = 0.0, 0.0
    x, gy = ((one[:, None] * scale).astype(dtype) for one in (x, gy))
    robustifier = chainrob.SoftTruncation(0.05)
    found = robustifier(OuterProducts(device.send(x), device.send(gy)))
    assert_close(found, robustifier(OuterProducts(x, gy)))


def test_a_large_layer(device):
    """Large enough for the moments by the library's own choice."""
    rng = np.random.default_rng(4)
    x, gy = (rng.standard_t(3, size=(1024, 1, k)).astype(np.float32) for k in (1030, 1020))
    assert moments.pays(1024, 1020, 1030, 0.005)
    robustifier = chainrob.SoftTruncation()
    found = robustifier(OuterProducts(device.send(x), device.send(gy)))
    assert_close(found, robustifier(OuterProducts(x, gy)))


def test_many_replicas(device):
    """More than the second and third axis of a grid hold."""
    make = operators("float32", n=3, p=2, q=1, replicas=(70_000,))
    for robustifier in (chainrob.GeometricMedian(), chainrob.CoordinateMedian()):
        found = robustifier(make(device.send)["outer"])
        assert_close(found, robustifier(make(np.array)["outer"]))


@pytest.mark.parametrize("n", [100, 200, 700])
def test_geometric_median_of_many_rows(device, n):
    """More rows than one block takes: blocks of a team wait for each other."""
    make = operators("float64", n=n, p=20, q=10)
    robustifier = chainrob.GeometricMedian()
    for kind in ("outer", "joined"):
        found = robustifier(make(device.send)[kind])
        assert_close(found, robustifier(make(np.array)[kind]))
    convergence.check_convergence()


@pytest.mark.parametrize("robustifier", ROBUSTIFIERS, ids=repr)
def test_sample_weights(device, robustifier):
    make = operators("float64")
    found = robustifier.sample_weights(make(device.send)["joined"])
    assert_close(found, robustifier.sample_weights(make(np.array)["joined"]))


@pytest.mark.parametrize("robustifier", ROBUSTIFIERS[:8], ids=repr)
def test_bad_rows(device, robustifier):
    make = operators("float32")
    rows = make(device.send)["outer"]
    rows.gy[3] = np.nan
    expected = make(np.array)["outer"]
    expected.gy[3] = np.nan
    with pytest.warns(chainrob.NonFiniteGradientWarning):
        found = robustifier(rows)
    with pytest.warns(chainrob.NonFiniteGradientWarning):
        assert_close(found, robustifier(expected))


SPIN = """
extern "C" __global__ void spin(long long ticks) {
    for (const long long start = clock64(); clock64() - start < ticks;) {}
}
"""


@pytest.mark.skipif(NAME == "@numpy", reason="NumPy has no streams")
@pytest.mark.parametrize("n", [40, 400])
@pytest.mark.parametrize("robustifier", WITHOUT_WAITING, ids=repr)
def test_nothing_waits(device, monkeypatch, robustifier, n):
    """The call is back while the device is still busy with what was queued before.

    To capture the stream would be simpler, but CuPy refuses cuBLAS in a capture.
    """
    import cupy

    monkeypatch.setattr(moments, "MANY", 1)  # the larger batch takes this way
    robustifier = without_looking(robustifier, "propagate")
    convergence.check_convergence()
    operator = operators("float32", n=n, p=30, q=20)(device.send)["outer"]
    device.device.synchronize()
    spin, earlier = cupy.RawKernel(SPIN, "spin"), cupy.cuda.Event()
    with cupy.cuda.Stream(non_blocking=True) as stream:
        for _ in range(2):  # compiles, and fills the pools of memory
            expected = robustifier(operator)
            spin((1,), (1,), (np.int64(1),))
            stream.synchronize()
        spin((1,), (1,), (np.int64(10**9),))  # about half a second
        earlier.record(stream)
        found = robustifier(operator)
        waited = earlier.done
        stream.synchronize()
    assert not waited
    assert_close(found, to_host(expected))
    convergence.check_convergence()
