"""The operators of every kind of layer, from arrays alone, against rows written out sample by
sample; and their pullbacks against central differences.
"""

from __future__ import annotations

import ast
import itertools
from pathlib import Path

import numpy as np
import pytest

from chainrob import builders
from chainrob.builders import Geometry

N = 4
RNG = np.random.default_rng(0)


def linear(x, gy):
    return {1: np.einsum("sq,sp->qp", gy, x), 2: gy.sum(0)}


def convolved(x, gy, geometry, pad, transposed=False):
    """One sample's filter gradient, entry by entry."""
    patched, plain = (gy, x) if transposed else (x, gy)
    groups = geometry.groups
    n_out, n_in = plain.shape[0], patched.shape[0] // groups
    out = np.zeros((n_out, n_in, *geometry.ksize))
    for a, c in itertools.product(range(n_out), range(n_in)):
        channel = a // (n_out // groups) * n_in + c
        for k in np.ndindex(*geometry.ksize):
            for s in np.ndindex(*plain.shape[1:]):
                place = tuple(
                    i * step + tap * by - p
                    for i, step, tap, by, p in zip(
                        s, geometry.stride, k, geometry.dilate, pad, strict=True
                    )
                )
                if all(0 <= i < size for i, size in zip(place, patched.shape[1:], strict=True)):
                    out[(a, c, *k)] += plain[(a, *s)] * patched[(channel, *place)]
    axes = tuple(range(1, gy.ndim))
    return {1: out, 2: gy.sum(axes)}


def normalized(x, groups, eps):
    rows = x.reshape(groups, -1)
    rows = (rows - rows.mean(1, keepdims=True)) / np.sqrt(rows.var(1, keepdims=True) + eps)
    return rows.reshape(x.shape)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def normal(*shape):
    return RNG.normal(size=(N, *shape))


PLANE = Geometry((2, 3), (2, 1), (1, 2), 2)
LINE = Geometry((3,), (2,), (1,), 1)
BETA = RNG.normal(size=3)

# name: rows, pullback, arrays, options of both, of the rows alone, and one sample's gradients.
CASES = {
    "linear": (
        builders.linear_rows,
        builders.linear_pullback,
        (normal(3), normal(2)),
        {},
        {},
        lambda x, gy: linear(x[None], gy[None]),
    ),
    "linear_positions": (
        builders.linear_rows,
        builders.linear_pullback,
        (RNG.normal(size=(N * 3, 2)), RNG.normal(size=(N * 3, 2))),
        {"n_positions": 3},
        {},
        linear,
    ),
    "convolution": (
        builders.convolution_rows,
        builders.convolution_pullback,
        (normal(4, 5, 6), normal(6, 3, 4)),
        {"geometry": PLANE, "pad": (1, 1)},
        {},
        lambda x, gy: convolved(x, gy, PLANE, (1, 1)),
    ),
    "convolution_1d": (
        builders.convolution_rows,
        builders.convolution_pullback,
        (normal(2, 7), normal(3, 3)),
        {"geometry": LINE, "pad": (0,)},
        {},
        lambda x, gy: convolved(x, gy, LINE, (0,)),
    ),
    "transposed": (
        builders.transposed_convolution_rows,
        builders.transposed_convolution_pullback,
        (normal(4, 3, 2), normal(6, 5, 5)),
        {"geometry": PLANE, "pad": (1, 1)},
        {},
        lambda x, gy: convolved(x, gy, PLANE, (1, 1), transposed=True),
    ),
    "layer_norm": (
        builders.normalization_rows,
        builders.normalization_pullback,
        (normal(5), normal(5)),
        {"groups": 1, "eps": 0.1},
        {},
        lambda x, gy: {1: normalized(x, 1, 0.1) * gy, 2: gy},
    ),
    "layer_norm_axes": (
        builders.normalization_rows,
        builders.normalization_pullback,
        (normal(2, 3), normal(2, 3)),
        {"groups": 1, "eps": 0.1},
        {"n_axes": 2},
        lambda x, gy: {1: normalized(x, 1, 0.1) * gy, 2: gy},
    ),
    "group_norm": (
        builders.normalization_rows,
        builders.normalization_pullback,
        (normal(4, 3), normal(4, 3)),
        {"groups": 2, "eps": 0.1},
        {},
        lambda x, gy: {1: (normalized(x, 2, 0.1) * gy).sum(1), 2: gy.sum(1)},
    ),
    "scale": (
        builders.scale_rows,
        builders.scale_pullback,
        (normal(3, 4, 2), normal(3, 4, 2)),
        {"axis": 2},
        {"n_axes": 1},
        lambda x, gy: {1: (x * gy).sum((0, 2))},
    ),
    "bias": (
        builders.bias_rows,
        builders.bias_pullback,
        (normal(3, 4),),
        {"axis": 1},
        {"n_axes": 1},
        lambda gy: {1: gy.sum(1)},
    ),
    "prelu": (
        builders.prelu_rows,
        builders.prelu_pullback,
        (normal(3, 4), normal(3, 4)),
        {},
        {"n_axes": 1},
        lambda x, gy: {1: (np.minimum(x, 0) * gy).sum(1)},
    ),
    "prelu_one": (
        builders.prelu_rows,
        builders.prelu_pullback,
        (normal(3), normal(3)),
        {},
        {"n_axes": 0},
        lambda x, gy: {1: (np.minimum(x, 0) * gy).sum()},
    ),
    "swish": (
        builders.swish_rows,
        builders.swish_pullback,
        (normal(3, 4), BETA, normal(3, 4)),
        {},
        {},
        lambda x, gy: {
            1: (gy * x**2 * sigmoid(BETA[:, None] * x) * (1 - sigmoid(BETA[:, None] * x))).sum(1)
        },
    ),
}
BIASED = {"linear", "linear_positions", "convolution", "convolution_1d", "transposed"} | {
    "layer_norm",
    "layer_norm_axes",
    "group_norm",
}


