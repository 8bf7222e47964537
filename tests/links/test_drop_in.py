"""Every robust link against the stock link: forward, gradients, files, settings."""

from __future__ import annotations

import copy
import functools
import inspect
import pickle

import numpy as np
import pytest

import chainrob
import chainer
from chainer import functions as F
from chainer import gradient_check
from tests.links.cases import CASES

N = 7
by_name = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def backward(link, x, call, weights=None, reduction="mean"):
    """Loss of each sample, its own nonlinear function; gradients of all parameters and of x."""
    x = chainer.Variable(x) if x.dtype.kind == "f" else x
    link.cleargrads()
    y = link(x, **call)
    target = np.sin(np.arange(y.size)).reshape(y.shape).astype(y.dtype)
    if weights is not None:
        target = weights
    loss = F.sum(F.tanh(y) * target)
    if reduction == "mean":
        loss = loss / len(y)
    loss.backward()
    grads = {name: parameter.grad for name, parameter in sorted(link.namedparams())}
    return y.array, grads, getattr(x, "grad", None)


@functools.cache
def sample_rows(case):
    """The oracle: the stock link on one sample at a time; rows (N, D) a parameter."""
    stock, x = case.stock(), case.inputs(N)
    shape = stock(x, **case.call).shape
    target = np.sin(np.arange(np.prod(shape))).reshape(shape)
    rows: dict[str, list[np.ndarray]] = {}
    for n in range(len(x)):
        _, grads, _ = backward(stock, x[n : n + 1], case.call, target[n : n + 1], "sum")
        for name, grad in grads.items():
            rows.setdefault(name, []).append(np.array(grad).ravel())
    return {name: np.stack(values) for name, values in rows.items()}


@by_name
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_mean_is_the_stock_gradient(case, reduction):
    x = case.inputs(N)
    y, grads, gx = backward(case.stock(), x, case.call, reduction=reduction)
    link = case.robust(robustifier=chainrob.Mean(), loss_reduction=reduction)
    y2, grads2, gx2 = backward(link, x, case.call, reduction=reduction)
    np.testing.assert_allclose(y2, y, rtol=1e-12, atol=1e-14)
    assert grads2.keys() == grads.keys()
    for name, grad in grads.items():
        assert grads2[name].dtype == grad.dtype
        np.testing.assert_allclose(grads2[name], grad, rtol=1e-10, atol=1e-12, err_msg=name)
    if gx is not None:
        np.testing.assert_allclose(gx2, gx, rtol=1e-12, atol=1e-14)


@by_name
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_dtypes(case, dtype):
    x = case.inputs(N, dtype)
    with chainer.using_config("dtype", np.dtype(dtype)):
        y, grads, gx = backward(case.stock(dtype), x, case.call)
        link = case.robust(dtype, robustifier=chainrob.Mean())
        y2, grads2, gx2 = backward(link, x, case.call)
    assert y2.dtype == y.dtype
    tolerance = {np.float16: 2e-2, np.float32: 1e-4}[dtype]
    for name, grad in grads.items():
        assert grads2[name].dtype == grad.dtype
        scale = max(1.0, float(np.abs(grad).max()))
        np.testing.assert_allclose(grads2[name], grad, atol=tolerance * scale, rtol=0)
    if gx is not None:
        assert gx2.dtype == gx.dtype


@by_name
@pytest.mark.parametrize("samples", [1, 3])
def test_without_a_robustifier_it_is_the_stock_link_bit_for_bit(case, samples):
    x = case.inputs(samples, np.float32)
    stock, robust = case.stock(np.float32), case.robust(np.float32)
    y, grads, gx = backward(stock, x, case.call)
    y2, grads2, gx2 = backward(robust, x, case.call)
    np.testing.assert_array_equal(y2, y)
    for name, grad in grads.items():
        np.testing.assert_array_equal(grads2[name], grad)
    np.testing.assert_array_equal(gx2, gx)


