"""Kernels thread by thread: blocks, barriers, shared memory and the edges of tiles."""

import numpy as np
import pytest

import chainrob
from chainrob.kernels import gpu
from chainrob.kernels.gpu import weiszfeld
from tests.kernels import fake_cupy
from tests.kernels.host_kernels import COMPILER
from tests.kernels.test_gpu_launches import make, rows_of

pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler on this machine")

ROBUSTIFIERS = [
    chainrob.CoordinateMedian(),
    chainrob.TrimmedMean(0.1),
    chainrob.WinsorizedMean(0.2),
    chainrob.MeanAroundMedian(f=3),
    chainrob.Phocas(f=4),
    chainrob.SoftTruncation(0.01),
    chainrob.SoftTruncation(0.01, pilot="median"),
    chainrob.MEstimator("log_cosh", pilot="median"),
    chainrob.MEstimator(),
]


@pytest.fixture
def run(monkeypatch):
    """Run a function as plain C++, and in threads, in both orders."""

    def all_ways(function):
        results = []
        for on, backwards in ((False, False), (True, False), (True, True)):
            monkeypatch.setattr(fake_cupy.Emulation, "on", on)
            monkeypatch.setattr(fake_cupy.Emulation, "backwards", backwards)
            with fake_cupy.installed(), fake_cupy.transfers(100):
                results.append(fake_cupy.held(function()))
        return results

    return all_ways


@pytest.mark.parametrize(
    ("sizes", "dtype"),
    [
        ({"n": 66, "q": 3, "p": 17, "replicas": (2,)}, np.float32),
        ({"n": 18, "q": 1, "p": 260}, np.float64),
        ({"n": 2, "q": 66, "p": 3}, np.float32),
    ],
    ids=["replicas", "one output", "two rows"],
)
@pytest.mark.parametrize("robustifier", ROBUSTIFIERS, ids=repr)
def test_coordinates(run, robustifier, sizes, dtype):
    if 2 * getattr(robustifier, "f", 0) >= sizes["n"]:
        robustifier = type(robustifier)(f=0)
    x, gy = make("outliers", dtype, **sizes)
    named = robustifier.fused(sizes["n"])
    plain, forwards, backwards = run(
        lambda: gpu.fused(*named, fake_cupy.asarray(x), fake_cupy.asarray(gy))
    )
    np.testing.assert_array_equal(forwards, backwards)
    size = np.abs(plain).max()
    tolerance = 1e-5 if dtype == np.float32 else 1e-11
    np.testing.assert_allclose(forwards / size, plain / size, atol=tolerance)


@pytest.mark.parametrize("kind", ["close", "zeros"])
def test_moments_that_lost_their_digits(run, kind):
    x, gy = make(kind, np.float32, n=40, q=20, p=70)
    named = chainrob.SoftTruncation(0.3).fused(40)
    plain, forwards, backwards = run(
        lambda: gpu.fused(*named, fake_cupy.asarray(x), fake_cupy.asarray(gy))
    )
    np.testing.assert_array_equal(forwards, backwards)
    np.testing.assert_allclose(forwards, plain, rtol=1e-5)


@pytest.mark.parametrize(
    ("kind", "blocks"),
    [("normal", 3), ("outliers", 1), ("coincide", 1), ("line", 1), ("at a row", 2)],
)
def test_a_team_of_blocks(run, monkeypatch, kind, blocks):
    rows = rows_of(kind, 14, 3, 2)
    gram = rows @ rows.swapaxes(-1, -2)
    monkeypatch.setattr(weiszfeld, "_blocks", lambda *sizes: blocks)
    plain, forwards, backwards = run(
        lambda: weiszfeld.geometric_median(fake_cupy.asarray(gram), 1e-9, 200, 1e-9)
    )
    for one, other in zip(forwards, backwards, strict=True):
        np.testing.assert_array_equal(one, other)
    points = [np.einsum("tn,tnd->td", found[0], rows) for found in (plain, forwards)]
    np.testing.assert_allclose(points[1], points[0], atol=1e-7 * np.abs(points[0]).max())


def test_results_do_not_depend_on_the_number_of_blocks(run, monkeypatch):
    rows = rows_of("outliers", 18, 3, 1)
    gram = rows @ rows.swapaxes(-1, -2)
    found = []
    for blocks in (1, 3):
        monkeypatch.setattr(weiszfeld, "_blocks", lambda *sizes, blocks=blocks: blocks)
        found.append(
            run(lambda: weiszfeld.geometric_median(fake_cupy.asarray(gram), 1e-9, 200, 1e-9))[1][0]
        )
    np.testing.assert_array_equal(found[1], found[0])


def test_without_room_in_shared_memory(run, monkeypatch):
    rows = rows_of("normal", 12, 3, 1)
    gram = rows @ rows.swapaxes(-1, -2)
    monkeypatch.setattr(weiszfeld, "_blocks", lambda *sizes: 2)

    def solve():
        return weiszfeld.geometric_median(fake_cupy.asarray(gram), 1e-9, 200, 1e-9)

    roomy = run(solve)[1]
    attributes = {**fake_cupy._Device.attributes, "MaxSharedMemoryPerBlockOptin": 3000}
    monkeypatch.setattr(fake_cupy._Device, "attributes", attributes)
    for one, other in zip(run(solve)[1], roomy, strict=True):
        np.testing.assert_array_equal(one, other)
