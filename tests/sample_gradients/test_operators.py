"""Outer products, dense rows, joined and mixed ones against rows written out by NumPy."""

import tracemalloc
from math import prod

import numpy as np
import pytest

import chainrob
from chainrob.sample_gradients import Dense, Joined, OuterProducts
from chainrob.sample_gradients.operator_base import block_matrix, squared_distances

RNG = np.random.default_rng(0)


def outer(replicas=(), shared=False, n=7, s=1, q=4, p=5, dtype=np.float64):
    x = RNG.normal(size=(*(tuple(1 for _ in replicas) if shared else replicas), n, s, p))
    gy = RNG.normal(size=(*replicas, n, s, q))
    return OuterProducts(x.astype(dtype), gy.astype(dtype))


def written_out(operator):
    """The rows (*R, N, D), from the definition."""
    if isinstance(operator, OuterProducts):
        rows = np.einsum("...nsq,...nsp->...nqp", *(
            one.astype(np.float64) for one in (operator.gy, operator.x)
        ))  # fmt: skip
        return rows.reshape((*operator.replicas, operator.n_samples, -1))
    if isinstance(operator, Dense):
        rows = operator.rows.astype(np.float64)
        return rows.reshape((*operator.replicas, operator.n_samples, -1))
    if isinstance(operator, Joined):
        return np.concatenate([written_out(part) for part in operator.parts], axis=-1)
    return operator.matrix @ written_out(operator.base)


def layer(**options):
    weights = outer(**options)
    return Joined([weights, weights.bias()])


MATRIX = RNG.normal(size=(3, 7))
OPERATORS = {
    "outer products": outer,
    "several positions": lambda: outer(s=3),
    "many positions": lambda: outer(s=20, q=2, p=2),
    "replicas": lambda: outer((3,)),
    "two replica axes": lambda: outer((2, 3), s=2),
    "shared inputs": lambda: outer((3,), shared=True),
    "dense": lambda: Dense(RNG.normal(size=(7, 9))),
    "dense matrix": lambda: Dense(RNG.normal(size=(7, 3, 4))),
    "dense scalar": lambda: Dense(RNG.normal(size=(7,))),
    "dense replicas": lambda: Dense(RNG.normal(size=(2, 7, 3, 4)), 1),
    "layer": layer,
    "layer of several positions": lambda: layer(s=3),
    "layer of replicas": lambda: layer(replicas=(2,)),
    "unrelated parts": lambda: Joined([outer(), Dense(RNG.normal(size=(7, 4)))]),
    "mixed": lambda: outer().mix(MATRIX, affine=False),
    "mixed replicas": lambda: outer((2,)).mix(np.stack([MATRIX, MATRIX + 1]), affine=False),
    "blocks": lambda: outer().block_means(3),
    "blocks of positions": lambda: outer(s=2).block_means(3),
    "blocks of replicas": lambda: outer((2,)).block_means(4),
    "blocks of a layer": lambda: layer().block_means(2),
}


def flat(value, operator):
    """An estimate as (*R, D)."""
    parts = value if isinstance(value, tuple) else (value,)
    n = len(operator.replicas)
    return np.concatenate([part.reshape((*part.shape[:n], -1)) for part in parts], axis=-1)