ROBUSTIFIERS = {
    "trimmed": chainrob.TrimmedMean(0.2),
    "truncated": chainrob.SoftTruncation(0.1),
    "geometric": chainrob.GeometricMedian(tolerance=1e-9, max_iterations=20_000),
    "median_of_means": chainrob.MedianOfMeans(3, center="coordinate"),
}


@by_name
@pytest.mark.parametrize("name", ROBUSTIFIERS)
def test_a_robustifier_sees_the_gradients_of_single_samples(case, name):
    robustifier = ROBUSTIFIERS[name]
    x = case.inputs(N)
    rows = sample_rows(case)
    for scope in ("layer", "parameter", "unit"):
        link = case.robust(robustifier=robustifier, scope=scope)
        _, grads, _ = backward(link, x, case.call)
        # The bias of a Scale is a link by itself, and so a layer of its own.
        layers = {}
        for path in rows:
            layers.setdefault(path.rsplit("/", 1)[0], []).append(path)
        for paths in layers.values():
            if scope == "layer":
                joint = robustifier(np.concatenate([rows[path] for path in paths], axis=1))
                ends = np.cumsum([rows[path].shape[1] for path in paths])[:-1]
                expected = dict(zip(paths, np.split(joint, ends), strict=True))
            elif scope == "parameter":
                expected = {path: robustifier(rows[path]) for path in paths}
            else:
                expected = {
                    path: by_units(case, robustifier, rows[path], grads[path].shape)
                    for path in paths
                }
            for path in paths:
                np.testing.assert_allclose(
                    grads[path].ravel(),
                    np.ravel(expected[path]),
                    rtol=1e-6,
                    # Units are iterated together until all have converged, each alone less far.
                    atol=1e-6 if name == "geometric" else 1e-9,
                    err_msg=f"{scope} {path}",
                )


def by_units(case, robustifier, rows, shape):
    """Each output unit alone: along the first axis, but for embeddings and transposed filters."""
    if not shape:
        return robustifier(rows)
    full = rows.reshape(len(rows), *shape)
    if case.link == "EmbedID":
        return np.stack([robustifier(full[:, :, q]) for q in range(shape[1])], axis=1)
    if case.link.startswith("Deconv") and len(shape) > 1:
        groups = case.kwargs.get("groups", 1)
        inputs = shape[0] // groups
        out = np.empty(shape)
        for group in range(groups):
            here = slice(group * inputs, (group + 1) * inputs)
            for q in range(shape[1]):
                unit = full[:, here, q]
                out[here, q] = robustifier(unit.reshape(len(rows), -1)).reshape(unit.shape[1:])
        return out
    return np.stack([robustifier(full[:, q].reshape(len(rows), -1)) for q in range(shape[0])])


@by_name
def test_any_callable_plugs_in(case):
    x = case.inputs(N)
    rows = sample_rows(case)
    link = case.robust(robustifier=lambda g: np.median(g, axis=0), scope="parameter")
    _, grads, _ = backward(link, x, case.call)
    for path, values in rows.items():
        np.testing.assert_allclose(grads[path].ravel(), np.median(values, axis=0), atol=1e-10)


@by_name
@pytest.mark.parametrize("scope", ["layer", "unit"])
def test_an_empty_batch_has_a_gradient_of_zero(case, scope):
    if case.link == "GroupNormalization":
        pytest.skip("the stock forward pass takes no empty batch")
    link = case.robust(robustifier=chainrob.GeometricMedian(), scope=scope)
    link.cleargrads()
    F.sum(link(case.inputs(0), **case.call)).backward()
    assert all(not parameter.grad.any() for parameter in link.params())


@by_name
def test_one_sample(case):
    link = case.robust(robustifier=chainrob.GeometricMedian())
    x = case.inputs(1)
    _, grads, _ = backward(case.stock(), x, case.call)
    with pytest.warns(chainrob.SampleAxisWarning, match="saw a single sample"):
        _, grads2, _ = backward(link, x, case.call)
    backward(link, x, case.call)  # it is said once
    for name, grad in grads.items():
        np.testing.assert_allclose(grads2[name], grad, rtol=1e-10, atol=1e-12)


