"""The weights that a reduction brings along, against the formula on all rows at once."""

import numpy as np
import pytest

import chainrob
from chainrob.sample_gradients import (
    Dense,
    EmbeddingGradients,
    Joined,
    OuterProducts,
    PatchProducts,
    Summed,
)
from chainrob.sample_gradients.patches import Geometry
from chainrob.sample_gradients.reduction import Reduction, RowSquares

N = 7
ROBUSTIFIERS = [
    chainrob.TrimmedMean(0.25),
    chainrob.SoftTruncation(),
    chainrob.MEstimator(),
    chainrob.CoordinateMedian(),
]


def operators(dtype=np.float64):
    rng = np.random.default_rng(0)

    def draw(*shape):
        array = rng.standard_normal(shape).astype(dtype)
        array[..., -1] *= 30.0
        return array

    dense, outer = Dense(draw(N, 3, 2)), OuterProducts(draw(N, 1, 4), draw(N, 1, 3))
    several = OuterProducts(draw(N, 2, 4), draw(N, 2, 3))
    patches = PatchProducts(draw(N, 2, 5), draw(N, 3, 4), Geometry((2,), (1,), (1,), 1))
    ids = rng.integers(0, 9, (N, 3))
    words = EmbeddingGradients(ids, draw(N, 3, 2), 12)
    joined = Joined([outer, dense, words])
    matrix = rng.random((4, N))
    return {
        "dense": dense,
        "outer": outer,
        "several": several,
        "patches": patches,
        "words": words,
        "summed": Summed([several, OuterProducts(draw(N, 1, 4), draw(N, 1, 3))]),
        "joined": joined,
        "mixed": joined.mix(matrix / matrix.sum(axis=1, keepdims=True)),
        "twice mixed": outer.mix(np.eye(N)[::-1]).block_means(3),
        "blocks": joined.block_means(4),
        "outer units": outer.units(),
        "patch units": patches.units(),
        "word units": words.units(),
        "mixed units": outer.mix(np.eye(N)[2:]).units(),
        "units mixed": outer.units().mix(rng.random((3, 4, N)), affine=False),
    }


def expected(rows, weights):
    """The share of each row's squared deviation that was let in."""
    shares = weights / weights.sum(axis=-2, keepdims=True)
    squares = (rows - (shares * rows).sum(axis=-2, keepdims=True)) ** 2
    return (weights * squares).sum(axis=-1) / squares.sum(axis=-1)


@pytest.mark.parametrize("robustifier", ROBUSTIFIERS, ids=repr)
@pytest.mark.parametrize("name", operators())
def test_squares_come_along_with_the_estimate(name, robustifier):
    operator = operators()[name]
    rows = operator.materialize()
    squares = RowSquares.of(operator)
    reduction = Reduction(robustifier.reduce, robustifier.coordinate_weights)
    estimate = operator.reduce(reduction, squares=squares)
    weights = expected(rows, robustifier.coordinate_weights(rows))
    assert squares.weights().shape == (*operator.replicas, operator.n_samples)
    np.testing.assert_allclose(squares.weights(), weights, rtol=1e-9, atol=1e-12)
    alone = operator.reduce(reduction)
    one = not isinstance(estimate, tuple)
    pairs = [(estimate, alone)] if one else zip(estimate, alone, strict=True)
    for found, wanted in pairs:
        np.testing.assert_allclose(found, wanted, rtol=1e-12)


def test_squares_add_over_operators():
    parts = [operators()[name] for name in ("outer", "dense", "patches")]
    robustifier = chainrob.TrimmedMean(0.25)
    reduction = Reduction(robustifier.reduce, robustifier.coordinate_weights)
    together = RowSquares.of(Joined(parts))
    for part in parts:
        part.reduce(reduction, squares=together)
    np.testing.assert_allclose(
        together.weights(), robustifier.sample_weights(Joined(parts)), rtol=1e-12
    )


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_squares_neither_overflow_nor_vanish(scale):
    rows = np.random.default_rng(1).standard_normal((N, 5))
    robustifier = chainrob.TrimmedMean(0.2)
    np.testing.assert_allclose(
        robustifier.sample_weights(rows * scale), robustifier.sample_weights(rows), rtol=1e-10
    )


