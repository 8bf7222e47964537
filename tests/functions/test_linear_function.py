"""The robust gradients of a linear layer against robustifiers of rows that are written out."""

import numpy as np
import pytest

import chainrob
import chainer
from chainer import gradient_check
from chainer.utils import type_check
from tests.oracles.estimators import adaptive_mean_of_layer
from tests.oracles.tutorial_loop import layer_gradients, soft_truncated_mean
from tests.robustifiers.cases import CASES, IDS

every = pytest.mark.parametrize("case", CASES, ids=IDS)
P, Q = 4, 3


def make(case, n, f=2):
    """The robustifier of a case for n rows; geometric medians with their own tolerance."""
    text = repr(case.make(min(f, case.limit(n))))
    text = text.replace("tolerance=1e-12, max_iterations=20000", "")
    return chainrob.robustifiers.get(text)


def layer_data(n, positions=(), dtype=np.float64, seed=0):
    """x, W, b and gy of a layer; every eighth sample is far out."""
    rng = np.random.default_rng([n, seed])
    x = rng.normal(size=(n, *positions, P)) + 0.5
    gy = rng.normal(size=(n, *positions, Q)) / n
    x[::8] *= 30.0
    W, b = rng.normal(size=(Q, P)), rng.normal(size=Q)
    return tuple(array.astype(dtype) for array in (x, W, b, gy))


def gradients(x, W, b, gy, **options):
    """gW, gb (None without b) and gx of the function under test."""
    x, W = chainer.Variable(x), chainer.Parameter(W.copy())
    b = None if b is None else chainer.Parameter(b.copy())
    y = chainrob.functions.linear(x, W, b, x.ndim - 1, **options)
    y.grad = gy
    y.backward()
    return W.grad, None if b is None else b.grad, x.grad


def written_out(x, gy):
    """Rows (N, Q, P) of W and (N, Q) of b: outer products, summed over further batch axes."""
    n = len(x)
    x, gy = x.reshape(n, -1, P), gy.reshape(n, -1, Q)
    return np.einsum("nsq,nsp->nqp", gy, x), gy.sum(axis=1)


def expected(robustifier, x, gy, bias, reduction, scope):
    n = len(x)
    rows_w, rows_b = written_out(x, gy)
    factor = n if reduction == "mean" else 1
    rows_w, rows_b = rows_w * factor, rows_b * factor
    if scope == "unit":
        gw = np.stack([robustifier(rows_w[:, q]) for q in range(Q)])
        gb = np.concatenate([robustifier(rows_b[:, q : q + 1]) for q in range(Q)])
    elif scope == "layer" and bias:
        joined = robustifier(np.concatenate([rows_w.reshape(n, -1), rows_b], axis=1))
        gw, gb = joined[: Q * P].reshape(Q, P), joined[Q * P :]
    else:
        gw, gb = robustifier(rows_w.reshape(n, -1)).reshape(Q, P), robustifier(rows_b)
    if isinstance(robustifier, chainrob.AdaptiveMean) and scope != "unit" and n > 2:
        # It looks at inputs and output gradients, which the rows that are written out do not tell.
        joined = scope == "layer" and bias
        found = adaptive_mean_of_layer(x, gy * factor, bias=joined)
        gw, gb = (found[:, :P], found[:, P]) if joined else (found, gb)
    back = n if reduction == "sum" else 1
    return gw * back, gb * back if bias else None


def compare(case, n, *, positions=(), bias=True, reduction="mean", scope="layer", f=2):
    robustifier = make(case, n, f)
    x, W, b, gy = layer_data(n, positions)
    b = b if bias else None
    options = {"robustifier": robustifier, "loss_reduction": reduction, "scope": scope}
    gw, gb, gx = gradients(x, W, b, gy, **options)
    # A geometric median in few coordinates may lie on a row, and in one be a whole interval.
    tolerance = 1e-6 if "geometric" in case.name else 1e-9
    want_w, want_b = expected(robustifier, x, gy, bias, reduction, scope)
    size = np.abs(want_w).max()
    np.testing.assert_allclose(gw, want_w, rtol=tolerance, atol=tolerance * size)
    if bias:
        np.testing.assert_allclose(gb, want_b, rtol=tolerance, atol=tolerance * size)
    np.testing.assert_allclose(gx, gy @ W, rtol=1e-12)


