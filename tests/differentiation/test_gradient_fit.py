"""The gradient from given pairs, with and without an intercept, few points and bad ones."""

import numpy as np
import pytest

import chainrob
import chainer
from chainrob.differentiation import fit_gradient, regression_gradient

SLOPE = np.array([[1.5, -2.0, 0.25], [0.0, 3.0, -1.0]])
X = np.array([[0.3, 1.0, -2.0], [4.0, 0.0, 1.0]])


def plane(points, height=7.0):
    return height + ((points - X) * SLOPE).sum(axis=(1, 2))


def draw(count, seed=0, scale=0.1):
    return X + scale * np.random.default_rng(seed).normal(size=(count, *X.shape))


@pytest.mark.parametrize("value", [None, 7.0])
@pytest.mark.parametrize("options", [{}, {"loss": "huber"}, {"robustifier": chainrob.Mean()}])
@pytest.mark.parametrize("scale", [1e-6, 0.1, 1e6])
def test_exact_for_a_plane(value, options, scale):
    points = draw(9, scale=scale)
    found = fit_gradient(points, plane(points), X, value=value, **options)
    assert found.shape == X.shape
    np.testing.assert_allclose(found, SLOPE, rtol=1e-6, atol=1e-6 + 1e-9 / scale)


def test_least_squares_with_and_without_intercept():
    """Against NumPy's least squares on a design written out."""
    rng = np.random.default_rng(1)
    points = draw(20)
    values = plane(points) + rng.normal(size=20)
    offsets = (points - X).reshape(20, -1)
    free = np.linalg.lstsq(np.column_stack((np.ones(20), offsets)), values, rcond=None)[0][1:]
    np.testing.assert_allclose(fit_gradient(points, values, X).ravel(), free, rtol=1e-9)
    fixed = np.linalg.lstsq(offsets, values - 6.5, rcond=None)[0]
    np.testing.assert_allclose(fit_gradient(points, values, X, value=6.5).ravel(), fixed, rtol=1e-9)
    mean = fit_gradient(points, values, X, value=6.5, robustifier=chainrob.Mean())
    np.testing.assert_allclose(mean.ravel(), fixed, rtol=1e-9)


@pytest.mark.parametrize("options", [{}, {"loss": "huber"}, {"robustifier": chainrob.Mean()}])
def test_minimum_norm_below_d_points(options):
    """The pseudo-inverse: right along the offsets, nothing across them, and it fits all points."""
    points = draw(4)
    offsets = (points - X).reshape(4, -1)
    anchored = fit_gradient(points, plane(points), X, value=7.0, **options).ravel()
    expected = np.linalg.pinv(offsets) @ (plane(points) - 7.0)
    np.testing.assert_allclose(anchored, expected, rtol=1e-7)
    np.testing.assert_allclose(offsets @ anchored, plane(points) - 7.0, rtol=1e-7, atol=1e-9)
    across = np.linalg.svd(offsets)[2][4:]
    np.testing.assert_allclose(across @ anchored, 0, atol=1e-9)
    # The intercept has no norm: the answer depends on the differences of the points alone.
    centered = offsets - offsets.mean(axis=0)
    free = fit_gradient(points, plane(points, 1e3), X, **options).ravel()
    np.testing.assert_allclose(
        free, np.linalg.pinv(centered, rcond=1e-12) @ (plane(points) - 7.0), rtol=1e-6
    )


@pytest.mark.parametrize(
    "options", [{"loss": "huber"}, {"robustifier": chainrob.TrimmedMean(fraction=0.25)}]
)
@pytest.mark.parametrize("value", [None, 7.0])
def test_bad_values_among_the_given_ones(options, value):
    points = draw(60, seed=2)
    values = plane(points) + 1e-3 * np.random.default_rng(3).normal(size=60)
    values[:6] += 1000
    plain = fit_gradient(points, values, X, value=value)
    robust, info = fit_gradient(points, values, X, value=value, return_info=True, **options)
    assert info.converged
    assert info.evaluations == 0
    assert np.abs(plain - SLOPE).max() > 100
    np.testing.assert_allclose(robust, SLOPE, atol=0.02)


def test_the_functions_value_as_the_anchor():
    function = lambda x: float(plane(x[None])[0])  # noqa: E731
    found, info = regression_gradient(function, X, intercept=False, seed=0, return_info=True)
    np.testing.assert_allclose(found, SLOPE, rtol=1e-8, atol=1e-9)
    assert info.evaluations == 2 * 2 * X.size + 1
    few = regression_gradient(function, X, samples=2, antithetic=False, intercept=False, seed=1)
    assert 0 < np.linalg.norm(few) < np.linalg.norm(SLOPE)
    assert (few * SLOPE).sum() == pytest.approx((few**2).sum(), rel=1e-6)  # a projection


def test_dtypes_numbers_and_variables():
    points = draw(9).astype(np.float32)
    found = fit_gradient(chainer.Variable(points), plane(points), X.astype(np.float32))
    assert found.dtype == np.float32
    assert fit_gradient([1.0, 2.0], [3.0, 5.0], 0.0) == pytest.approx(2)
    assert fit_gradient([1.0, 2.0], [3.0, 5.0], 0.0, value=1) == pytest.approx(2)


def test_what_is_refused():
    points = draw(5)
    for arguments, options, message in (
        ((points[0], plane(points), X), {}, r"points must have shape \(K,\) \+ \(2, 3\)"),
        ((points[:0], [], X), {}, "at least one"),
        ((points, plane(points)[:4], X), {}, r"values must have shape \(5,\), found \(4,\)"),
        ((points, plane(points) * np.nan, X), {}, "values must be finite"),
        ((points, plane(points), X), {"value": np.inf}, "value must be finite"),
        ((points[:1], [1.0], X), {}, "points must differ from each other"),
        ((X[None], [1.0], X), {"value": 1.0}, "from x if value is given"),
        ((points, plane(points), X), {"loss": "l1"}, "loss must be"),
    ):
        with pytest.raises(ValueError, match=message):
            fit_gradient(*arguments, **options)
