"""Kernels through their launchers: arguments, replicas and results, on the stand-in for CuPy."""

import numpy as np
import pytest

import chainrob
from chainrob.kernels import gpu
from chainrob.kernels.cpu.geometric_median_kernel import geometric_median
from chainrob.kernels.gpu import weiszfeld
from chainrob.robustifiers import convergence
from tests.kernels import fake_cupy
from tests.kernels.host_kernels import COMPILER

pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler on this machine")

RHOS = ("pseudo_huber", "log_cosh", "gudermannian", "catoni")
ROBUSTIFIERS = [
    chainrob.CoordinateMedian(),
    chainrob.TrimmedMean(0.1),
    chainrob.WinsorizedMean(0.2),
    chainrob.MeanAroundMedian(f=3),
    chainrob.Phocas(f=0),
    chainrob.Phocas(f=4),
    chainrob.SoftTruncation(0.01),
    chainrob.SoftTruncation(0.01, min_variance=0.5),
    chainrob.SoftTruncation(0.01, pilot="median"),
    *(chainrob.MEstimator(rho, pilot=pilot) for rho in RHOS for pilot in ("mean", "median")),
    chainrob.MEstimator("log_cosh", scale=0.3),
]
KINDS = ("normal", "outliers", "ties", "zeros", "close", "huge", "tiny")


def make(kind, dtype, n=21, q=4, p=3, replicas=()):
    rng = np.random.default_rng(7)
    x, gy = rng.normal(size=(*replicas, n, p)), rng.normal(size=(*replicas, n, q))
    if kind == "outliers":
        x[..., :2, :] *= 1e4
    elif kind == "ties":
        x, gy = np.round(x), np.round(gy)
    elif kind == "zeros":
        x[...] = 0.0
    elif kind == "close":
        x, gy = 1.0 + 1e-3 * x, 2.0 + 1e-3 * gy
    elif kind == "huge":
        x *= 1e15
    elif kind == "tiny":
        x *= 1e-15
    return x.astype(dtype), gy.astype(dtype)


def launched(robustifier, x, gy):
    """The kernel's estimate, or None where the robustifier has none."""
    with fake_cupy.installed():
        named = robustifier.fused(x.shape[-2])
        out = gpu.fused(*named, fake_cupy.asarray(x), fake_cupy.asarray(gy))
        convergence.check_convergence()
    return fake_cupy.held(out)


@pytest.fixture(autouse=True)
def looking_is_allowed():
    with fake_cupy.transfers(1000):
        yield


def defined(robustifier, x, gy):
    """The definition on the values that the kernel sees, in float64."""
    values = (gy[..., :, None] * x[..., None, :]).astype(np.float64)
    flat = values.reshape((*values.shape[:-2], -1))
    return robustifier.reduce(flat).reshape((*values.shape[:-3], *values.shape[-2:])), values


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("robustifier", ROBUSTIFIERS, ids=repr)
def test_against_the_definition(robustifier, kind, dtype):
    x, gy = make(kind, dtype)
    expected, values = defined(robustifier, x, gy)
    found = launched(robustifier, x, gy)
    assert found.dtype == dtype
    sizes = np.sort(np.abs(values), axis=-3)
    # A mean as pilot carries the rounding of the largest value; the others that of the values kept.
    from_mean = getattr(robustifier, "pilot", None) == "mean" or robustifier == chainrob.Phocas(f=0)
    size = sizes[-1] if from_mean else sizes[-3]
    tolerance = 2e-6 if dtype == np.float32 else 1e-10
    assert (np.abs(found - expected) <= tolerance * size).all()


@pytest.mark.parametrize("robustifier", ROBUSTIFIERS, ids=repr)
@pytest.mark.parametrize("shared", [False, True])
def test_replicas_are_runs_of_their_own(robustifier, shared):
    x, gy = make("normal", np.float64, replicas=(3,))
    x = x[:1] if shared else x
    found = launched(robustifier, x, gy)
    for t in range(3):
        alone = launched(robustifier, x[0 if shared else t], gy[t])
        np.testing.assert_array_equal(found[t], alone)