@by_name
def test_a_bad_sample_is_dropped(case):
    if case.n_ids is not None:
        pytest.skip("ids are finite")
    x = case.inputs(N)
    good = np.delete(x, 2, axis=0)
    link = case.robust(robustifier=chainrob.CoordinateMedian(), loss_reduction="sum")
    x[2] = np.nan
    weights = None
    y = link(x, **case.call)
    target = np.sin(np.arange(y.size)).reshape(y.shape)
    with pytest.warns(chainrob.NonFiniteGradientWarning):
        _, grads, _ = backward(link, x, case.call, target, "sum")
    weights = np.delete(target, 2, axis=0)
    _, expected, _ = backward(link, good, case.call, weights, "sum")
    for name, grad in expected.items():
        np.testing.assert_allclose(grads[name] / N, grad / (N - 1), rtol=1e-10, atol=1e-12)


@by_name
def test_gx_against_finite_differences(case):
    if case.n_ids is not None:
        pytest.skip("ids have no gradient")
    x = case.inputs(3)
    # Away from the kink of PReLU.
    x = np.where(np.abs(x) < 0.1, 0.3, x)
    link = case.robust(robustifier=chainrob.CoordinateMedian())
    gy = np.random.default_rng(2).normal(size=link(x, **case.call).shape)
    gradient_check.check_backward(
        lambda x: link(x, **case.call), x, gy, dtype=np.float64, eps=1e-5, rtol=1e-6, atol=1e-7
    )


def group_norm_from_parts(link, x):
    rows = F.reshape(x, (len(x) * link.groups, -1))
    rows = rows - F.broadcast_to(F.mean(rows, axis=1, keepdims=True), rows.shape)
    variance = F.mean(rows * rows, axis=1, keepdims=True)
    rows = rows / F.broadcast_to(F.sqrt(variance + link.eps), rows.shape)
    return F.bias(F.scale(F.reshape(rows, x.shape), link.gamma), link.beta)


# The stock nodes of these links cannot differentiate gx alone, so they are put together from parts.
FROM_PARTS = {
    "GroupNormalization": group_norm_from_parts,
    "PReLU": lambda link, x: F.relu(x) - F.scale(F.relu(-x), link.W),
    "Swish": lambda link, x: x * F.sigmoid(F.scale(x, link.beta)),
}


@by_name
def test_gx_is_itself_differentiable(case):
    if case.n_ids is not None:
        pytest.skip("ids have no gradient")
    x = chainer.Variable(np.where(np.abs(case.inputs(3)) < 0.1, 0.3, case.inputs(3)))
    # With the mean, for y depends on the parameters too.
    stock, robust = case.stock(), case.robust(robustifier=chainrob.Mean(), loss_reduction="sum")
    found = []
    for link in (stock, robust):
        if link is stock and case.link in FROM_PARTS:
            y = FROM_PARTS[case.link](link, x)
        else:
            y = link(x, **case.call)
        (gx,) = chainer.grad([F.sum(F.sin(y))], [x], enable_double_backprop=True)
        first = next(iter(link.params()))
        found.append([one.array for one in chainer.grad([F.sum(gx * gx)], [x, first])])
    for stock_one, robust_one in zip(*found, strict=True):
        np.testing.assert_allclose(robust_one, stock_one, rtol=1e-8, atol=1e-10)


@by_name
@pytest.mark.parametrize("format", ["npz", "hdf5"])
def test_files_are_the_stock_links(case, format, tmp_path):
    save = getattr(chainer.serializers, f"save_{format}")
    load = getattr(chainer.serializers, f"load_{format}")
    for writer, reader in [
        (case.stock(seed=3), case.robust(seed=4, robustifier=chainrob.Mean())),
        (case.robust(seed=3, robustifier=chainrob.Mean()), case.stock(seed=4)),
    ]:
        save(tmp_path / "link.npz", writer)
        load(tmp_path / "link.npz", reader)
        written, read = dict(writer.namedparams()), dict(reader.namedparams())
        assert written.keys() == read.keys()
        for name, parameter in written.items():
            np.testing.assert_array_equal(read[name].array, parameter.array)


