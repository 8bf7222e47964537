"""Every robustifier against its definition, written plainly, on materialized rows."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import chainrob
from tests.robustifiers.cases import CASES, IDS, clean_rows

pytestmark = pytest.mark.parametrize("case", CASES, ids=IDS)


def draw_problem(data, case):
    f = data.draw(st.integers(0, 3), label="f")
    least = next(n for n in range(1, 50) if case.limit(n) >= f)
    n = data.draw(st.integers(max(least, 4), max(case.most, least)), label="N")
    d = data.draw(st.integers(case.dim, case.dim + 5), label="D")
    seed = data.draw(st.integers(0, 2**32 - 1), label="seed")
    return f, clean_rows(n, d, seed)


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_float64(case, data):
    f, rows = draw_problem(data, case)
    found = case.make(f)(rows)
    assert found.dtype == np.float64
    assert found.shape == rows.shape[1:]
    np.testing.assert_allclose(found, case.oracle(rows, f), rtol=case.accuracy, atol=case.accuracy)


@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_float32(case, data):
    f, rows = draw_problem(data, case)
    rows = rows.astype(np.float32)
    found = case.make(f)(rows)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, case.oracle(rows.astype(float), f), rtol=1e-4, atol=1e-5)


def test_float16(case):
    rows = clean_rows(9, case.dim + 2).astype(np.float16)
    f = min(2, case.limit(9))
    found = case.make(f)(rows)
    assert found.dtype == np.float16
    np.testing.assert_allclose(found, case.oracle(rows.astype(float), f), rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_nearly_coinciding_rows(case, dtype):
    """Rows that agree in most of their digits: their differences must keep theirs."""
    rng = np.random.default_rng(1)
    center = rng.normal(size=case.dim + 3)
    step = 2.0 ** (-14 if dtype == np.float32 else -36)
    # Few steps, so that the rows are exact and the oracle can work on their differences alone.
    steps = rng.integers(-100, 100, size=(9, len(center)))
    center = np.round(center / step) * step
    rows = (center + steps * step).astype(dtype)
    f = min(2, case.limit(9))
    if not (case.translation and case.scale):
        pytest.skip("its definition does not go by differences alone")
    expected = case.oracle(steps.astype(float), f) * step
    found = case.make(f)(rows).astype(float) - center
    resolution = np.finfo(dtype).eps * np.abs(center).max()
    np.testing.assert_allclose(found, expected, atol=8 * resolution + 1e-6 * step, rtol=0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_one_row_at_1e15(case, dtype):
    rows = clean_rows(9, case.dim + 2).astype(dtype)
    rows[4] *= 1e15
    f = min(2, case.limit(9))
    found = case.make(f)(rows)
    expected = case.oracle(rows.astype(float), f)
    scale = 1.0 if case.robust else 1e15
    tolerance = 1e-4 if dtype == np.float32 else 1e-7
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance * scale)


def test_an_operator_with_replicas_is_many_problems(case):
    rows = np.stack([clean_rows(9, case.dim + 2, seed) for seed in range(6)])
    rows = rows.reshape(2, 3, *rows.shape[1:])
    f = min(2, case.limit(9))
    robustifier = case.make(f)
    found = robustifier(chainrob.sample_gradients.Dense(rows, 2))
    weights = robustifier.sample_weights(chainrob.sample_gradients.Dense(rows, 2))
    assert weights.shape == (2, 3, 9)
    for index in np.ndindex(2, 3):
        alone = robustifier(rows[index])
        np.testing.assert_allclose(found[index], alone, rtol=case.accuracy, atol=case.accuracy)
        alone = robustifier.sample_weights(rows[index])
        np.testing.assert_allclose(weights[index], alone, rtol=1e-6, atol=1e-6)