@pytest.mark.parametrize("n", [1, 2, 3])
@pytest.mark.parametrize("robustifier", ROBUSTIFIERS, ids=repr)
def test_few_rows(robustifier, n):
    if getattr(robustifier, "f", 0):
        robustifier = type(robustifier)(f=(n - 1) // 2)
    x, gy = make("normal", np.float64, n=n)
    expected, _ = defined(robustifier, x, gy)
    np.testing.assert_allclose(launched(robustifier, x, gy), expected, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("robustifier", ROBUSTIFIERS, ids=repr)
def test_nan_stays_in_its_coordinates(robustifier):
    x, gy = make("normal", np.float64)
    x[5, 1] = np.nan
    found = launched(robustifier, x, gy)
    assert np.isnan(found[:, 1]).all()
    assert np.isfinite(found[:, [0, 2]]).all()


def test_an_iteration_that_is_given_up_is_reported_late():
    x, gy = make("normal", np.float64)
    robustifier = chainrob.MEstimator("catoni", pilot="median", max_iterations=1)
    with fake_cupy.installed(), fake_cupy.transfers(0):
        named = robustifier.fused(len(x))
        for _ in range(convergence.EVERY - 1):
            gpu.fused(*named, fake_cupy.asarray(x), fake_cupy.asarray(gy))
        with (
            fake_cupy.transfers(1),
            pytest.warns(chainrob.ConvergenceWarning, match="last 100 estimates"),
        ):
            gpu.fused(*named, fake_cupy.asarray(x), fake_cupy.asarray(gy))


def rows_of(kind, n, d, replicas):
    rng = np.random.default_rng(11)
    rows = rng.normal(size=(replicas, n, d))
    if kind == "outliers":
        rows[:, : n // 3] *= 1e6
    elif kind == "coincide":
        rows[:, n // 3 :] = rows[:, -1:]
    elif kind == "line":
        rows = rows[..., :1] * np.ones(d)
    elif kind == "at a row":
        rows[:, 0] = np.median(rows, axis=1)
        rows[:, 1:2] = rows[:, :1]
    return rows


@pytest.mark.parametrize("kind", ["normal", "outliers", "coincide", "line", "at a row"])
@pytest.mark.parametrize(("n", "d"), [(1, 3), (2, 3), (3, 2), (20, 5), (140, 7)])
def test_geometric_median(kind, n, d):
    rows = rows_of(kind, n, d, 3)
    gram = rows @ rows.swapaxes(-1, -2)
    expected, _, _ = geometric_median(gram.copy(), 1e-9, 200, 1e-9)
    with fake_cupy.installed(), fake_cupy.transfers(0):
        before = fake_cupy.asarray(gram)
        found = weiszfeld.geometric_median(before, 1e-9, 200, 1e-9)
        np.testing.assert_array_equal(before._held, gram)
    weights, iterations, residuals = fake_cupy.held(found)
    assert (iterations < 200).all()
    assert (residuals <= 1e-9).all()

    def cost(weights):
        points = np.einsum("tn,tnd->td", weights, rows)
        return np.linalg.norm(rows - points[:, None], axis=-1).sum(axis=-1)

    np.testing.assert_allclose(weights.sum(axis=-1), 1.0, rtol=1e-12)
    np.testing.assert_allclose(cost(weights), cost(expected), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("pilot", ["mean", "median"])
@pytest.mark.parametrize("size", [1e-22, 1e-24, 3e-25, 1e-25, 1e-30])
def test_squares_that_are_hardly_numbers(size, pilot):
    """Where squares are denormal numbers of few digits, the variance is found otherwise."""
    x, gy = make("outliers", np.float32, n=40)
    x = (x * size).astype(np.float32)
    robustifier = chainrob.SoftTruncation(0.2, pilot=pilot)
    expected, values = defined(robustifier, x, gy)
    error = np.abs(launched(robustifier, x, gy) - expected)
    assert (error <= 2e-6 * np.abs(values).max(axis=-3)).all()


@pytest.mark.parametrize("pilot", ["mean", "median"])
def test_spreads_that_have_no_inverse(pilot):
    """Below 1e-308 a kernel that multiplies by the inverse truncates nothing."""
    x, gy = make("normal", np.float64, n=40)
    x *= 1e-310
    robustifier = chainrob.SoftTruncation(0.01, pilot=pilot)
    expected, values = defined(robustifier, x, gy)
    expected = values.mean(axis=0) if pilot == "mean" else expected
    error = np.abs(launched(robustifier, x, gy) - expected)
    assert (error <= 1e-9 * np.abs(values).max(axis=-3)).all()


def test_more_replicas_than_most_axes_of_a_grid_hold():
    rows = rows_of("normal", 2, 3, 70_000)
    with fake_cupy.installed(), fake_cupy.transfers(0):
        gram = fake_cupy.asarray(rows @ rows.swapaxes(-1, -2))
        weights, _, _ = weiszfeld.geometric_median(gram, 1e-9, 200, 1e-9)
    np.testing.assert_allclose(fake_cupy.held(weights), 0.5)


def test_blocks_of_a_team_run_together():
    assert weiszfeld._blocks(100, 1, 132) == 1
    assert weiszfeld._blocks(1024, 1, 132) == 128
    assert weiszfeld._blocks(4096, 1, 132) == 132
    assert weiszfeld._blocks(1024, 10, 132) == 13
    assert weiszfeld._blocks(1024, 1000, 132) == 1


def test_what_has_no_kernel():
    x, gy = make("normal", np.float64)
    with fake_cupy.installed():
        arrays = fake_cupy.asarray(x), fake_cupy.asarray(gy)
        assert gpu.fused("unknown", (), *arrays) is None
        half = tuple(one.astype(np.float16) for one in arrays)
        assert gpu.fused("coordinate_median", (), *half) is None
        assert gpu.fused("coordinate_median", (), arrays[0][:0], arrays[1][:0]) is None
