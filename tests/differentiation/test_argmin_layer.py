"""A layer that minimizes: in a Chain, against differences, trained end to end."""

import numpy as np
import pytest

import chainer
from chainrob.differentiation import (
    ArgminLayer,
    Box,
    LinearEqualities,
    NotAMinimumError,
    Simplex,
    functional,
    vjp,
)

F, L = chainer.functions, chainer.links


def energy(z, h, root, shift):
    """A convex quadratic with a learned matrix, positive definite by its making."""
    n, k = z.shape
    curved = F.sum(F.matmul(z, root) ** 2, axis=1) / 2 + 0.05 * F.sum(z**2, axis=1)
    return curved - F.sum((h + F.broadcast_to(shift, (n, k))) * z, axis=1)


def layer(constraints, k=3, seed=0):
    rng = np.random.default_rng(seed)
    parameters = {"root": rng.normal(size=(k, k)) / k**0.5, "shift": rng.normal(size=k) * 0.1}
    return ArgminLayer(energy, k, parameters, constraints=constraints, start=np.full(k, 1 / k))


SETS = {
    "free": None,
    "box": Box(-0.2, 0.6),
    "simplex": Simplex(),
    "learned equality": lambda h, root, shift: LinearEqualities(
        F.reshape(shift, (1, 3)) + 1.0, np.ones(1)
    ),
}


@pytest.mark.parametrize("name", list(SETS))
def test_gradients_of_a_chain_with_the_layer(name):
    rng = np.random.default_rng(1)
    with chainer.using_config("dtype", np.float64):
        model = chainer.Sequential(L.Linear(4, 3), layer(SETS[name]), L.Linear(3, 2))
    x, t = rng.normal(size=(5, 4)), rng.normal(size=(5, 2))
    f = functional(model, flat=True)
    theta = f.parameters

    def loss(p):
        return F.mean((f(p, x) - t) ** 2)

    _, slope = vjp(loss, theta)
    direction = rng.normal(size=theta.shape)
    h = 1e-6
    expected = float(loss(theta + h * direction).array - loss(theta - h * direction).array)
    assert slope @ direction == pytest.approx(expected / (2 * h), rel=1e-5)
    names = [name for name, _ in model.namedparams()]
    assert {"root", "shift"} <= {name.rpartition("/")[2] for name in names}


def test_a_layer_is_trained_end_to_end():
    """Portfolios: the truth is a simplex-constrained choice with an unknown risk matrix.

    The layer is told the form of the problem and learns its matrix through the argmin; a linear
    layer and a softmax with as many parameters are what one would take without it.
    """
    rng = np.random.default_rng(0)
    k, n = 3, 48
    truth = layer(Simplex(), seed=5)
    h = rng.normal(size=(n, k))
    with chainer.no_backprop_mode():
        t = truth(h).array
    train, test = slice(0, 32), slice(32, None)

    def trained(model, steps, alpha):
        optimizer = chainer.optimizers.Adam(alpha=alpha).setup(model)
        for _ in range(steps):
            optimizer.update(lambda: F.mean_squared_error(model(h[train]), t[train]))
        with chainer.no_backprop_mode():
            return float(F.mean_squared_error(model(h[test]), t[test]).array)

    with chainer.using_config("dtype", np.float64):
        plain = chainer.Sequential(L.Linear(k, k), F.softmax)
    learned = chainer.Sequential(layer(Simplex(), seed=6))
    with chainer.no_backprop_mode():
        before = float(F.mean_squared_error(learned(h[test]), t[test]).array)
    after, other = trained(learned, 25, 0.08), trained(plain, 300, 0.05)
    print(f"test error {before:.2g} before, {after:.2g} after, softmax regression {other:.2g}")
    assert after < 0.1 * before
    assert after < 0.5 * other


def test_serialization_and_report(tmp_path):
    one, two = layer(Simplex(), seed=0), layer(Simplex(), seed=1)
    chainer.serializers.save_npz(tmp_path / "layer.npz", one)
    chainer.serializers.load_npz(tmp_path / "layer.npz", two)
    h = np.random.default_rng(2).normal(size=(4, 3))
    np.testing.assert_array_equal(one(h).array, two(h).array)
    assert one.report.problems == 4
    assert one.report.verdict == "founded"


def test_a_problem_without_a_minimum_is_an_error():
    bad = ArgminLayer(lambda z, h: -F.sum(z**2, axis=1) + F.sum(h * z, axis=1), 2)
    with pytest.raises(NotAMinimumError):
        bad(np.ones((3, 2)))


def test_bad_arguments():
    with pytest.raises(TypeError, match="objective must be callable"):
        ArgminLayer(None, 2)
    with pytest.raises(ValueError, match="size must be positive"):
        ArgminLayer(energy, 0)
    with pytest.raises(ValueError, match="must not be named 'size'"):
        ArgminLayer(energy, 2, {"size": np.ones(2)})
    with pytest.raises(TypeError, match="at least one input"):
        ArgminLayer(energy, 2)()
