"""Estimates on a device without waiting for it, on the strict stand-in for CuPy."""

import numpy as np
import pytest

import chainrob
import chainrob.robustifiers as C
from chainrob.functions.gradient_node import Aggregation, GradientNode
from chainrob.functions.linear_function import LinearFunction
from chainrob.robustifiers import convergence
from chainrob.sample_gradients import Dense, Joined, OuterProducts
from tests.kernels import fake_cupy
from tests.kernels.host_kernels import COMPILER

pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler on this machine")

WITHOUT_WAITING = [
    chainrob.Mean(),
    chainrob.SoftTruncation(0.01),
    chainrob.SoftTruncation(0.01, pilot="median", min_variance=0.1),
    chainrob.MEstimator(),
    chainrob.MEstimator("log_cosh", pilot="median", scale=0.5),
    chainrob.CoordinateMedian(),
    chainrob.TrimmedMean(0.1),
    chainrob.WinsorizedMean(count=2),
    chainrob.MeanAroundMedian(f=2),
    chainrob.Phocas(f=2),
    chainrob.GeometricMedian(),
    chainrob.MedianOfMeans(n_blocks=4),
    chainrob.MedianOfMeans(n_blocks=4, center="coordinate"),
    chainrob.Krum(f=2),
    chainrob.MultiKrum(f=2),
    chainrob.CenteredClipping(),
    chainrob.CenteredClipping(start="zero"),
    chainrob.NearestNeighborMixing(f=2) >> chainrob.CoordinateMedian(),
    chainrob.Bucketing(2) >> chainrob.TrimmedMean(0.2),
    chainrob.Bucketing(2) >> chainrob.MEstimator(pilot="median"),
    chainrob.AdaptiveRobustClipping(f=2) >> chainrob.GeometricMedian(),
    chainrob.ClipNorm(1.0) >> chainrob.Mean(),
    chainrob.NearestNeighborMixing(f=2) >> chainrob.Krum(f=1),
]
"""Robustifiers whose estimate is queued and not waited for."""

SEARCHING = [
    C.CAF(f=2),
    C.SMEA(f=2),
    C.MinimumDiameterAveraging(f=2),
]
"""Robustifiers that decide on the host what to look at next, as their docstrings say."""


def arrays(dtype, replicas=(), n=12, s=1, p=5, q=4):
    rng = np.random.default_rng(2)
    x, gy = rng.normal(size=(*replicas, n, s, p)), rng.normal(size=(*replicas, n, s, q))
    gy[..., :1, :, :] *= 50.0
    return x.astype(dtype), gy.astype(dtype)


def operators(dtype, **sizes):
    """Pairs of an operator on the host and the same one on the stand-in."""
    x, gy = arrays(dtype, **sizes)
    rows = gy.sum(axis=-2)
    n_axes = len(sizes.get("replicas", ()))

    def make(move):
        products = OuterProducts(move(x), move(gy))
        bias = Dense(move(rows), n_axes)
        return {
            "outer": products,
            "dense": bias,
            "joined": Joined([products, bias]),
            "units": products.units(),
        }

    return make(np.array), make(fake_cupy.asarray)


def close(found, expected, dtype):
    # Both are held to 1e-4 of the truth in float32, an iteration in one and a kernel in the other.
    tolerance = {np.float64: 1e-9, np.float32: 1e-4, np.float16: 4e-3}[dtype]
    pairs = zip(found, expected, strict=True) if isinstance(found, tuple) else [(found, expected)]
    for one, other in pairs:
        assert one.dtype == other.dtype
        assert one.shape == other.shape
        size = np.abs(other).max() + 1e-30
        np.testing.assert_allclose(one / size, other / size, rtol=tolerance, atol=tolerance)


def without_looking(robustifier, nonfinite):
    """The same robustifier with another policy."""
    if isinstance(robustifier, C.Pipeline):
        return C.Pipeline(robustifier.steps, without_looking(robustifier.robustifier, nonfinite))
    from dataclasses import replace

    return replace(robustifier, nonfinite=nonfinite)


@pytest.fixture(autouse=True)
def forget_what_is_pending():
    yield
    convergence._pending.clear()


