"""Pullbacks against the same sums over materialized rows."""

import numpy as np
import pytest

from chainrob.sample_gradients import Dense, Joined, Mixed, OuterProducts

N, Q, P = 6, 3, 4


@pytest.fixture
def rng():
    return np.random.default_rng(8)


def outer(rng, replicas=(), positions=1, shared=False):
    x = rng.normal(size=(*((1,) * len(replicas) if shared else replicas), N, positions, P))
    return OuterProducts(x, rng.normal(size=(*replicas, N, positions, Q)))


def cotangents_of_factors(operator, rows):
    """d <C, G> / d(x, gy) for explicit cotangents C (*R, N, Q, P), written as two sums."""
    d_gy = np.einsum("...nqp,...nsp->...nsq", rows, operator.x)
    d_x = np.einsum("...nqp,...nsq->...nsp", rows, operator.gy)
    if d_x.shape != operator.x.shape:
        d_x = d_x.sum(axis=0, keepdims=True)
    return d_x, d_gy


def curve(values):
    """Some coordinate-wise derivative that mixes the samples."""
    return np.tanh(values) / (1.0 + (values**2).sum(axis=-2, keepdims=True))


def weighted(rows, weights, mixing, v):
    flat = rows.reshape((*weights.shape, -1))
    cotangent = weights[..., None] * v.reshape((*weights.shape[:-1], 1, -1))
    return (cotangent + mixing @ flat).reshape(rows.shape)


CASES = [
    {},
    {"positions": 3},
    {"replicas": (2,)},
    {"replicas": (2,), "positions": 2, "shared": True},
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_outer_products(rng, case):
    operator = outer(rng, **case)
    replicas = operator.replicas
    rows = operator.materialize().reshape((*replicas, N, Q, P))
    v = rng.normal(size=(*replicas, Q, P))
    np.testing.assert_allclose(
        operator.projections(v), np.einsum("...nqp,...qp->...n", rows, v), atol=1e-12
    )
    weights, mixing = rng.normal(size=(*replicas, N)), rng.normal(size=(*replicas, N, N))
    expected = cotangents_of_factors(operator, weighted(rows, weights, mixing, v))
    for found, wanted in zip(operator.pullback_weights(weights, mixing, v), expected, strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-11)
    derivative = curve(rows.reshape((*replicas, N, -1))).reshape(rows.shape)
    expected = cotangents_of_factors(operator, derivative * v[..., None, :, :])
    for found, wanted in zip(operator.pullback_coordinates(curve, v), expected, strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-12)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_output_units(rng, case):
    operator = outer(rng, **case)
    units = operator.units()
    replicas = operator.replicas
    rows = np.moveaxis(operator.materialize().reshape((*replicas, N, Q, P)), -2, -3)
    v = rng.normal(size=(*replicas, Q, P))
    weights, mixing = rng.normal(size=(*replicas, Q, N)), rng.normal(size=(*replicas, Q, N, N))
    np.testing.assert_allclose(
        units.projections(v), np.einsum("...qnp,...qp->...qn", rows, v), atol=1e-12
    )
    cotangent = np.moveaxis(weighted(rows, weights, mixing, v), -3, -2)
    expected = cotangents_of_factors(operator, cotangent)
    for found, wanted in zip(units.pullback_weights(weights, mixing, v), expected, strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-11)


@pytest.mark.parametrize("replicas", [(), (2,)])
def test_dense_joined_and_mixed(rng, replicas):
    bias = Dense(rng.normal(size=(*replicas, N, Q)), len(replicas))
    weight = outer(rng, replicas)
    joined = Joined([weight, bias])
    matrix = rng.normal(size=(4, N))
    mixed = Mixed(joined, matrix, affine=False)
    v = (rng.normal(size=(*replicas, Q, P)), rng.normal(size=(*replicas, Q)))
    rows = mixed.materialize()
    flat_v = np.concatenate([v[0].reshape((*replicas, -1)), v[1]], axis=-1)
    np.testing.assert_allclose(
        mixed.projections(v), np.einsum("...nd,...d->...n", rows, flat_v), atol=1e-12
    )
    weights, mixing = rng.normal(size=(*replicas, 4)), rng.normal(size=(*replicas, 4, 4))
    mixed_rows = weights[..., None] * flat_v[..., None, :] + mixing @ rows
    for found, cotangent in (
        (mixed.pullback_weights(weights, mixing, v), matrix.T @ mixed_rows),
        (
            mixed.pullback_coordinates(curve, v),
            matrix.T @ (curve(rows) * flat_v[..., None, :]),
        ),
    ):
        of_weight = cotangent[..., : Q * P].reshape((*replicas, N, Q, P))
        for one, wanted in zip(found[0], cotangents_of_factors(weight, of_weight), strict=True):
            np.testing.assert_allclose(one, wanted, atol=1e-11)
        np.testing.assert_allclose(found[1][0], cotangent[..., Q * P :], atol=1e-11)