@pytest.mark.parametrize("name", OPERATORS)
def test_answers(name):
    operator = OPERATORS[name]()
    rows = written_out(operator)
    n = operator.n_samples
    assert rows.shape == (*operator.replicas, n, operator.size)

    def close(found, expected):
        np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-10)

    close(operator.materialize(), rows)
    weights = RNG.normal(size=(*operator.replicas, n))
    close(
        flat(operator.weighted_sum(weights), operator), np.einsum("...n,...nd->...d", weights, rows)
    )
    close(flat(operator.mean(), operator), rows.mean(axis=-2))
    close(operator.gram(), rows @ rows.swapaxes(-1, -2))
    close(operator.squared_norms(), (rows**2).sum(axis=-1))
    differences = rows[..., :, None, :] - rows[..., None, :, :]
    distances = squared_distances(operator.centered_gram())
    close(distances, (differences**2).sum(axis=-1))
    assert np.all(distances >= 0)
    np.testing.assert_array_equal(np.diagonal(distances, axis1=-2, axis2=-1), 0)
    np.testing.assert_array_equal(distances, distances.swapaxes(-1, -2))
    blocks = operator.block_means(2)
    close(blocks.materialize(), block_matrix(n, 2) @ rows)
    close(flat(operator.reduce(lambda values: values.max(axis=-2)), operator), rows.max(axis=-2))
    for robustifier in (chainrob.CoordinateMedian(), chainrob.TrimmedMean(fraction=0.2)):
        estimate = flat(robustifier(operator), operator)
        close(estimate, robustifier.reduce(rows))
    kept = np.array([0, n - 1])
    close(operator.take(kept).materialize(), rows[..., kept, :])
    np.testing.assert_array_equal(operator.finite_rows(), np.ones((*operator.replicas, n), bool))


@pytest.mark.parametrize("name", [n for n in OPERATORS if "joined" not in n])
@pytest.mark.parametrize("budget", [1, 50, 10**6])
def test_tiles_cover_every_coordinate_once_within_the_budget(name, budget):
    operator = OPERATORS[name]()
    if isinstance(operator, Joined) or "layer" in name:
        return
    rows = written_out(operator)
    seen = np.zeros(operator.shape, int)
    base = getattr(operator, "base", operator)
    lead = (slice(None),) * (len(operator.replicas) + 1)
    shaped = rows.reshape((*rows.shape[:-1], *operator.shape))
    for index, values in operator.tiles(budget):
        seen[index] += 1
        smallest = prod(base.replicas) * base.n_samples * prod(operator.shape[1:])
        assert values.size <= max(budget, smallest)
        expected = shaped[lead + index]
        np.testing.assert_allclose(values, expected.reshape(values.shape), atol=1e-12)
    np.testing.assert_array_equal(seen, 1)


@pytest.mark.parametrize("operator", [outer((3,)), Dense(RNG.normal(size=(3, 7, 2)), 1)])
def test_replicas_one_by_one(operator):
    rows = written_out(operator)
    for t in range(3):
        np.testing.assert_allclose(operator.replica((t,)).materialize(), rows[t])
    some = operator.replica((slice(1, 3),))
    assert some.replicas == (2,)
    np.testing.assert_allclose(some.materialize(), rows[1:])


@pytest.mark.parametrize("replicas", [(), (2,)])
def test_output_units(replicas):
    operator = outer(replicas)
    rows = written_out(operator).reshape((*replicas, 7, 4, 5))
    units = operator.units()
    by_unit = np.moveaxis(rows, -2, -3)
    np.testing.assert_allclose(units.materialize(), by_unit)
    np.testing.assert_allclose(units.gram(), by_unit @ by_unit.swapaxes(-1, -2))
    weights = RNG.normal(size=(*replicas, 4, 7))
    expected = np.einsum("...qn,...qnp->...qp", weights, by_unit)
    np.testing.assert_allclose(units.weighted_sum(weights), expected)


def test_materialize_states_its_limit():
    operator = outer()
    assert operator.materialize(limit=140).size == 140
    with pytest.raises(MemoryError, match=r"7 gradients of 20 numbers are 140 numbers, over the l"):
        operator.materialize(limit=139)


