import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA
from sklearn.preprocessing import MinMaxScaler

from chainrob.datasets import MinMaxScaling, PrincipalComponents, load_iris


@pytest.mark.parametrize("whiten", [True, False])
@pytest.mark.parametrize("components", [1, 2, 4])
def test_principal_components_equal_scikit_learns(components, whiten):
    x = load_iris().x
    train, other = x[::2], x[1::2]
    theirs = PCA(components, whiten=whiten, svd_solver="full").fit(train)
    ours = PrincipalComponents.fit(train, components, whiten=whiten)
    expected = theirs.transform(other)
    # The sign of a component is a convention; ours is that its largest loading is positive.
    largest = np.abs(theirs.components_).argmax(axis=1)
    expected = expected * np.sign(theirs.components_[np.arange(components), largest])
    np.testing.assert_allclose(ours(other), expected, atol=1e-12)


def test_sign_does_not_depend_on_the_sign_of_the_singular_vectors():
    x = load_iris().x
    turned = PrincipalComponents.fit(x[::-1], 2)
    np.testing.assert_allclose(turned(x), PrincipalComponents.fit(x, 2)(x), atol=1e-12)
    assert (np.abs(turned.directions).max(axis=1) == turned.directions.max(axis=1)).all()


def test_min_max_equals_scikit_learns():
    x = load_iris().x
    np.testing.assert_allclose(
        MinMaxScaling.fit(x[:40])(x), MinMaxScaler().fit(x[:40]).transform(x), atol=1e-14
    )


@settings(deadline=None, max_examples=50)
@given(st.integers(2, 30), st.integers(1, 5), st.integers(0, 2**32 - 1), st.integers(-12, 12))
def test_min_max_fills_the_unit_interval_at_any_scale(n, d, seed, exponent):
    x = np.random.default_rng(seed).normal(size=(n, d)) * 10.0**exponent
    z = MinMaxScaling.fit(x)(x)
    assert z.min() == 0
    np.testing.assert_allclose(z.max(axis=0), 1, rtol=1e-12)


def test_constant_feature_is_only_shifted():
    assert MinMaxScaling.fit([[3.0], [3.0]])([[3.0], [4.0]]).tolist() == [[0.0], [1.0]]


@pytest.mark.parametrize(
    ("x", "components", "message"),
    [
        (np.ones(3), 1, r"shape \(n, d\) with n >= 2"),
        (np.ones((1, 3)), 1, "n >= 2"),
        ([[np.nan, 1.0], [0.0, 1.0]], 1, "must be finite"),
        (np.eye(3), 3, r"components must be between 1 and min\(n - 1, d\) = 2, found 3"),
        (np.eye(3), 0, "found 0"),
        (np.ones((4, 3)), 1, "vary along fewer than components=1"),
        (np.arange(8.0).reshape(4, 2), 2, "vary along fewer than components=2"),
    ],
)
def test_bad_input_is_named(x, components, message):
    with pytest.raises(ValueError, match=message):
        PrincipalComponents.fit(x, components)
