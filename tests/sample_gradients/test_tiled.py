"""Operators known by rectangles (patches, embeddings, sums) against their own rows as an array."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import chainrob
import chainer
from chainrob.sample_gradients import (
    Dense,
    EmbeddingGradients,
    OuterProducts,
    PatchProducts,
    Summed,
    TransposedPatchProducts,
    add_up,
)
from chainrob.sample_gradients.normalized import normalized
from chainrob.sample_gradients.operator_base import squared_distances
from chainrob.sample_gradients.patches import Geometry, padded
from chainrob.sample_gradients.tiled import blocks

RNG = np.random.default_rng(0)
N = 6


def patches(groups=1, kind=PatchProducts, dtype=np.float64, scale=1.0):
    geometry = Geometry((2, 3), (2, 1), (1, 2), groups)
    patched = RNG.normal(size=(N, 4, 5, 7)).astype(dtype) * dtype(scale)
    plain = RNG.normal(size=(N, 6, 2, 4)).astype(dtype)
    return kind(padded(patched, (0, 1), geometry, (2, 4)), plain, geometry)


def patch_rows(operator):
    """The definition, one number at a time."""
    geometry, (a_size, c_size, *kernel) = operator.geometry, operator.shape
    rows = np.zeros((N, *operator.shape))
    for a in range(a_size):
        group = a // (a_size // geometry.groups)
        for c in range(c_size):
            for k in np.ndindex(*kernel):
                for s in np.ndindex(*operator.plain.shape[2:]):
                    at = tuple(
                        i * step + j * by
                        for i, step, j, by in zip(
                            s, geometry.stride, k, geometry.dilate, strict=True
                        )
                    )
                    patch = operator.patched[(slice(None), group * c_size + c, *at)]
                    rows[(slice(None), a, c, *k)] += operator.plain[(slice(None), a, *s)] * patch
    return rows.reshape(N, -1)


def embedding(n_ids=9, positions=4, ids=None):
    ids = RNG.integers(0, n_ids + 1, size=(N, positions)) if ids is None else ids
    return EmbeddingGradients(ids, RNG.normal(size=(*ids.shape, 3)), n_ids)


def embedding_rows(operator):
    rows = np.zeros((N, *operator.shape))
    for n, s in np.ndindex(*operator.ids.shape):
        if operator.ids[n, s] < operator.shape[0]:
            rows[n, operator.ids[n, s]] += operator.gy[n, s]
    return rows.reshape(N, -1)


def outer(positions=2):
    return OuterProducts(RNG.normal(size=(N, positions, 3)), RNG.normal(size=(N, positions, 9)))


OPERATORS = {
    "patches": (patches, patch_rows),
    "groups": (lambda: patches(2), patch_rows),
    "transposed": (lambda: patches(kind=TransposedPatchProducts), patch_rows),
    "transposed_groups": (lambda: patches(2, TransposedPatchProducts), patch_rows),
    "embedding": (embedding, embedding_rows),
    "embedding_large": (lambda: embedding(1000, 2), embedding_rows),
    "embedding_one_id": (lambda: embedding(ids=np.full((N, 3), 4)), embedding_rows),
    "embedding_few_ids": (lambda: embedding(2, 30), embedding_rows),
    "embedding_nothing": (lambda: embedding(ids=np.full((N, 3), 9)), embedding_rows),
    "summed": (
        lambda: Summed([embedding(), outer(), Dense(RNG.normal(size=(N, 9, 3)))]),
        lambda operator: sum(part.materialize() for part in operator.parts),
    ),
}
every = pytest.mark.parametrize("name", OPERATORS)


@every
def test_rows_are_the_definition(name):
    make, rows_of = OPERATORS[name]
    operator = make()
    rows = rows_of(operator)
    assert operator.n_samples == N
    assert operator.size == rows.shape[1]
    np.testing.assert_allclose(operator.materialize(), rows, atol=1e-12)
    for budget in (1, 40, 200):
        seen = np.full((N, *operator.shape), np.nan)
        for index, values in operator.tiles(budget):
            target = seen[(slice(None), *index)]
            assert np.isnan(target).all()
            target[...] = values.reshape(target.shape)
        np.testing.assert_allclose(seen.reshape(N, -1), rows, atol=1e-12)


@every
def test_linear_questions(name):
    operator = OPERATORS[name][0]()
    rows = operator.materialize()
    weights = RNG.normal(size=N)
    np.testing.assert_allclose(operator.weighted_sum(weights).ravel(), weights @ rows, atol=1e-12)
    np.testing.assert_allclose(operator.mean().ravel(), rows.mean(axis=0), atol=1e-12)
    np.testing.assert_allclose(operator.gram(), rows @ rows.T, atol=1e-11)
    np.testing.assert_allclose(operator.squared_norms(), (rows**2).sum(axis=1), atol=1e-11)
    distances = ((rows[:, None] - rows) ** 2).sum(axis=-1)
    np.testing.assert_allclose(squared_distances(operator.centered_gram()), distances, atol=1e-10)
    np.testing.assert_allclose(
        operator.reduce(lambda v: np.median(v, axis=-2)).ravel(),
        np.median(rows, axis=0),
        atol=1e-12,
    )
    chosen = np.array([4, 1, 1])
    np.testing.assert_allclose(operator.take(chosen).materialize(), rows[chosen], atol=1e-12)
    blocked = operator.block_means(3)
    np.testing.assert_allclose(
        blocked.materialize(), rows.reshape(3, 2, -1).mean(axis=1), atol=1e-12
    )


@every
def test_a_large_common_part_costs_no_digits_of_the_distances(name):
    if name == "summed":
        pytest.skip("its parts have tests of their own")
    operator = OPERATORS[name][0]()
    shift = 1e7
    if isinstance(operator, PatchProducts):
        operator.plain[...] = operator.plain[:1] * shift + 1e-3 * operator.plain
        operator.patched[...] = operator.patched[:1]
    else:
        operator.ids[...] = operator.ids[:1]
        operator.gy[...] = operator.gy[:1] * shift + 1e-3 * operator.gy
    rows = operator.materialize().astype(np.longdouble)
    expected = ((rows[:, None] - rows) ** 2).sum(axis=-1).astype(float)
    np.testing.assert_allclose(
        squared_distances(operator.centered_gram()), expected, rtol=1e-9, atol=1e-30
    )


@every
def test_output_units(name):
    if name == "summed":
        pytest.skip("several uses have no output units in common")
    operator = OPERATORS[name][0]()
    units = operator.units()
    rows = units.materialize()
    assert rows.shape[:2] == (*units.replicas, N)
    joined = np.stack([operator.join_units(rows[:, n]).ravel() for n in range(N)])
    np.testing.assert_allclose(joined, operator.materialize(), atol=1e-12)
    weights = RNG.normal(size=(*units.replicas, N))
    expected = np.einsum("un,und->ud", weights, rows)
    found = units.weighted_sum(weights).reshape(expected.shape)
    np.testing.assert_allclose(found, expected, atol=1e-12)
    gram = np.einsum("und,umd->unm", rows, rows)
    np.testing.assert_allclose(units.gram(), gram, atol=1e-11)
    distances = ((rows[:, :, None] - rows[:, None]) ** 2).sum(axis=-1)
    np.testing.assert_allclose(squared_distances(units.centered_gram()), distances, atol=1e-10)
    assert units.finite_rows().all()
    some = units.replica((slice(1, 3),))
    np.testing.assert_allclose(some.materialize(), rows[1:3], atol=1e-12)
    np.testing.assert_allclose(some.weighted_sum(weights[1:3]).reshape(2, -1), expected[1:3])
    one = units.replica((-1,))
    assert one.replicas == ()
    np.testing.assert_allclose(one.materialize(), rows[-1], atol=1e-12)
    np.testing.assert_allclose(one.weighted_sum(weights[-1]).ravel(), expected[-1], atol=1e-12)
    np.testing.assert_allclose(one.gram(), gram[-1], atol=1e-11)
    kept = np.array([0, 5])
    np.testing.assert_allclose(one.take(kept).materialize(), rows[-1, kept], atol=1e-12)
    np.testing.assert_allclose(units.take(kept).materialize(), rows[:, kept], atol=1e-12)


@every
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_finite_rows(name, bad):
    operator = OPERATORS[name][0]()
    assert operator.all_finite()
    assert operator.finite_rows().all()
    if isinstance(operator, PatchProducts):
        operator.plain[2, 1, 0, 0] = bad
        operator.patched[4, 0, 1, 1] = bad
        expected = [0, 1, 3, 5]
    elif name in ("embedding", "embedding_large", "embedding_one_id", "embedding_few_ids"):
        operator = EmbeddingGradients(operator.ids.copy(), operator.gy.copy(), operator.shape[0])
        operator.ids[2, 0] = 1
        operator.gy[2, 0, 1] = bad
        operator.ids[3, 0] = operator.shape[0]  # ignored
        operator.gy[3, 0] = bad
        expected = [0, 1, 3, 4, 5]
    else:
        pytest.skip("made of the others")
    assert not operator.all_finite()
    assert list(np.flatnonzero(operator.finite_rows())) == expected


def test_a_product_that_overflows_is_not_finite():
    operator = patches(dtype=np.float32, scale=1e30)
    operator.plain[3] *= np.float32(1e30)
    assert not operator.all_finite()
    assert list(np.flatnonzero(~operator.finite_rows())) == [3]


@pytest.mark.parametrize("scale", [1e-170, 1e170])
def test_extreme_scales(scale):
    rows = patches(scale=scale)
    estimate = chainrob.GeometricMedian()(rows) / scale
    again = PatchProducts(rows.patched / scale, rows.plain, rows.geometry)
    np.testing.assert_allclose(estimate, chainrob.GeometricMedian()(again), rtol=1e-6, atol=1e-9)
    ids = embedding()
    large = EmbeddingGradients(ids.ids, ids.gy * scale, ids.shape[0])
    np.testing.assert_allclose(
        chainrob.GeometricMedian()(large) / scale,
        chainrob.GeometricMedian()(ids),
        rtol=1e-6,
        atol=1e-9,
    )
    both = Summed([large, outer()])
    small, exponent = normalized(both)
    assert np.isfinite(small.gram()).all()
    unit = max(scale, 1.0)
    np.testing.assert_allclose(
        np.ldexp(small.materialize(), exponent) / unit, both.materialize() / unit, atol=1e-12
    )


@settings(max_examples=60, deadline=None)
@given(
    shape=st.lists(st.integers(1, 5), min_size=0, max_size=4).map(tuple),
    count=st.integers(1, 60),
)
def test_blocks_cover_every_coordinate_once(shape, count):
    seen = np.zeros(shape, int)
    for index in blocks(shape, count):
        seen[(*index, ...)] += 1
        assert np.prod([one.stop - one.start for one in index], initial=1) <= count
    assert (seen == 1).all()


def test_add_up_joins_equal_kinds():
    pairs = [
        ([outer(1), outer(3)], OuterProducts),
        ([embedding(), embedding(positions=2)], EmbeddingGradients),
        ([Dense(RNG.normal(size=(N, 5))) for _ in range(3)], Dense),
        ([patches(), patches()], Summed),
        ([embedding(), outer()], Summed),
    ]
    for parts, kind in pairs:
        total = add_up(parts)
        assert type(total) is kind
        expected = sum(part.materialize() for part in parts)
        np.testing.assert_allclose(total.materialize(), expected, atol=1e-12)
    only = outer()
    assert add_up([only]) is only


def test_add_up_of_replicas():
    shared = OuterProducts(RNG.normal(size=(1, N, 2, 3)), RNG.normal(size=(4, N, 2, 5)))
    own = OuterProducts(RNG.normal(size=(4, N, 1, 3)), RNG.normal(size=(4, N, 1, 5)))
    total = add_up([shared, own])
    np.testing.assert_allclose(total.materialize(), shared.materialize() + own.materialize())
    with pytest.raises(TypeError, match="cannot add"):
        Summed([shared, own])


def test_add_up_refuses_what_differs():
    with pytest.raises(ValueError, match="at least one operator"):
        add_up([])
    with pytest.raises(ValueError, match="same number of samples, shape and replicas"):
        add_up([outer(), outer().take(np.array([0]))])


def test_touched_rows_are_an_operator_like_any():
    operator = embedding(1000, 3)
    small = operator.touched()
    kept = np.array([3, 0, 0])
    np.testing.assert_allclose(small.gram(), operator.gram(), atol=1e-12)
    np.testing.assert_allclose(small.take(kept).gram(), operator.take(kept).gram(), atol=1e-12)
    np.testing.assert_allclose(normalized(small)[0].gram(), normalized(operator)[0].gram())
    again = small.touched()
    np.testing.assert_allclose(again.materialize(), small.materialize())


def test_an_embedding_reduces_untouched_rows_as_zeros():
    operator = embedding(1000, 2)
    found = operator.reduce(lambda values: values.mean(axis=-2) + 1.0)
    np.testing.assert_allclose(found.ravel(), operator.materialize().mean(axis=0) + 1.0)


@pytest.mark.parametrize(
    "robustifier", [chainrob.TrimmedMean(0.1), chainrob.GeometricMedian(tolerance=1e-4)]
)
def test_memory_of_a_convolution_is_bounded(robustifier):
    # Stock Chainer's im2col holds 118 MB here, and the rows would take 52 MB.
    x = RNG.normal(size=(256, 32, 12, 12)).astype(np.float32)
    gy = RNG.normal(size=(256, 64, 12, 12)).astype(np.float32)
    peaks = []
    for kind, options in [
        (chainer.links.Convolution2D, {}),
        (chainrob.links.Convolution2D, {"robustifier": robustifier}),
    ]:
        link = kind(32, 64, 5, pad=2, **options)
        y = link(x)
        y.grad = gy
        link.cleargrads()
        tracemalloc.start()
        y.backward()
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    stock, robust = peaks
    assert stock > 110e6
    assert robust < 0.8 * stock


@pytest.mark.parametrize(
    "robustifier",
    [chainrob.SoftTruncation(), chainrob.MEstimator(), chainrob.TrimmedMean(0.2)],
    ids=repr,
)
@every
def test_tiles_are_reduced_by_the_compiled_form_as_by_the_definition(name, robustifier):
    operator = OPERATORS[name][0]()
    found = robustifier(operator)
    expected = operator.reduce(robustifier.reduce)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_squared_norms_of_an_embedding(dtype):
    ids = np.array([[0, 0, 3], [2, -1, 9], [5, 5, 5], [-1, -1, -1]])  # repeated, ignored, none
    gy = RNG.normal(size=(4, 3, 2)).astype(dtype)
    gy[2] *= dtype(1e18)
    operator = EmbeddingGradients(ids, gy, 6)
    rows = operator.materialize().astype(np.float64)
    wanted = (rows**2).sum(axis=-1)
    tolerance = 1e-5 if dtype == np.float32 else 1e-12
    for one in (operator, operator.touched()):
        found = one.squared_norms()
        assert found.dtype == np.float64
        np.testing.assert_allclose(found, wanted, rtol=tolerance)
    np.testing.assert_allclose(operator.take(np.array([2, 0])).squared_norms(), wanted[[2, 0]])
    by_unit = operator.units()
    np.testing.assert_allclose(
        by_unit.squared_norms(),
        (by_unit.materialize().astype(np.float64) ** 2).sum(axis=-1),
        rtol=tolerance,
    )


def test_squared_norms_of_an_embedding_of_nothing():
    nothing = EmbeddingGradients(np.zeros((3, 0), int), np.zeros((3, 0, 2)), 6)
    np.testing.assert_array_equal(nothing.squared_norms(), np.zeros(3))
    nobody = EmbeddingGradients(np.zeros((0, 2), int), np.zeros((0, 2, 2)), 6)
    assert nobody.squared_norms().shape == (0,)


def test_the_plain_sum_is_that_of_the_rows():
    outer = OuterProducts(RNG.normal(size=(N, 2, 3)), RNG.normal(size=(N, 2, 4)))
    ids = EmbeddingGradients(RNG.integers(0, 5, (N, 2)), RNG.normal(size=(N, 2, 3)), 5)
    for one in (outer, outer.units(), ids, patches(), Dense(RNG.normal(size=(N, 2, 3)))):
        wanted = one.materialize().sum(axis=-2).reshape((*one.replicas, *one.shape))
        np.testing.assert_allclose(one.total(), wanted, rtol=1e-12, atol=1e-12)
