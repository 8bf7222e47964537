"""Soft truncation from the moments of all coordinates, against the definition in float64."""

import logging

import numpy as np
import pytest

import chainrob
from chainrob.kernels import gpu
from chainrob.kernels.gpu import moments
from tests.kernels import fake_cupy
from tests.kernels.host_kernels import COMPILER

pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler on this machine")

DELTA = 0.05
DTYPES = [np.float32, np.float64]


def normal(rng, n, p, q):
    return rng.normal(size=(n, p)), rng.normal(size=(n, q))


def bad_rows(rng, n, p, q):
    x, gy = normal(rng, n, p, q)
    x[: n // 10] *= 50.0
    return x, gy


def one_huge_row(rng, n, p, q):
    x, gy = normal(rng, n, p, q)
    x[n // 2] *= 1e8
    gy[n // 2] *= 1e8
    return x, gy


def huge_in_different_rows(rng, n, p, q):
    x, gy = normal(rng, n, p, q)
    x[3] *= 1e7
    gy[n - 1] *= 1e7
    return x, gy


def heavy_tails(rng, n, p, q):
    return rng.standard_t(1.2, size=(n, p)), rng.standard_t(1.2, size=(n, q))


def sparse(rng, n, p, q):
    x, gy = normal(rng, n, p, q)
    return x * (rng.random(x.shape) < 0.03), gy * (rng.random(gy.shape) < 0.05)


def disjoint(rng, n, p, q):
    """Coordinates whose values are all zero though no column is, or next to underflow."""
    x, gy = normal(rng, n, p, q)
    x[: n // 2, ::2] = 0.0
    gy[n // 2 :, ::2] = 0.0
    gy[0, ::4] = 1e-17
    x[0, ::3] = 1e-17
    return x, gy


def zeros(rng, n, p, q):
    x, gy = normal(rng, n, p, q)
    x[:, :18] = 0.0
    gy[:, 1] = 0.0
    return x, gy


def close(rng, n, p, q):
    x, gy = normal(rng, n, p, q)
    return 1.0 + 1e-3 * x, 2.0 + 1e-3 * gy


def skewed(rng, n, p, q):
    return rng.exponential(size=(n, p)), rng.lognormal(size=(n, q))


def any_scale(rng, n, p, q):
    x, gy = bad_rows(rng, n, p, q)
    return x * np.logspace(-17, 17, p), gy * np.logspace(16, -16, q)


def opposite(rng, n, p, q):
    """Samples whose factors are far apart while their products are alike: squares of the factors
    alone would underflow.
    """
    x, gy = normal(rng, n, p, q)
    size = np.logspace(-12, 12, n)[:, None]
    return x * size, gy / size


KINDS = [
    normal, bad_rows, one_huge_row, huge_in_different_rows, heavy_tails, sparse, disjoint, zeros,
    close, skewed, any_scale, opposite,
]  # fmt: skip


def estimate(x, gy, min_variance=0.0, threads=False, backwards=False):
    saved = fake_cupy.Emulation.on, fake_cupy.Emulation.backwards
    fake_cupy.Emulation.on, fake_cupy.Emulation.backwards = threads, backwards
    try:
        with fake_cupy.installed(), fake_cupy.transfers(0), np.errstate(invalid="ignore"):
            arrays = fake_cupy.asarray(x), fake_cupy.asarray(gy)
            return fake_cupy.held(moments.soft_truncation(*arrays, DELTA, min_variance))
    finally:
        fake_cupy.Emulation.on, fake_cupy.Emulation.backwards = saved


def defined(x, gy, min_variance=0.0):
    """The definition in float64 of the products as the kernels round them, and their root mean
    squares.
    """
    values = (gy[:, :, None] * x[:, None, :]).astype(np.float64)
    flat = values.reshape(len(values), -1)
    robustifier = chainrob.SoftTruncation(DELTA, min_variance=min_variance)
    sizes = np.sqrt((values**2).mean(axis=0))
    return robustifier.reduce(flat).reshape(values.shape[1:]), sizes


def make(kind, dtype, n=300, p=37, q=21):
    x, gy = kind(np.random.default_rng(3), n, p, q)
    return x.astype(dtype), gy.astype(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [5, 300])
def test_against_the_definition(kind, dtype, n):
    x, gy = make(kind, dtype, n)
    expected, sizes = defined(x, gy)
    found = estimate(x, gy)
    assert found.dtype == dtype
    # A hundredth of what is asked of the estimate beside its typical value.
    tolerance = 1e-6 if dtype == np.float32 else 1e-13
    tiny = np.finfo(dtype).tiny
    assert (np.abs(found - expected) <= tolerance * sizes + tiny).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", [normal, bad_rows, sparse, zeros, close])
@pytest.mark.parametrize("backwards", [False, True])
def test_thread_by_thread(kind, dtype, backwards):
    """Blocks at the edges, a last round of samples that is not full, and blocks of both ways."""
    x, gy = make(kind, dtype)
    found = estimate(x, gy, threads=True, backwards=backwards)
    np.testing.assert_array_equal(found, estimate(x, gy))


@pytest.mark.parametrize("kind", [normal, any_scale, zeros])
@pytest.mark.parametrize("min_variance", [1e-30, 1.0, 1e30])
def test_floor_of_the_variance(kind, min_variance):
    x, gy = make(kind, np.float64)
    expected, sizes = defined(x, gy, min_variance)
    assert (np.abs(estimate(x, gy, min_variance) - expected) <= 1e-13 * sizes).all()


def test_every_sample_is_looked_at():
    """One truncated value a run of 32 samples, in one place of the first, second or last block."""
    n, p, q = 600, 33, 17
    x, gy = np.full((n, p), 0.01), np.ones((n, q))
    x[::2] *= -1.0
    for sample in (0, 31, 32, 255, 256, 511, 512, n - 1):
        for column in (0, 16, 32):
            one = x.copy()
            one[sample, column] = 1.0
            expected, sizes = defined(one, gy)
            found = estimate(one, gy, threads=sample in (256, n - 1) and column == 32)
            np.testing.assert_array_less(np.abs(found - expected), 1e-13 * sizes)


def test_nan_stays_in_its_coordinates():
    x, gy = make(normal, np.float32)
    x[5, 1] = np.nan
    gy[7, 20] = np.inf
    for threads in (False, True):
        found = estimate(x, gy, threads=threads)
        assert np.isnan(found[:, 1]).all()
        clean = np.isfinite(np.delete(np.delete(found, 1, axis=1), 20, axis=0))
        assert clean.all()
        assert not np.isfinite(found[20]).any()


def test_few_samples_are_looked_at():
    """What the search is for: of normal values next to no sample is looked at twice."""
    x, gy = make(normal, np.float32, n=1024, p=128, q=128)
    with fake_cupy.installed():
        a, b = (moments.with_powers(fake_cupy.asarray(one)) for one in (gy, x))
        down, across, of_a, of_b = fake_cupy.held([a.reach, b.reach, a.values, b.values])
    n = len(x)
    deviations = np.std(of_a[:, :, None] * of_b[:, None, :], axis=0, ddof=1)
    unit = np.sqrt((of_a**2).mean(axis=0)[:, None] * (of_b**2).mean(axis=0))
    # Beyond sqrt(2) s, s^2 = variance n / (2 log(1 / delta)).
    limits = (deviations / unit).reshape(8, 16, 8, 16).min(axis=(1, 3))
    limits = 0.9 * np.sqrt(n / np.log(1 / 0.005)) * limits
    share = (down[:, None] * across[None] > limits[..., None]).mean()
    assert share < 1e-3


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_way_is_chosen_by_size(monkeypatch, caplog, dtype):
    """And which one was taken is told."""
    caplog.set_level(logging.DEBUG, "chainrob.kernels.gpu")
    rng = np.random.default_rng(0)
    x, gy = (one.astype(dtype) for one in normal(rng, 400, 19, 18))
    named = chainrob.SoftTruncation(DELTA).fused(400)
    found = []
    for many in (moments.MANY, 1):
        monkeypatch.setattr(moments, "MANY", many)
        with fake_cupy.installed(), fake_cupy.transfers(0):
            arrays = fake_cupy.asarray(x), fake_cupy.asarray(gy)
            found.append(fake_cupy.held(gpu.fused(*named, *arrays)))
    names = [record.getMessage() for record in caplog.records]
    kind = np.dtype(dtype).name
    assert names == [f"soft_truncation_mean_{kind}", f"soft_truncation_moments_{kind}"]
    np.testing.assert_allclose(*found, atol=1e-6 if dtype == np.float32 else 1e-14)


def test_where_the_moments_pay():
    assert moments.pays(1024, 4096, 4096, 0.005)
    assert not moments.pays(300, 8192, 8192, 0.005)  # many values are truncated
    assert not moments.pays(1024, 1, 1 << 24, 0.005)  # rows given as an array
    assert not moments.pays(1024, 784, 1000, 0.005)  # launches take longer