def test_a_plain_function_has_no_weights():
    operator = operators()["dense"]
    with pytest.raises(TypeError, match="squares need the reduction's weights"):
        operator.reduce(lambda values: values.max(axis=-2), squares=RowSquares.of(operator))


KERNELS = [*ROBUSTIFIERS, chainrob.SoftTruncation(pilot="median"), chainrob.WinsorizedMean(count=1)]


@pytest.mark.parametrize("robustifier", KERNELS, ids=repr)
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("sizes", [((), 1, 4, 3), ((), 1, 16, 8), ((), 2, 2, 10), ((2,), 1, 3, 5)])
def test_a_bias_rides_along_with_few_weights(robustifier, dtype, sizes):
    replicas, s, p, q = sizes
    rng = np.random.default_rng(3)
    x = rng.standard_normal((*replicas, N, s, p)).astype(dtype)
    gy = rng.standard_normal((*replicas, N, s, q)).astype(dtype)
    gy[..., 2, :, :] *= 40
    weights = OuterProducts(x, gy)
    joined = Joined([weights, weights.bias()])
    reduction = robustifier.reduction(N)
    apart, together = RowSquares.of(joined), RowSquares.of(joined)
    expected = [part.reduce(reduction, squares=apart) for part in joined.parts]
    found = joined.reduce(reduction, squares=together)
    unwatched = joined.reduce(reduction)
    digits = 5e-3 if dtype == np.float16 else 1e-5 if dtype == np.float32 else 1e-11
    for one, alone, wanted in zip(found, unwatched, expected, strict=True):
        assert one.dtype == wanted.dtype == dtype
        assert one.flags.c_contiguous
        np.testing.assert_allclose(one, wanted, rtol=digits, atol=digits)
        np.testing.assert_array_equal(one, alone)
    np.testing.assert_allclose(together.weights(), apart.weights(), rtol=max(digits, 1e-5))


def test_of_many_weights_the_bias_is_apart():
    x, gy = np.ones((N, 1, 200), np.float32), np.ones((N, 1, 100), np.float32)
    weights = OuterProducts(x, gy)
    reduction = chainrob.TrimmedMean(0.2).reduction(N)
    assert weights.reduce_with_bias(reduction, None, None) is None
    W, b = Joined([weights, weights.bias()]).reduce(reduction)
    assert (W.shape, b.shape) == ((100, 200), (100,))


def test_a_plain_function_sees_weights_and_bias_apart():
    weights = operators()["several"]
    W, b = Joined([weights.bias(), weights]).reduce(lambda values: values.max(axis=-2))[::-1]
    np.testing.assert_array_equal(W.ravel(), weights.materialize().max(axis=0))
    np.testing.assert_array_equal(b, weights.bias().materialize().max(axis=0))


FEW_MEMBERS = np.zeros((4, N))
FEW_MEMBERS[0, 5], FEW_MEMBERS[1, [0, 2]], FEW_MEMBERS[3, [6, 1]] = 0.5, 0.25, (0.75, -0.25)


@pytest.mark.parametrize("robustifier", KERNELS, ids=repr)
@pytest.mark.parametrize("name", ["dense", "outer", "several", "joined"])
@pytest.mark.parametrize("members", [FEW_MEMBERS, np.eye(N)[[3, 0, 5, 1]], np.ones((4, N)) / N])
def test_mixed_rows_go_to_the_kernels(name, robustifier, members):
    operator = operators()[name]
    mixed = operator.mix(members, affine=False)
    reduction = robustifier.reduction(len(members))
    plain = Reduction(robustifier.reduce, robustifier.coordinate_weights)
    watched, expected = RowSquares.of(mixed), RowSquares.of(mixed)
    found, wanted = mixed.reduce(reduction, squares=watched), mixed.reduce(plain, squares=expected)
    pairs = zip(found, wanted, strict=True) if name == "joined" else [(found, wanted)]
    for one, other in pairs:
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(watched.weights(), expected.weights(), rtol=1e-7, atol=1e-7)


def test_an_infinite_row_stays_in_its_mixed_row():
    x, gy = np.ones((N, 1, 3)), np.ones((N, 1, 2))
    gy[0] = np.inf
    mixed = OuterProducts(x, gy).mix(FEW_MEMBERS, affine=False)
    found = mixed.reduce(chainrob.CoordinateMedian().reduction(4))
    np.testing.assert_array_equal(found, 0.5)
