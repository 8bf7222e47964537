"""Algorithm 1's index set down to single weights, against the rows of the whole model."""

import copy

import numpy as np
import pytest

import chainrob
import chainer
from chainer import links as L
from chainrob.training import RobustGradient
from tests.training.whole_models import N, Recurrent, Tied, make, oracle_rows, run


def masks_of(model, seed=0, share=0.3):
    rng = np.random.default_rng(seed)
    return {name: rng.random(parameter.shape) < share for name, parameter in model.namedparams()}


def expected(robustifier, rows, masks):
    """Robust in the chosen coordinates, of rows that have no others; the mean elsewhere."""
    names = [name for name in rows if name in masks and masks[name].any()]
    found = {name: row.mean(axis=0) for name, row in rows.items()}
    chosen = [rows[name][:, masks[name].ravel()] for name in names]
    estimate = robustifier(np.concatenate(chosen, axis=1))
    ends = np.cumsum([one.shape[1] for one in chosen])[:-1]
    for name, part in zip(names, np.split(estimate, ends), strict=True):
        found[name][masks[name].ravel()] = part
    return found


@pytest.mark.parametrize("kind", [Tied, Recurrent])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize(
    "robustifier",
    [chainrob.GeometricMedian(), chainrob.CoordinateMedian(), chainrob.SoftTruncation()],
    ids=repr,
)
@pytest.mark.parametrize("by", ["masks", "indices", "predicate"])
def test_single_weights_against_the_oracle(kind, reduction, robustifier, by):
    model, x, t = make(kind)
    rows = oracle_rows(model, x, t)
    masks = {name: mask for name, mask in masks_of(model).items() if name in rows}
    chainrob.robustify(model, robustifier, scope="model", loss_reduction=reduction)
    first = {id(p): name for name, p in sorted(model.namedparams(), reverse=True)}  # of its names
    given = {
        "masks": masks,
        "indices": {name: np.argwhere(mask).tolist() for name, mask in masks.items()},
        "predicate": lambda name, parameter: masks[first[id(parameter)]],
    }[by]
    found = run(model, RobustGradient(model, parameters=given), x, t, reduction)
    factor = N if reduction == "sum" else 1
    for name, gradient in expected(robustifier, rows, masks).items():
        np.testing.assert_allclose(
            found[name].ravel(), factor * gradient, rtol=1e-6, atol=1e-7, err_msg=name
        )


def test_one_weight_is_one_weight():
    model, x, t = make(Tied)
    rows = oracle_rows(model, x, t)
    chainrob.robustify(model, chainrob.CoordinateMedian(), scope="model")
    hook = RobustGradient(model, parameters={"/twice/W": [(0, -1)], "norm": True, "out": None})
    found = run(model, hook, x, t)
    exact = rows["/twice/W"].mean(axis=0).reshape(4, 4)
    exact[0, 3] = np.median(rows["/twice/W"].reshape(N, 4, 4)[:, 0, 3])
    np.testing.assert_allclose(found["/twice/W"], exact, atol=1e-10)
    np.testing.assert_allclose(found["/norm/beta"], np.median(rows["/norm/beta"], axis=0))
    np.testing.assert_allclose(found["/out/b"], np.median(rows["/out/b"], axis=0))
    np.testing.assert_allclose(found["/conv/b"], rows["/conv/b"].mean(axis=0), atol=1e-10)
    hook.parameters = {"/out/b": [0, 2], "/twice/b": [(1,)]}  # of vectors, both ways
    found = run(*copy.deepcopy((model, hook)), x, t)
    assert np.isfinite(found["/out/b"]).all()


def test_all_or_none_of_the_weights_is_what_the_names_say():
    model, x, t = make(Tied)
    chainrob.robustify(model, chainrob.GeometricMedian(), scope="model")
    hook = RobustGradient(model, parameters=["/twice/W"])
    by_name = run(model, hook, x, t)
    hook.parameters = {"/twice/W": np.ones((4, 4), bool), "/out/b": [], "conv/W": False}
    for name, gradient in run(model, hook, x, t).items():
        np.testing.assert_array_equal(gradient, by_name[name])


def test_an_optimizer_trains_the_chosen_weights_robustly():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 3)).astype(np.float32)
    t = x @ np.array([[1.0], [2.0], [3.0]], np.float32)
    t[:20] += 500
    model = chainer.Sequential(L.Linear(3, 1, initialW=0))
    chainrob.robustify(model, chainrob.CoordinateMedian(), scope="model")
    optimizer = chainer.optimizers.SGD(0.05).setup(model)
    optimizer.add_hook(RobustGradient(model, parameters={"/0/W": [(0, 0), (0, 2)]}))
    for _ in range(100):
        optimizer.update(lambda: chainer.functions.mean_squared_error(model(x), t))
    weights = model[0].W.array[0]
    plain = chainer.Sequential(L.Linear(3, 1, initialW=0))
    optimizer = chainer.optimizers.SGD(0.05).setup(plain)
    for _ in range(100):
        optimizer.update(lambda: chainer.functions.mean_squared_error(plain(x), t))
    assert abs(model[0].b.array - plain[0].b.array) < 5  # b follows the bad samples in both
    assert not np.allclose(weights, plain[0].W.array[0], atol=0.5)


def test_what_is_refused():
    model, x, t = make(Tied)
    chainrob.robustify(model, chainrob.GeometricMedian(), scope="model")
    with pytest.raises(
        TypeError, match=r"names of parameters, found 0; .*\{'/0/W': \[\(0, 1\)\]\}"
    ):
        RobustGradient(model, parameters=[0, 3])
    with pytest.raises(TypeError, match="names of parameters, found 3"):
        RobustGradient(model, parameters=3)
    with pytest.raises(TypeError, match=r"names of parameters, found \(0, 1\)"):
        RobustGradient(model, parameters={(0, 1): "/twice/W"})
    with pytest.raises(KeyError, match="found 'nowhere'"):
        RobustGradient(model, parameters={"nowhere": [(0, 1)]})
    for what, error, message in (
        ([(0, 1, 2)], ValueError, "an index into '/twice/W' must have 2 integers"),
        ([(0, 4)], ValueError, r"'/twice/W' of shape \(4, 4\) has no weight \(0, 4\)"),
        ([3], ValueError, "must have 2 integers"),
        ([(0, 1.5)], TypeError, "must be True, a mask of booleans or a list of indices"),
        ("W", TypeError, "must be True, a mask of booleans or a list of indices"),
        (7, TypeError, "must be True, a mask of booleans or a list of indices"),
        (np.ones(4, bool), ValueError, r"mask of '/twice/W' must have the shape \(4, 4\)"),
    ):
        with pytest.raises(error, match=message):
            run(model, RobustGradient(model, parameters={"/twice/W": what}), x, t)
    with pytest.raises(ValueError, match="single weights must be given for one parameter"):
        run(model, RobustGradient(model, parameters={"twice": [(0, 1)]}), x, t)
