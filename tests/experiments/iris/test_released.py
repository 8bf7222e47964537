"""The released program's estimator against a loop written from its description."""

import math
import pickle

import numpy as np
import pytest

import chainrob
import chainer
from chainrob.experiments.iris import ReleasedSoftTruncation


def loop(rows, delta=0.005, scale="batch", ddof=0, floor=0.001, small="sum"):
    """Coordinate by coordinate and sample by sample, on the 1/N-scaled rows, in float64."""
    n, d = rows.shape
    h = rows.astype(np.float64) / n
    result = np.empty(d)
    for j in range(d):
        column = [float(value) for value in h[:, j]]
        if n < 3 and small == "sum":
            result[j] = sum(column)
            continue
        mean = sum(column) / n
        variance = max(sum((value - mean) ** 2 for value in column) / max(n - ddof, 1), floor)
        s = math.sqrt(n * variance / (2 * math.log(1 / delta)))
        total = 0.0
        for value in column:
            u = (value - mean) / s if s > 0 else 0.0
            if abs(u) <= math.sqrt(2):
                total += u - u**3 / 6
            else:
                total += math.copysign(2 * math.sqrt(2) / 3, u)
        result[j] = mean + s / n * total
        if scale == "sample":
            result[j] *= n
    return result


def outliers(n, d, dtype, seed=0):
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(n, d)) * 10.0 ** rng.uniform(-2, 2, size=d)
    rows[: max(1, n // 50)] *= 1e4
    return rows.astype(dtype)


@pytest.mark.parametrize("n", [3, 5, 100])
@pytest.mark.parametrize("scale", ["batch", "sample"])
@pytest.mark.parametrize("ddof", [0, 1])
@pytest.mark.parametrize("floor", [0.0, 0.001, 1.0])
def test_equals_the_loop(n, scale, ddof, floor):
    rows = outliers(n, 12, np.float64)
    estimator = ReleasedSoftTruncation(
        0.01, estimate_scale=scale, variance_ddof=ddof, variance_floor=floor
    )
    expected = loop(rows, 0.01, scale, ddof, floor)
    np.testing.assert_allclose(estimator(rows), expected, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("n", [1, 2])
def test_few_rows_are_summed(n):
    rows = outliers(n, 4, np.float64)
    for scale in ("batch", "sample"):
        estimator = ReleasedSoftTruncation(estimate_scale=scale)
        np.testing.assert_allclose(estimator(rows), (rows / n).sum(axis=0), rtol=1e-12)


def test_one_or_two_rows_without_the_exception():
    one, two = outliers(1, 4, np.float64), outliers(2, 4, np.float64)
    estimator = ReleasedSoftTruncation(small_batches="estimate")
    np.testing.assert_allclose(estimator(one), one[0], rtol=1e-12)
    np.testing.assert_allclose(estimator(two), loop(two, small="estimate"), rtol=1e-10)


def test_is_the_texts_estimator_when_nothing_differs():
    rows = outliers(50, 7, np.float64)
    text = ReleasedSoftTruncation(
        estimate_scale="sample", variance_ddof=1, variance_floor=0.0, small_batches="estimate"
    )
    np.testing.assert_allclose(text(rows), chainrob.SoftTruncation(0.005)(rows), rtol=1e-13)


@pytest.mark.parametrize("fused", [True, False])
def test_layer_gradients_equal_the_loop_plugged_in_as_a_callable(fused):
    """In the released program's units: gW and gb of a layer, float32, with outlying inputs."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(100, 2)).astype(np.float32)
    x[:2] *= 1e4
    t = rng.integers(0, 3, size=100).astype(np.int32)
    robustifier = ReleasedSoftTruncation() if fused else lambda rows: loop(rows).astype(rows.dtype)
    layer = chainrob.links.Linear(2, 3, robustifier=robustifier)
    layer.W.array[...] = rng.normal(size=(3, 2)) * 0.1
    y = layer(x)
    loss = chainer.functions.softmax_cross_entropy(y, t)
    layer.cleargrads()
    loss.backward(retain_grad=True)
    rows_b = y.grad.astype(np.float64) * 100
    rows_w = rows_b[:, :, None] * x[:, None, :]
    expected = loop(rows_w.reshape(100, 6)).reshape(3, 2)
    # Outliers of 1e4 leave a float32 sum with an error of their own size times 2^-24.
    scale = np.abs(rows_w).sum(axis=0) / 100**2
    assert (np.abs(layer.W.grad - expected) <= 5e-6 * scale).all()
    np.testing.assert_allclose(layer.b.grad, loop(rows_b), rtol=1e-4, atol=1e-7)


def test_weights_of_samples_are_one_without_truncation_and_small_for_outliers():
    rows = outliers(100, 3, np.float64)
    weights = ReleasedSoftTruncation().sample_weights(rows)
    assert weights.shape == (100,)
    assert (weights[:2] < 0.6).all()
    assert (weights[2:] > 0.95).all()
    np.testing.assert_array_equal(ReleasedSoftTruncation().sample_weights(rows[:2]), 1.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"delta": 0.0}, "delta must lie strictly between 0 and 1"),
        ({"variance_floor": -1.0}, "min_variance must be at least 0"),
        ({"estimate_scale": "mean"}, "estimate_scale must be 'batch' or 'sample', found 'mean'"),
        ({"variance_ddof": 2}, "variance_ddof must be 0 or 1, found 2"),
        ({"small_batches": "mean"}, "small_batches must be 'sum' or 'estimate', found 'mean'"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        ReleasedSoftTruncation(**arguments)


def test_value_semantics():
    one = ReleasedSoftTruncation(0.01)
    assert pickle.loads(pickle.dumps(one)) == one
    assert one != ReleasedSoftTruncation(0.02)
    assert "delta=0.01" in repr(one)