@every
@pytest.mark.parametrize(
    ("scope", "reduction", "bias"),  # every pair of two of them
    [
        ("unit", "mean", True),
        ("unit", "sum", False),
        ("parameter", "mean", False),
        ("parameter", "sum", True),
        ("layer", "mean", False),
        ("layer", "sum", True),
    ],
)
def test_scopes_and_reductions(case, scope, reduction, bias):
    compare(case, 10, scope=scope, reduction=reduction, bias=bias)


@every
@pytest.mark.parametrize("n", [1, 2, 3, 40, 300])
def test_batch_sizes(case, n):
    if n > 40 and case.name in ("smea",):
        pytest.skip("its search is refused there")
    compare(case, n, f=1 if n <= 40 else 2)


@every
@pytest.mark.parametrize("positions", [(2,), (1,), (3, 2)])
@pytest.mark.parametrize("scope", ["unit", "layer"])
def test_further_batch_axes_belong_to_their_sample(case, positions, scope):
    compare(case, 9, positions=positions, scope=scope)


@every
@pytest.mark.parametrize("shared", [True, False])
def test_replicas(case, shared):
    """T layers in one graph are T layers."""
    robustifier = make(case, 9)
    parts = [layer_data(9, seed=seed) for seed in range(3)]
    stacked = [np.stack(arrays) for arrays in zip(*parts, strict=True)]
    x = parts[0][0] if shared else stacked[0]
    W, b = chainer.Parameter(stacked[1]), chainer.Parameter(stacked[2])
    y = chainrob.functions.linear(x, W, b, robustifier=robustifier)
    y.grad = stacked[3]
    y.backward()
    for t, (own_x, own_w, own_b, gy) in enumerate(parts):
        gw, gb, _ = gradients(x if shared else own_x, own_w, own_b, gy, robustifier=robustifier)
        np.testing.assert_allclose(W.grad[t], gw, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(b.grad[t], gb, rtol=1e-6, atol=1e-6)


@every
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_dtypes(case, dtype):
    robustifier = make(case, 9)
    x, W, b, gy = layer_data(9, dtype=dtype)
    gw, gb, gx = gradients(x, W, b, gy, robustifier=robustifier)
    assert gw.dtype == gb.dtype == gx.dtype == dtype
    want_w, want_b = expected(robustifier, x.astype(float), gy.astype(float), True, "mean", "layer")
    tolerance = 2e-2 if dtype == np.float16 else 1e-4
    size = np.abs(want_w).max()
    np.testing.assert_allclose(gw, want_w, rtol=tolerance, atol=tolerance * size)
    np.testing.assert_allclose(gb, want_b, rtol=tolerance, atol=tolerance * size)


@pytest.mark.parametrize("scope", ["unit", "parameter", "layer"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("positions", [(), (2,)])
def test_plain_callables(scope, reduction, positions):
    calls = []

    def quartile(rows):
        calls.append(rows.shape)
        return np.quantile(rows, 0.25, axis=0)

    x, W, b, gy = layer_data(11, positions)
    options = {"robustifier": quartile, "loss_reduction": reduction, "scope": scope}
    gw, gb, _ = gradients(x, W, b, gy, **options)
    want_w, want_b = expected(quartile, x, gy, True, reduction, scope)
    np.testing.assert_allclose(gw, want_w, rtol=1e-12)
    np.testing.assert_allclose(gb, want_b, rtol=1e-12)
    sizes = {"unit": {P, 1}, "parameter": {Q * P, Q}, "layer": {Q * P + Q}}[scope]
    assert {shape[1] for shape in calls} == sizes


def test_a_plain_callable_sees_the_dtype_of_the_layer_and_may_not_change_the_shape():
    x, W, b, gy = layer_data(5, dtype=np.float32)
    seen = []

    def first(rows):
        seen.append(rows.dtype)
        return rows[0].astype(np.float64)

    gw, _, _ = gradients(x, W, b, gy, robustifier=first)
    assert seen == [np.float32]
    assert gw.dtype == np.float32
    with pytest.raises(ValueError, match=r"must turn an array of shape \(5, 15\) into one"):
        gradients(x, W, b, gy, robustifier=lambda rows: rows)


def test_the_tutorials_loop():
    """Listing 4 with the released estimator, as a plain callable at the released scale."""
    x, W, b, gy = layer_data(60, dtype=np.float32)
    want_w, want_b = layer_gradients(x, gy)

    def released(rows):  # gets rows N times as large, and gives back the released estimate
        return soft_truncated_mean(rows / rows.dtype.type(len(rows)))

    for scope in ("unit", "layer"):
        gw, gb, _ = gradients(x, W, b, gy, robustifier=released, scope=scope)
        np.testing.assert_allclose(gw, want_w, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(gb, want_b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("scope", ["unit", "layer"])
def test_soft_truncation_is_the_loop_at_the_scale_of_the_text(scope):
    x, W, b, gy = layer_data(60)

    def of_the_text(rows):
        return soft_truncated_mean(rows * len(rows), variance_ddof=1, variance_floor=0.0)

    want_w, want_b = layer_gradients(x, gy, of_the_text)
    gw, gb, _ = gradients(x, W, b, gy, robustifier=chainrob.SoftTruncation(0.005), scope=scope)
    np.testing.assert_allclose(gw, want_w, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(gb, want_b, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("robustifier", [None, chainrob.Mean()])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(np.float16, 1e-2), (np.float32, 1e-6), (np.float64, 1e-14)]
)
@pytest.mark.parametrize("bias", [True, False])
def test_mean_and_none_are_the_stock_function(robustifier, reduction, dtype, tolerance, bias):
    x, W, b, gy = layer_data(12, dtype=dtype)
    b = b if bias else None
    stock_x, stock_w = chainer.Variable(x), chainer.Parameter(W.copy())
    stock_b = None if b is None else chainer.Parameter(b.copy())
    y = chainer.functions.linear(stock_x, stock_w, stock_b)
    y.grad = gy
    y.backward()
    gw, gb, gx = gradients(x, W, b, gy, robustifier=robustifier, loss_reduction=reduction)
    ours = chainrob.functions.linear(x, W, b, robustifier=robustifier)
    tolerance = 0 if robustifier is None else tolerance
    size = float(np.abs(stock_w.grad).max())
    np.testing.assert_allclose(ours.array, y.array, rtol=tolerance, atol=10 * tolerance)
    np.testing.assert_allclose(gw, stock_w.grad, rtol=tolerance, atol=tolerance * size)
    np.testing.assert_allclose(gx, stock_x.grad, rtol=tolerance, atol=10 * tolerance)
    if bias:
        np.testing.assert_allclose(gb, stock_b.grad, rtol=tolerance, atol=tolerance * size)


def test_backward_of_the_mean_by_finite_differences():
    x, W, b, gy = layer_data(5)
    gradient_check.check_backward(
        lambda *inputs: chainrob.functions.linear(*inputs, robustifier=chainrob.Mean()),
        (x, W, b),
        gy,
        dtype=np.float64,
        atol=1e-6,
        rtol=1e-6,
    )


@every
def test_gx_by_finite_differences(case):
    x, W, b, gy = layer_data(9)
    robustifier = make(case, 9)
    gradient_check.check_backward(
        lambda x: chainrob.functions.linear(x, W, b, robustifier=robustifier),
        (x,),
        gy,
        dtype=np.float64,
        atol=1e-6,
        rtol=1e-6,
    )


def test_an_empty_batch():
    for robustifier in (chainrob.Mean(), chainrob.GeometricMedian(), chainrob.CoordinateMedian()):
        x, W, b, gy = layer_data(0)
        gw, gb, gx = gradients(x, W, b, gy, robustifier=robustifier)
        assert not gw.any()
        assert not gb.any()
        assert gx.shape == (0, P)


@pytest.mark.parametrize("robustifier", [chainrob.TrimmedMean(count=2), chainrob.Krum(f=2)])
def test_corrupted_samples_in_the_batch(robustifier):
    x, W, b, gy = layer_data(12, dtype=np.float32)
    x[5] = np.nan
    with pytest.warns(chainrob.NonFiniteGradientWarning, match="hold NaN or infinity"):
        gw, gb, _ = gradients(x, W, b, gy, robustifier=robustifier)
    assert np.isfinite(gw).all()
    assert np.isfinite(gb).all()


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (("f4:5,4", "f4:3,5", None), "x.shape"),
        (("i4:5,4", "f4:3,4", None), "dtype"),
        (("f4:5,4", "f4:3,4", "f4:2"), "b.shape"),
        (("f4:5,4", "f4:3,4", "f8:3"), "b.dtype"),
        (("f4:5,4", "f4:3,4", "f4:3,1"), "b.ndim"),
    ],
)
def test_type_checks_print_expected_and_actual(arrays, message):
    made = []
    for text in arrays:
        if text is not None:
            dtype, shape = text.split(":")
            made.append(np.zeros([int(size) for size in shape.split(",")], dtype))
    with pytest.raises(type_check.InvalidType, match=message) as caught:
        chainrob.functions.linear(*made, robustifier=chainrob.Mean())
    assert "Expect" in str(caught.value)
    assert "Actual" in str(caught.value)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"robustifier": "krum"}, TypeError, "robustifier must be None"),
        ({"robustifier": chainrob.Mean}, TypeError, "found the class Mean"),
        ({"loss_reduction": "max"}, ValueError, "loss_reduction must be one of .* found 'max'"),
        ({"scope": "neuron"}, ValueError, "scope must be one of .* found 'neuron'"),
        ({"n_batch_axes": 0, "robustifier": chainrob.Mean()}, ValueError, "n_batch_axes"),
    ],
)
def test_options(options, error, message):
    x, W, b, _ = layer_data(5)
    with pytest.raises(error, match=message):
        chainrob.functions.linear(x, W, b, **options)


