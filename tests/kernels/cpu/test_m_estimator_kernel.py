"""M-estimates by the kernel against their definition, at the ends of the range of numbers."""

import dataclasses

import numpy as np
import pytest

import chainrob
from chainrob.kernels import fused
from chainrob.kernels.cpu.psi_polynomials import REACH, RHO, influence, polynomials

KINDS = {
    "normal": lambda rng, n: rng.normal(size=(n, 40)),
    "heavy": lambda rng, n: rng.standard_cauchy(size=(n, 40)) ** 3,
    "ties": lambda rng, n: rng.integers(-1, 2, size=(n, 40)).astype(float),
    "mostly zeros": lambda rng, n: rng.normal(size=(n, 40)) * (rng.random((n, 40)) < 0.2),
    "equal": lambda rng, n: np.full((n, 40), 0.1),
    "far from zero": lambda rng, n: 1e6 + rng.normal(size=(n, 40)),
    "one row huge": lambda rng, n: np.where(
        np.arange(n)[:, None] == n // 2, 1e15, rng.normal(size=(n, 40))
    ),
    "huge": lambda rng, n: 1e300 * rng.normal(size=(n, 40)),
    "near the largest": lambda rng, n: 1.7e308 * rng.uniform(-1, 1, size=(n, 40)),
    "tiny": lambda rng, n: 1e-290 * rng.normal(size=(n, 40)),
    "of all sizes": lambda rng, n: 10.0 ** rng.uniform(-6, 6, size=(n, 40)),
}
ROBUSTIFIERS = [
    *(chainrob.MEstimator(rho, pilot=pilot) for rho in RHO for pilot in ("mean", "median")),
]
GIVEN = [chainrob.MEstimator(rho, scale=0.3) for rho in RHO]


CASES = [(kind, one) for kind in KINDS for one in ROBUSTIFIERS]
# Where values lie far beyond a given scale the root is anywhere between the two in the middle.
CASES += [(kind, one) for kind in ("normal", "ties", "mostly zeros", "tiny") for one in GIVEN]


@pytest.mark.parametrize(("kind", "robustifier"), CASES, ids=repr)
def test_values_of_all_kinds_in_float64(kind, robustifier):
    for n in (1, 2, 3, 16, 61, 300):
        rows = KINDS[kind](np.random.default_rng(n), n)
        found, expected = robustifier(rows), robustifier.reduce(rows)
        size = np.abs(rows).max(axis=0)
        spread = size * np.minimum(1.0, (rows / np.where(size > 0, size, 1)).std(axis=0))
        # Rounding of a mean that is large against the spread is no error of the iteration.
        allowed = 1e-10 * spread + 1e-14 * n * np.abs(expected) + 1e-321
        assert np.all(np.abs(found - expected) <= allowed), (n, np.abs(found - expected).max())


def test_4096_rows_and_one_column():
    rows = np.random.default_rng(0).normal(size=(4096, 1))
    for robustifier in ROBUSTIFIERS:
        np.testing.assert_allclose(robustifier(rows), robustifier.reduce(rows), atol=1e-12)


def kernel(robustifier, rows):
    """What the kernel alone answers; None where the array form is asked."""
    form = robustifier.fused(len(rows))
    found = fused(*form, rows[:, None, :], np.ones((len(rows), 1, 1), rows.dtype))
    return None if found is None else found[0]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("rho", RHO)
def test_the_kernel_itself_answers(rho, dtype):
    """Also for scales far below the spread; an odd number of rows leaves one root."""
    for scale in (None, 3.0, 0.3, 0.03, 0.01, 1e-3, 1e-5, 1e-8):
        robustifier = chainrob.MEstimator(rho, scale=scale)
        for n in (9, 101):
            rows = np.random.default_rng(n).normal(size=(n, 50)).astype(dtype)
            found, expected = kernel(robustifier, rows), robustifier.reduce(rows)
            assert found is not None, (scale, n)
            np.testing.assert_allclose(
                found, expected, rtol=0, atol=2e-5 if dtype == np.float32 else 1e-12
            )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("robustifier", [*ROBUSTIFIERS, *GIVEN], ids=repr)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_stays_in_its_column(value, robustifier, dtype):
    rows = np.random.default_rng(0).normal(size=(30, 40)).astype(dtype)
    expected = robustifier(rows)
    rows[4, 7] = value
    found = dataclasses.replace(robustifier, nonfinite="propagate")(rows)
    assert np.isnan(found[7])
    np.testing.assert_allclose(np.delete(found, 7), np.delete(expected, 7), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("dtype", "digits"), [(np.float32, 2e-5), (np.float64, 5e-14)])
@pytest.mark.parametrize("rho", RHO)
def test_polynomials_are_psi(rho, dtype, digits):
    sizes = np.linspace(1e-6, REACH, 999).astype(dtype)
    catoni, double = rho == "catoni", dtype == np.float64
    power = sizes if catoni else sizes * sizes
    if double:
        power = power - 1 if catoni else power / 2 - 1
    deficit = np.polyval(polynomials(rho, np.dtype(dtype))[:-4], power) * sizes * sizes
    expected = [influence(RHO[rho], float(size)) for size in sizes]
    np.testing.assert_allclose(sizes * (1 - deficit), expected, rtol=0, atol=digits)