@by_name
def test_copies_and_pickles_keep_the_settings(case):
    link = case.robust(robustifier=chainrob.TrimmedMean(0.2), scope="unit", loss_reduction="sum")
    for again in (copy.deepcopy(link), link.copy(), pickle.loads(pickle.dumps(link))):
        assert type(again) is type(link)
        assert again.robustifier == link.robustifier
        assert (again.scope, again.loss_reduction) == ("unit", "sum")
        x = case.inputs(4)
        np.testing.assert_array_equal(again(x, **case.call).array, link(x, **case.call).array)


@by_name
def test_signature_begins_with_the_stock_links(case):
    stock = list(inspect.signature(getattr(chainer.links, case.link)).parameters.values())
    robust = inspect.signature(getattr(chainrob.links, case.link)).parameters
    shared = [one for one in stock if one.kind is not one.VAR_KEYWORD]
    assert list(robust.values())[: len(shared)] == shared
    for name in ("robustifier", "loss_reduction", "scope"):
        assert robust[name].kind is inspect.Parameter.KEYWORD_ONLY


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"scope": "rows"}, ValueError, "scope must be one of .* found 'rows'"),
        ({"loss_reduction": "no"}, ValueError, "loss_reduction must be one of .* found 'no'"),
        ({"robustifier": chainrob.Mean}, TypeError, "instance, found the class Mean"),
        ({"robustifier": 3}, TypeError, "robustifier must be None, .* found 3"),
    ],
)
def test_bad_settings(settings, error, message):
    for case in CASES[:1] + CASES[6:7]:
        with pytest.raises(error, match=message):
            case.robust(**settings)


@pytest.mark.parametrize("name", ["Linear", "Convolution2D", "ConvolutionND", "EmbedID"])
def test_links_from_given_parameters(name):
    shape = {"Linear": (3, 2), "EmbedID": (5, 2)}.get(name, (3, 2, 2, 2))
    W, b = np.ones(shape, np.float32), np.zeros(3, np.float32)
    arguments = (W,) if name == "EmbedID" else (W, b)
    link = getattr(chainrob.links, name).from_params(*arguments)
    assert type(link) is getattr(chainrob.links, name)
    assert (link.robustifier, link.loss_reduction, link.scope) == (None, "mean", "layer")
    np.testing.assert_array_equal(link.W.array, W)


def test_recomputation_in_the_backward_pass():
    model = chainrob.links.MLP((3, 4, 2), chainrob.CoordinateMedian())
    x = np.random.default_rng(0).normal(size=(N, 3)).astype(np.float32)
    found = []
    for call in (model, lambda x: F.forget(model, x)):
        variable = chainer.Variable(x)
        model.cleargrads()
        F.mean(F.sin(call(variable))).backward()
        found.append([parameter.grad for _, parameter in sorted(model.namedparams())])
    for direct, recomputed in zip(*found, strict=True):
        np.testing.assert_array_equal(recomputed, direct)


def test_scale_along_the_sample_axis_has_no_sample_gradients():
    x = np.ones((3, 4), np.float32)
    assert chainrob.links.Scale(0, (3,))(x).shape == (3, 4)
    with pytest.raises(ValueError, match=r"axis must be at least 1.* found 0"):
        chainrob.links.Scale(0, (3,), robustifier=chainrob.Mean())(x)


def test_scale_and_bias_of_two_inputs_are_the_stock_functions():
    x, y = np.ones((3, 4)), np.full(4, 2.0)
    scale = chainrob.links.Scale(1, robustifier=chainrob.Mean())
    bias = chainrob.links.Bias(1, robustifier=chainrob.Mean())
    np.testing.assert_array_equal(scale(x, y).array, np.full((3, 4), 2.0))
    np.testing.assert_array_equal(bias(x, y).array, np.full((3, 4), 3.0))
