"""One layer's arrays to its gradients, with plain objects for layers: what every front calls."""

from __future__ import annotations

import numpy as np
import pytest

import chainrob
from chainrob import builders
from chainrob.aggregation import (
    Aggregation,
    Entry,
    LayerGradients,
    Recorder,
    add_observer,
    exact_backward,
    mean_gradients,
    model_gradients,
    remove_observer,
)
from chainrob.aggregation.recorder import forget

N = 7
RNG = np.random.default_rng(0)
X, GY = RNG.normal(size=(N, 3)), RNG.normal(size=(N, 2)) / N
ROWS = np.concatenate([np.einsum("nq,np->nqp", GY, X).reshape(N, -1), GY], axis=1)
"""Each sample's contribution to W and b."""


class Layer:
    """Of no framework."""


def layer_of(plan, **options):
    settings = {"pull": builders.linear_pullback, "targets": {1: "W", 2: "b"}, **options}
    names, dtypes = {1: "W", 2: "b"}, {1: X.dtype, 2: X.dtype}
    return LayerGradients(builders.linear_rows, plan, [1, 2], names, dtypes, **settings)


def flat(gradients):
    return np.concatenate([one.ravel() for one in gradients])


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize(
    "robustifier",
    [chainrob.Mean(), chainrob.GeometricMedian(), chainrob.TrimmedMean(0.2), lambda g: g.mean(0)],
)
def test_scale(robustifier, reduction):
    found = layer_of(Aggregation(robustifier, reduction)).estimates((X, GY))
    scale = {"mean": (N, 1), "sum": (1, N)}[reduction]
    np.testing.assert_allclose(flat(found), robustifier(ROWS * scale[0]) * scale[1], rtol=1e-7)


@pytest.mark.parametrize("scope", ["unit", "parameter", "layer"])
def test_scope(scope):
    robustifier = chainrob.GeometricMedian()
    W, b = layer_of(Aggregation(robustifier, "sum", scope)).estimates((X, GY))
    parts = {
        "unit": [[0, 1, 2], [3, 4, 5], [6], [7]],
        "parameter": [range(6), [6, 7]],
        "layer": [range(8)],
    }[scope]
    expected = np.concatenate([N * robustifier(ROWS[:, list(part)]) for part in parts])
    np.testing.assert_allclose(flat((W, b)), expected, rtol=1e-7)