def built(name, arrays, wanted):
    rows, _, _, both, alone, _ = CASES[name]
    return rows(arrays, wanted, **both, **alone)


def wanted_of(name):
    return [1, 2] if name in BIASED else [1]


@pytest.mark.parametrize("name", CASES)
def test_rows_are_the_gradients_of_the_samples(name):
    _, _, arrays, _, _, oracle = CASES[name]
    wanted = wanted_of(name)
    operators = built(name, arrays, wanted)
    assert list(operators) == wanted
    for n in range(N):
        per_sample = [
            one.reshape(N, -1, *one.shape[1:])[n] if len(one) == 3 * N else one[n]
            for one in arrays
            if one is not BETA
        ]
        expected = oracle(*per_sample)
        for key, operator in operators.items():
            assert operator.n_samples == N
            found = operator.materialize()[n].reshape(operator.shape)
            np.testing.assert_allclose(found, expected[key], rtol=1e-12, atol=1e-13)
    for key in wanted:
        assert list(built(name, arrays, [key])) == [key]


@pytest.mark.parametrize("name", CASES)
def test_pullbacks_against_central_differences(name):
    _, pull, arrays, both, _, _ = CASES[name]
    arrays = tuple(one.copy() for one in arrays)
    wanted = wanted_of(name)
    cotangents = {
        key: RNG.normal(size=(N, *operator.shape))
        for key, operator in built(name, arrays, wanted).items()
    }

    def value():
        operators = built(name, arrays, wanted)
        return sum(
            (operator.materialize().reshape(cotangents[key].shape) * cotangents[key]).sum()
            for key, operator in operators.items()
        )

    ingredients = {key: (one,) for key, one in cotangents.items()}
    if name.startswith("linear"):  # whose operator has its factors for ingredients
        x, gy = (one.reshape(N, -1, one.shape[-1]) for one in arrays)
        W = cotangents[1]
        ingredients[1] = (
            np.einsum("nsq,nqp->nsp", gy, W),
            np.einsum("nsp,nqp->nsq", x, W),
        )
    found = pull(arrays, ingredients, **both)
    assert len(found) == len(arrays)
    for one, array in zip(found, arrays, strict=True):
        expected = np.zeros_like(array)
        for index in np.ndindex(array.shape):
            before = array[index]
            array[index] = before + 1e-6
            above = value()
            array[index] = before - 1e-6
            expected[index] = (above - value()) / 2e-6
            array[index] = before
        np.testing.assert_allclose(one, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("ignored", [None, -1, 2])
def test_embedding(ignored):
    ids = np.array([[0, 2], [2, 2], [-1, 1], [3, -1]])
    gy = RNG.normal(size=(4, 2, 3))
    operator = builders.embedding_rows((ids, gy), [1], 4, ignored)[1]
    expected = np.zeros((4, 4, 3))
    for n, s in np.ndindex(4, 2):
        if ids[n, s] != ignored:
            expected[n, ids[n, s] % 4] += gy[n, s]
    np.testing.assert_allclose(operator.materialize().reshape(expected.shape), expected)
    cotangent = RNG.normal(size=expected.shape)
    of_ids, of_gy = builders.embedding_pullback((ids, gy), {1: (cotangent,)}, 4, ignored)
    assert not of_ids.any()
    for n, s in np.ndindex(4, 2):
        kept = ids[n, s] != ignored
        np.testing.assert_array_equal(of_gy[n, s], cotangent[n, ids[n, s] % 4] * kept)


@pytest.mark.parametrize("name", [one for one in CASES if not one.startswith("linear")])
def test_an_empty_batch(name):
    _, pull, arrays, both, _, _ = CASES[name]
    arrays = tuple(one if one is BETA else one[:0] for one in arrays)
    operators = built(name, arrays, wanted_of(name))
    assert all(one.n_samples == 0 for one in operators.values())
    nothing = {key: (np.zeros((0, *one.shape)),) for key, one in operators.items()}
    for one, array in zip(pull(arrays, nothing, **both), arrays, strict=True):
        assert one.shape == array.shape


def test_every_builder_is_tried():
    tried = {case[0].__name__ for case in CASES.values()} | {"embedding_rows"}
    assert tried == {name for name in builders.__all__ if name.endswith("_rows")}


def test_basenames_are_of_one_file_only():
    """A file's name says what is inside, and no other file of the core has it."""
    folders = [Path(builders.__file__).parent, Path(builders.__file__).parents[1] / "aggregation"]
    every = [path.name for path in Path(builders.__file__).parents[1].rglob("*.py")]
    for folder in folders:
        for path in folder.glob("[a-z]*.py"):
            assert every.count(path.name) == 1, path
            assert ast.get_docstring(ast.parse(path.read_text())), path