@pytest.mark.parametrize(
    "sizes",
    [{}, {"replicas": (3,)}, {"s": 3}],
    ids=["layer", "replicas", "positions"],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
@pytest.mark.parametrize("robustifier", WITHOUT_WAITING, ids=repr)
def test_nothing_waits(robustifier, dtype, sizes):
    with fake_cupy.installed():
        host, device = operators(dtype, **sizes)
        for kind, operator in device.items():
            expected = robustifier(host[kind])
            with fake_cupy.transfers(0):
                found = without_looking(robustifier, "propagate")(operator)
            close(fake_cupy.held(found), expected, dtype)
            # To drop rows, or to raise, it must be known whether there are any: one number.
            for policy in ("drop", "raise"):
                with fake_cupy.transfers(1) as count:
                    without_looking(robustifier, policy)(operator)
                assert count.transfers == 1


@pytest.mark.parametrize("robustifier", SEARCHING, ids=repr)
def test_searches_wait_and_answer(robustifier):
    with fake_cupy.installed(), fake_cupy.transfers(10_000):
        host, device = operators(np.float64)
        close(fake_cupy.held(robustifier(device["outer"])), robustifier(host["outer"]), np.float64)


@pytest.mark.parametrize("robustifier", WITHOUT_WAITING[:11], ids=repr)
def test_bad_rows_are_dropped(robustifier):
    with fake_cupy.installed(), fake_cupy.transfers(20):
        x, gy = arrays(np.float32)
        gy[3] = np.nan
        device = OuterProducts(fake_cupy.asarray(x), fake_cupy.asarray(gy))
        with pytest.warns(chainrob.NonFiniteGradientWarning):
            found = robustifier(device)
        with pytest.warns(chainrob.NonFiniteGradientWarning):
            expected = robustifier(OuterProducts(x, gy))
        close(fake_cupy.held(found), expected, np.float32)


def test_geometric_median_reports_late():
    robustifier = chainrob.GeometricMedian(max_iterations=1, nonfinite="propagate")
    with fake_cupy.installed(), fake_cupy.transfers(0):
        operator = operators(np.float32)[1]["outer"]
        robustifier(operator)
        with (
            fake_cupy.transfers(1),
            pytest.warns(chainrob.ConvergenceWarning, match="did not converge"),
        ):
            convergence.check_convergence()


@pytest.mark.parametrize("exponent", [-300, 0, 300])
def test_float64_at_any_scale(exponent):
    x, gy = arrays(np.float64)
    gy = np.ldexp(gy, exponent)
    with fake_cupy.installed():
        robustifier = chainrob.GeometricMedian(nonfinite="propagate")
        with fake_cupy.transfers(0):
            found = robustifier(OuterProducts(fake_cupy.asarray(x), fake_cupy.asarray(gy)))
        expected = robustifier(OuterProducts(x, gy))
    size = np.abs(expected).max()
    np.testing.assert_allclose(fake_cupy.held(found) / size, expected / size, atol=1e-9)


def test_the_stand_in_refuses_what_waits():
    with fake_cupy.installed() as cupy, fake_cupy.transfers(0):
        array = fake_cupy.asarray(np.arange(3.0))
        for wait in (float, bool, lambda a: a[0].item(), lambda a: a[a > 1], cupy.flatnonzero):
            with pytest.raises(fake_cupy.HostTransfer):
                wait(array[:1] if wait in (float, bool) else array)
        with pytest.raises(TypeError, match=r"numpy\.ndarray|unsupported operand"):
            cupy.maximum(array, np.ones(3))
        with pytest.raises(TypeError):
            np.median(array)
        with pytest.raises(TypeError, match="Implicit conversion"):
            np.asarray(array)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("scope", ["unit", "parameter", "layer"])
def test_the_backward_node_waits_for_nothing(scope, reduction):
    """What a robust layer does between gy and the gradients that the optimizer gets."""
    robustifier = chainrob.GeometricMedian(nonfinite="propagate")
    plan = Aggregation(robustifier, reduction, scope)
    x, gy = (one[:, 0] for one in arrays(np.float32))
    results = []
    with fake_cupy.installed():
        for move in (np.array, fake_cupy.asarray):
            function = LinearFunction(plan)
            dtypes = {1: np.dtype(np.float32), 2: np.dtype(np.float32)}
            node = GradientNode(
                function.sample_gradients, plan, [1, 2], LinearFunction.parameters, dtypes
            )
            with fake_cupy.transfers(0):
                results.append(node.forward((move(x), move(gy))))
    close(fake_cupy.held(results[1]), results[0], np.float32)


def test_settings_of_an_ensemble_wait_for_nothing():
    mixed = [chainrob.Mean(nonfinite="propagate"), chainrob.TrimmedMean(0.1, nonfinite="propagate")]
    robustifier = chainrob.PerReplica((mixed[0], mixed[1], mixed[0]))
    with fake_cupy.installed():
        host, device = operators(np.float32, replicas=(3,))
        with fake_cupy.transfers(0):
            found = robustifier(device["outer"])
        close(fake_cupy.held(found), robustifier(host["outer"]), np.float32)