def test_unfit_parts():
    with pytest.raises(ValueError, match="at least one operator"):
        Joined([])
    with pytest.raises(ValueError, match="same replicas and number of samples"):
        Joined([outer(n=3), outer(n=4)])
    with pytest.raises(ValueError, match="must have 7 columns"):
        outer().mix(np.ones((2, 6)))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_dtypes(dtype):
    operator = outer(dtype=dtype)
    assert operator.mean().dtype == dtype
    assert operator.weighted_sum(np.ones(7)).dtype == dtype
    assert chainrob.CoordinateMedian()(operator).dtype == dtype
    assert chainrob.MedianOfMeans(2, center="coordinate")(operator).dtype == dtype
    assert operator.gram().dtype == operator.centered_gram().dtype == np.float64
    assert operator.compute_dtype == np.promote_types(dtype, np.float32)
    # float16 products are formed in float32: 300 * 300 would be infinite.
    large = OuterProducts(np.full((3, 1, 2), 300, dtype), np.full((3, 1, 2), 300, dtype))
    assert np.all(large.materialize() == 90000)


# -- accuracy: float32 factors, distances against those of the exact products in float64


def distances_of(rows):
    differences = rows[:, None, :] - rows[None, :, :]
    return (differences**2).sum(axis=-1)


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("n", [12, 90])
@pytest.mark.parametrize(
    ("gap_x", "gap_gy"), [(1e-3, 1e-3), (1e-6, 0.0), (0.0, 1e-6), (1e-5, 1.0), (1.0, 1.0)]
)
def test_distances_of_rows_that_nearly_coincide(n, gap_x, gap_gy, with_bias):
    x = (1 + gap_x * RNG.normal(size=(n, 1, 60))).astype(np.float32)
    gy = (1 + gap_gy * RNG.normal(size=(n, 1, 40))).astype(np.float32)
    weights = OuterProducts(x, gy)
    operator = Joined([weights, weights.bias()]) if with_bias else weights
    expected = distances_of(written_out(operator))
    np.testing.assert_allclose(squared_distances(operator.centered_gram()), expected, rtol=1e-7)


@pytest.mark.parametrize("n", [12, 90])
@pytest.mark.parametrize("where", ["x", "gy", "both", "two rows"])
def test_distances_beside_a_row_1e15_times_the_rest(n, where):
    x = RNG.normal(size=(n, 1, 60)).astype(np.float32)
    gy = RNG.normal(size=(n, 1, 40)).astype(np.float32)
    bad = [n // 2] if where != "two rows" else [0, n // 2]
    if where in ("x", "both", "two rows"):
        x[bad] *= 1e15
    if where in ("gy", "both"):
        gy[bad] *= 1e15
    operator = layer_of(x, gy)
    rows = written_out(operator)
    expected = distances_of(rows)
    found = squared_distances(operator.centered_gram())
    good = np.delete(np.arange(n), bad)
    np.testing.assert_allclose(found[np.ix_(good, good)], expected[np.ix_(good, good)], rtol=1e-10)
    np.testing.assert_allclose(found[bad][:, good], expected[bad][:, good], rtol=1e-6)


def layer_of(x, gy):
    weights = OuterProducts(x, gy)
    return Joined([weights, weights.bias()])


# -- memory


@pytest.mark.parametrize(
    "robustifier",
    [
        chainrob.SoftTruncation(),
        chainrob.MEstimator(),
        chainrob.CoordinateMedian(),
        chainrob.TrimmedMean(fraction=0.1),
        chainrob.GeometricMedian(),
        chainrob.MedianOfMeans(11),
        chainrob.MedianOfMeans(11, center="coordinate"),
        chainrob.Krum(5),
    ],
    ids=repr,
)
def test_memory_is_a_few_gradients_and_never_n_of_them(robustifier):
    n, p, q = 128, 300, 500
    x = RNG.normal(size=(n, 1, p)).astype(np.float32)
    gy = RNG.normal(size=(n, 1, q)).astype(np.float32)
    robustifier(layer_of(x, gy))
    tracemalloc.start()
    robustifier(layer_of(x, gy))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    gradient, batch = 4 * p * q, x.nbytes + gy.nbytes
    assert peak <= 4 * gradient + 6 * batch
    assert peak < 0.06 * n * gradient
