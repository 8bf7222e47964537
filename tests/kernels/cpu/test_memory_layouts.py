"""Kernels load vectors from memory as it lies: arrays in any other layout are brought to it."""

import sys

import numpy as np
import pytest

import chainrob as c
from chainrob.kernels.cpu.compiling import Kernel
from chainrob.sample_gradients import OuterProducts

ROBUSTIFIERS = [
    c.CoordinateMedian(),
    c.TrimmedMean(0.1),
    c.WinsorizedMean(0.1),
    c.MeanAroundMedian(2),
    c.Phocas(2),
    c.SoftTruncation(),
    c.SoftTruncation(pilot="median"),
    c.MEstimator("log_cosh"),
    c.MEstimator("log_cosh", scale=0.5),
    c.MedianOfMeans(5),
    c.MedianOfMeans(5, center="coordinate"),
    c.GeometricMedian(),
    c.Krum(2),
    c.CenteredClipping(),
    c.CAF(2),
    c.NearestNeighborMixing(2) >> c.GeometricMedian(),
]
every = pytest.mark.parametrize("robustifier", ROBUSTIFIERS, ids=repr)


def backwards(array):
    """The array read from its end to its start, zeros all around it in memory."""
    n = len(array)
    memory = np.zeros((3 * n, *array.shape[1:]), array.dtype)
    memory[n : 2 * n] = array[::-1]
    return memory[2 * n - 1 : n - 1 : -1]


def every_second(array):
    memory = np.zeros(tuple(2 * length for length in array.shape), array.dtype)
    found = memory[tuple(slice(None, None, 2) for _ in array.shape)]
    found[...] = array
    return found


def read_only(array):
    array = array.copy()
    array.flags.writeable = False
    return array


def misaligned(array):
    memory = np.zeros(array.nbytes + 1, np.uint8)
    found = memory[1:].view(array.dtype).reshape(array.shape)
    found[...] = array
    return found


LAYOUTS = [backwards, every_second, read_only, misaligned, np.asfortranarray]


@every
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(40, 1, 1), (40, 20, 40), (40, 3, 17)])
def test_layout_makes_no_difference(robustifier, layout, dtype, shape):
    n, q, p = shape
    rng = np.random.default_rng(n * q)
    x, gy = rng.normal(size=(n, 1, p)).astype(dtype), rng.normal(size=(n, 1, q)).astype(dtype)
    expected = robustifier(OuterProducts(x, gy))
    found = robustifier(OuterProducts(layout(x), layout(gy)))
    # Matrix products of NumPy may add up in another order.
    tolerance = 1e-5 if dtype == np.float32 else 1e-12
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_large_values_are_seen_in_any_layout(layout):
    """Their sum is not a number; that of what lies around them in memory would be."""
    x = np.ones((48, 1, 1), np.float32)  # whole vectors
    gy = np.full((48, 1, 1), 3e38, np.float32)
    gy[0] = 1.0
    for robustifier in (c.TrimmedMean(0.1), c.WinsorizedMean(0.1), c.Phocas(2)):
        found = robustifier(OuterProducts(layout(x), layout(gy)))
        np.testing.assert_allclose(found, 3e38, rtol=1e-6)


def test_layouts_are_compiled_for_once():
    """A layout by itself is no reason to compile anew and keep a user waiting."""
    rng = np.random.default_rng(0)

    def run(layout):
        for n, q, p in ((40, 1, 1), (40, 20, 40)):
            x, gy = (layout(rng.normal(size=(n, 1, k)).astype(np.float32)) for k in (p, q))
            for robustifier in ROBUSTIFIERS:
                robustifier(OuterProducts(x, gy))
        return {
            (name, key): len(one.compiled.signatures)
            for name, module in sys.modules.items()
            if name.startswith("chainrob.kernels.cpu.")
            for key, one in vars(module).items()
            if isinstance(one, Kernel)
        }

    compiled = run(np.copy)
    for layout in LAYOUTS:
        assert run(layout) == compiled
