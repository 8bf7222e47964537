from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

import chainrob
from chainrob.datasets.contamination import (
    ATTACKS,
    a_little_is_enough,
    infinity,
    inner_product_manipulation,
    mimic,
    sign_flip,
)


@pytest.fixture
def honest():
    return np.random.default_rng(0).normal(1.0, 0.3, (20, 5))


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("f", [0, 1, 7])
def test_shape_dtype_determinism_and_an_input_left_alone(honest, attack, dtype, f):
    rows = honest.astype(dtype)
    before = rows.copy()
    attacked = attack(rows, f)
    assert attacked.shape == (f, 5)
    assert attacked.dtype == dtype
    np.testing.assert_array_equal(rows, before)
    np.testing.assert_array_equal(attacked, attack(rows, f))


def test_sign_flip_sends_negatives_of_different_honest_gradients(honest):
    attacked = sign_flip(honest, 6, scale=2.0, seed=1)
    matches = (attacked[:, None] == -2.0 * honest[None]).all(axis=2)
    assert (matches.sum(axis=1) == 1).all()
    assert (matches.sum(axis=0) <= 1).all()
    assert sign_flip(honest, 45).shape == (45, 5)


def test_inner_product_manipulation_turns_a_mean_around_once_epsilon_f_exceeds_h(honest):
    mean = honest.mean(axis=0)
    for epsilon, sign in [(3.9, 1), (4.1, -1)]:
        rows = np.concatenate([honest, inner_product_manipulation(honest, 5, epsilon=epsilon)])
        assert np.sign(rows.mean(axis=0) @ mean) == sign


def test_alie_uses_the_normal_quantile_of_the_paper(honest):
    f, n = 6, 26
    s = int(np.floor(n / 2 + 1)) - f
    z = stats.norm.ppf((n - f - s) / (n - f))
    expected = honest.mean(axis=0) - z * honest.std(axis=0)
    np.testing.assert_allclose(a_little_is_enough(honest, f), np.tile(expected, (f, 1)))
    assert z > 0


def test_mimic_copies_the_gradient_that_stands_out_along_the_first_component(honest):
    honest[7] += [0, 4.0, 0, 0, 0]
    honest[8] -= [0, 3.0, 0, 0, 0]
    u = np.linalg.svd(honest - honest.mean(axis=0))[2][0]
    assert abs((honest - honest.mean(axis=0)) @ u).argmax() == 7
    np.testing.assert_array_equal(mimic(honest, 3), np.tile(honest[7], (3, 1)))
    np.testing.assert_array_equal(mimic(honest, 1, target=2)[0], honest[2])


def test_infinity_is_dropped_by_a_robustifier_and_a_huge_number_is_outvoted(honest):
    rows = np.concatenate([honest, infinity(honest, 3)])
    with pytest.warns(chainrob.NonFiniteGradientWarning):
        np.testing.assert_allclose(chainrob.Mean()(rows), honest.mean(axis=0))
    rows = np.concatenate([honest, infinity(honest, 3, value=1e30)])
    assert abs(chainrob.CoordinateMedian()(rows) - 1).max() < 0.5


@pytest.mark.parametrize("name", ["sign_flip", "inner_product_manipulation", "infinity"])
def test_a_median_survives_what_a_mean_does_not(honest, name):
    strength = {
        "sign_flip": {"scale": 50.0},
        "inner_product_manipulation": {"epsilon": 50.0},
        "infinity": {"value": -1e6},
    }[name]
    rows = np.concatenate([ATTACKS[name](honest, 6, **strength), honest])
    assert (rows.mean(axis=0) < 0).all()
    assert (chainrob.GeometricMedian()(rows) > 0.5).all()


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_bad_arguments(honest, attack):
    with pytest.raises(ValueError, match="f must be at least 0, found -1"):
        attack(honest, -1)
    with pytest.raises(TypeError, match=r"f must be an integer, found 1\.5"):
        attack(honest, 1.5)
    with pytest.raises(ValueError, match=r"shape \(H, D\)"):
        attack(honest[0], 1)
    with pytest.raises(TypeError, match="floating point dtype, found int64"):
        attack(honest.astype(np.int64), 1)


def test_bad_parameters(honest):
    for call in (
        lambda: sign_flip(honest, 1, scale=0),
        lambda: inner_product_manipulation(honest, 1, epsilon=-1),
        lambda: a_little_is_enough(honest, 21),
        lambda: a_little_is_enough(honest, 1, z=np.nan),
        lambda: mimic(honest, 1, target=20),
        lambda: mimic(infinity(honest, 2), 1),
    ):
        with pytest.raises(ValueError, match="must"):
            call()


def test_the_row_to_mimic_is_an_integer():
    with pytest.raises(TypeError, match=r"target must be an integer or None, found 1.5"):
        chainrob.datasets.contamination.mimic(np.ones((4, 2)), 1, target=1.5)
