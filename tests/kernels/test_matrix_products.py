"""Which library forms a matrix product on the host: the one that was named, for large ones."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from chainrob.kernels import matrix_products
from chainrob.kernels.matrix_products import (
    LARGE,
    LARGE_SUMS,
    filter_sums,
    product,
    use_products,
)
from chainrob.sample_gradients.patches import Geometry

RNG = np.random.default_rng(0)


@pytest.fixture
def asked():
    """What the library that is named here was asked for; NumPy's is back afterwards."""
    found = []

    def own(a, b):
        found.append((a.shape, b.shape))
        return a @ b

    use_products(own)
    yield found
    use_products(None)


def factors(*shape, dtype=np.float32):
    rows, inner, columns = shape
    a = RNG.normal(size=(rows, inner)).astype(dtype)
    return a, RNG.normal(size=(inner, columns)).astype(dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_large_product_of_two_matrices_is_asked_of_it(asked, dtype):
    a, b = factors(64, 32, 32, dtype=dtype)
    assert a.shape[0] * b.size == LARGE
    found = product(a, b)
    assert asked == [((64, 32), (32, 32))]
    assert found.dtype == dtype
    np.testing.assert_allclose(found, a @ b)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        factors(63, 32, 32),
        factors(64, 32, 32, dtype=np.float16),
        (factors(64, 32, 32)[0], factors(64, 32, 32, dtype=np.float64)[1]),
        (np.ones((2, 64, 32)), np.ones((2, 32, 32))),
        (np.ones((64, 4096)), np.ones(4096)),
    ],
    ids=["small", "half", "two dtypes", "stacks", "vector"],
)
def test_others_are_left_to_numpy(asked, a, b):
    np.testing.assert_array_equal(product(a, b), a @ b)
    assert asked == []


def test_transposed_and_strided_matrices(asked):
    a, b = factors(128, 64, 64)
    np.testing.assert_allclose(product(b.T, a.T), b.T @ a.T)
    np.testing.assert_allclose(product(a[::2], b[:, ::-1]), a[::2] @ b[:, ::-1])
    assert len(asked) == 2


def test_the_choice_belongs_to_one_thread(asked):
    a, b = factors(64, 32, 32)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(product, a, b).result()
    assert asked == []
    use_products(None)
    product(a, b)
    assert asked == []
    assert matrix_products._state.product is None


def test_only_large_sums_over_patches_are_asked_of_it():
    asked, geometry = [], Geometry((3, 3), (1, 1), (1, 1), 2)

    def own(patched, plain, geometry):
        asked.append((patched.shape, plain.shape))
        return "sums"

    def ask(n_samples, dtype=np.float32):
        patched = np.ones((n_samples, 4, 10, 10), dtype)
        plain = np.ones((n_samples, 16, 8, 8), dtype)
        return filter_sums(patched, plain, dtype(0.5), geometry, np.dtype(dtype))

    use_products(product, own)
    try:
        enough = -(-LARGE_SUMS // (16 * 8 * 8 * 2 * 9))
        assert ask(enough) == "sums"
        assert ask(enough - 1) is None
        assert ask(enough, np.float64) is None
    finally:
        use_products(None)
    assert ask(enough) is None
    assert asked == [((enough, 4, 10, 10), (enough, 16, 8, 8))]