@pytest.mark.parametrize("scope", ["unit", "layer"])
@pytest.mark.parametrize(("of_x", "of_gy"), [(160, -160), (-160, 160), (150, 150), (-150, -150)])
def test_factors_of_any_size(of_x, of_gy, scope):
    """Inputs at 1e160 and output gradients at 1e-160 make ordinary rows, and are not squared."""
    x, W, _, gy = layer_data(9)
    for robustifier in (chainrob.GeometricMedian(), chainrob.MultiKrum(2), chainrob.CAF(2)):
        options = {"robustifier": robustifier, "scope": scope}
        expected, _, _ = gradients(x, W, None, gy, **options)
        scaled = x * 2.0 ** (3 * of_x), gy * 2.0 ** (3 * of_gy)
        found, _, _ = gradients(scaled[0], W, None, scaled[1], **options)
        np.testing.assert_allclose(found, expected * 2.0 ** (3 * (of_x + of_gy)), rtol=1e-7)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("robustifier", [chainrob.Mean(), chainrob.CoordinateMedian()])
@pytest.mark.parametrize("scope", ["layer", "unit"])
def test_half_precision_has_room_for_the_factor_n(robustifier, reduction, scope):
    # A scaled loss leaves gy that float16 holds, but not N times; nor small estimates over N.
    n = 256
    W = np.zeros((2, 3), np.float16)
    for size, share in ((300.0, 1.0 / n), (6e-6, 1.0)):
        x = np.full((n, 3), share, np.float16)
        gy = np.full((n, 2), size, np.float16)
        gw, _, _ = gradients(
            x, W, None, gy, robustifier=robustifier, loss_reduction=reduction, scope=scope
        )
        assert gw.dtype == np.float16
        np.testing.assert_allclose(gw, n * share * float(gy[0, 0]), rtol=1e-3)