@pytest.mark.parametrize("scope", ["unit", "parameter", "layer"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_the_mean_is_the_same_whether_watched_or_not(scope, reduction):
    owner = Layer()
    layer = layer_of(Aggregation(chainrob.Mean(), reduction, scope, owner))
    unwatched = layer.estimates((X, GY))
    add_observer(owner, lambda observation: None)
    np.testing.assert_allclose(flat(unwatched), flat(layer.estimates((X, GY))), rtol=1e-12)
    bad = X.copy()
    bad[2, 1] = np.nan
    with pytest.warns(chainrob.NonFiniteGradientWarning, match="hold NaN"):
        W, b = layer_of(Aggregation(chainrob.Mean(), reduction, scope)).estimates((bad, GY))
    kept = np.delete(ROWS, 2, axis=0)[:, :6].mean(axis=0) * N
    np.testing.assert_allclose(W.ravel(), kept, rtol=1e-12)
    np.testing.assert_allclose(b, GY.sum(axis=0), rtol=1e-12)  # nothing is wrong with the bias


def test_exact_backward_is_the_plain_sum():
    plan = Aggregation(chainrob.CoordinateMedian(), "mean", "layer")
    assert plan.now() is plan
    with exact_backward():
        found = layer_of(plan.now()).estimates((X, GY))
    np.testing.assert_allclose(flat(found), ROWS.sum(0), rtol=1e-12)
    nothing = layer_of(Aggregation(None).now()).estimates((X, GY))
    np.testing.assert_allclose(flat(nothing), ROWS.sum(0), rtol=1e-12)


def test_half_precision_neither_overflows_nor_loses_its_dtype():
    gy = np.full((N, 2), 30_000.0, np.float16)
    x = np.full((N, 3), 1e-4, np.float16)
    dtypes = {1: x.dtype, 2: np.dtype(np.float32)}
    layer = LayerGradients(
        builders.linear_rows, Aggregation(chainrob.Mean()), [1, 2], {1: "W", 2: "b"}, dtypes
    )
    W, b = layer.estimates((x, gy))
    assert (W.dtype, b.dtype) == (np.float16, np.float32)
    np.testing.assert_allclose(W, N * 3.0, rtol=1e-2)
    np.testing.assert_allclose(b, N * 30_000.0)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_pullback_against_central_differences(reduction):
    plan = Aggregation(chainrob.GeometricMedian(tolerance=1e-12), reduction)
    layer = layer_of(plan)
    x, gy = X.copy(), GY.copy()
    cotangents = [RNG.normal(size=(2, 3)), None]
    found = layer.pullback((x, gy), cotangents)
    for one, array in zip(found, (x, gy), strict=True):
        expected = np.zeros_like(array)
        for index in np.ndindex(array.shape):
            before, sides = array[index], []
            for step in (1e-6, -1e-6):
                array[index] = before + step
                sides.append((layer.estimates((x, gy))[0] * cotangents[0]).sum())
            array[index] = before
            expected[index] = (sides[0] - sides[1]) / 2e-6
        np.testing.assert_allclose(one, expected, rtol=1e-5, atol=1e-6)


def test_what_has_no_derivative_says_so():
    with pytest.raises(chainrob.NotDifferentiableError, match="not available for Bilinear"):
        layer_of(
            Aggregation(chainrob.Mean()), pull=None, function="Bilinear"
        ).check_differentiable()
    plan = Aggregation(chainrob.Mean(), scope="model", owner=Layer())
    with pytest.raises(chainrob.NotDifferentiableError, match="W, b with scope='model'"):
        layer_of(plan).pullback((X, GY), [None, None])


def test_observers_of_any_object():
    layer, told = Layer(), []
    plan = Aggregation(chainrob.GeometricMedian(), owner=layer)
    add_observer(layer, told.append, "/l1")
    layer_of(plan).estimates((X, GY))
    remove_observer(layer, told.append)
    layer_of(plan).estimates((X, GY))
    (seen,) = told
    assert seen.owner is layer is seen.link
    assert (seen.name, seen.scope, seen.n_samples) == ("/l1", "layer", N)
    np.testing.assert_allclose(
        seen.sample_weights(), chainrob.GeometricMedian().sample_weights(N * ROWS), rtol=1e-6
    )


def recorded(recorder, reductions=("mean", "mean"), counts=(N, N)):
    layers = Layer(), Layer()
    recorder.listen(layers)
    for number, (owner, reduction, n) in enumerate(zip(layers, reductions, counts, strict=True)):
        plan = Aggregation(chainrob.Mean(), reduction, "model", owner)
        targets = {1: (number, "W"), 2: (number, "b")}
        found = layer_of(plan, targets=targets).estimates((X[:n], GY[:n]))
        assert not flat(found).any()
    recordings = recorder.collect()
    return [Entry.of(f"/l{one.target[0]}/{one.name}", one) for one in recordings], layers


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_one_row_a_sample_over_the_model(reduction):
    robustifier, model, told = chainrob.GeometricMedian(), Layer(), []
    entries, layers = recorded(Recorder(), (reduction,) * 2)
    add_observer(model, told.append)
    add_observer(layers[0], told.append, "/l0")
    found = model_gradients(entries, robustifier, model)
    rows = np.concatenate([ROWS, ROWS], axis=1) * (N if reduction == "mean" else 1)
    expected = robustifier(rows) * (1 if reduction == "mean" else N)
    np.testing.assert_allclose(flat(found), expected, rtol=1e-7)
    (seen,) = told  # an observer of both is told once
    assert seen.owner is model
    assert set(seen.gradients) == {"/l0/W", "/l0/b", "/l1/W", "/l1/b"}
    means = mean_gradients(entries, lambda entry: robustifier)
    np.testing.assert_allclose(flat(means), np.tile(ROWS.sum(0), 2), rtol=1e-9)


def test_what_does_not_fit_together_is_named_once():
    entries, _ = recorded(Recorder(), counts=(N, N - 2))
    found = r"found numbers of samples 7 \(/l0/W, /l0/b\); 5 \(/l1/W, /l1/b\)"
    message = found + r"; say with chainrob\.samples which rows are one sample \(manual: [^()]*\)$"
    with pytest.raises(ValueError, match=message):
        model_gradients(entries, chainrob.Mean(), Layer())
    entries, _ = recorded(Recorder(), reductions=("mean", "sum"))
    with pytest.raises(ValueError, match=r"found 'mean' \(/l0/W, /l0/b\); 'sum' \(/l1/W, /l1/b\)"):
        model_gradients(entries, chainrob.Mean(), Layer())


def test_what_is_cleared_is_forgotten():
    recorder, owner, W, b = Recorder(), Layer(), Layer(), Layer()
    recorder.listen([owner])
    plan = Aggregation(chainrob.Mean(), scope="model", owner=owner)
    layer_of(plan, targets={1: W, 2: b}).estimates((X, GY))
    with pytest.warns(UserWarning, match="none was ever estimated"):
        forget(W)
    assert [one.target for one in recorder.collect()] == [b]
    # What a hook put in a parameter's place goes with the parameter.
    owner.W = W
    layer_of(plan, targets={1: Layer(), 2: b}).estimates((X, GY))
    forget(W)
    assert [one.target for one in recorder.collect()] == [b]


@pytest.mark.parametrize("scope", ["unit", "parameter", "layer"])
@pytest.mark.parametrize("robustifier", [chainrob.TrimmedMean(0.2), chainrob.Mean()])
def test_watching_changes_no_estimate_where_rows_are_dropped(robustifier, scope):
    gy = GY.copy()
    gy[2, 1] = np.inf
    owner, seen = Layer(), []
    layer = layer_of(Aggregation(robustifier, "mean", scope, owner))
    with pytest.warns(chainrob.NonFiniteGradientWarning):
        alone = layer.estimates((X, gy))
    add_observer(owner, seen.append)
    with pytest.warns(chainrob.NonFiniteGradientWarning):
        watched = layer.estimates((X, gy))
    for one, other in zip(alone, watched, strict=True):
        np.testing.assert_array_equal(one, other)
    assert seen[0].sample_weights()[2] == 0.0
