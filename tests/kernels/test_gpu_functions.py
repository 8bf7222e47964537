"""What the layers do on a device between gy and the estimate, on the strict stand-in for CuPy."""

import numpy as np
import pytest

import chainrob
import chainer
from chainrob import functions as f
from chainrob.functions.cross_entropy import CrossEntropy
from chainrob.functions.gradient_node import GradientNode
from tests.functions.test_double_backward_layers import LAYERS
from tests.kernels import fake_cupy

N = 5
ALL = {
    **LAYERS,
    "linear": (f.linear, (5,), [(3, 5), (3,)], {}),
    "linear_positions": (f.linear, (4, 5), [(3, 5), (3,)], {"n_batch_axes": 2}),
}


def nodes_of(name, dtype, monkeypatch):
    """The gradient nodes of a layer's backward pass on the host, each with its arrays."""
    function, x_shape, shapes, keywords = ALL[name]
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=(N, *x_shape)), *(rng.normal(size=shape) for shape in shapes)]
    variables = [chainer.Variable(array.astype(dtype)) for array in arrays]
    found = []
    forward = GradientNode.forward

    def spy(self, inputs):
        found.append((self, inputs))
        return forward(self, inputs)

    monkeypatch.setattr(GradientNode, "forward", spy)
    y = function(*variables, **keywords, robustifier=chainrob.Mean())
    chainer.functions.sum(chainer.functions.tanh(y) ** 2).backward()
    assert found
    return found


def answers(operator):
    """What robustifiers ask of an operator."""
    yield operator.mean()
    yield operator.gram()
    yield operator.centered_gram()
    yield operator.finite_rows()
    yield operator.surely_finite()
    yield operator.weighted_sum(operator.xp.full((*operator.replicas, N), 0.5))
    yield operator.reduce(lambda values: values.max(axis=-2))
    units = operator.units()
    yield units.gram()
    yield units.weighted_sum(units.xp.full((*units.replicas, N), 0.5))


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize("name", ALL)
def test_sample_gradients_wait_for_nothing(name, dtype, monkeypatch):
    for node, arrays in nodes_of(name, dtype, monkeypatch):
        expected, _ = node.operators(arrays)
        with fake_cupy.installed(), fake_cupy.transfers(0):
            found, _ = node.operators(tuple(fake_cupy.asarray(one) for one in arrays))
            assert found.keys() == expected.keys()
            for key, operator in found.items():
                pairs = zip(answers(operator), answers(expected[key]), strict=True)
                for here, there in pairs:
                    np.testing.assert_allclose(
                        fake_cupy.held(here).astype(float),
                        np.asarray(there).astype(float),
                        rtol=1e-2 if dtype == "float16" else 1e-5,
                        atol=1e-6,
                    )


def test_embeddings_on_a_device():
    """Which entries there are is known to the host only by waiting; what is found is the same."""
    ids = np.array([[0, 3], [1, 1], [2, 3], [0, 0], [5, 3]])
    gy = np.random.default_rng(1).normal(size=(5, 2, 4))
    Gradients = chainrob.sample_gradients.EmbeddingGradients
    expected = Gradients(ids, gy, 7)
    with fake_cupy.installed(), fake_cupy.transfers(1000):
        found = Gradients(fake_cupy.asarray(ids), fake_cupy.asarray(gy), 7)
        for here, there in zip(answers(found), answers(expected), strict=True):
            np.testing.assert_allclose(fake_cupy.held(here), there, rtol=1e-12)


def test_negative_predictions_are_looked_for_on_the_host_and_in_debug_mode():
    y, t = np.full((3, 2), 0.7), np.eye(2)[[0, 1, 1]]
    y[2, 0] = -0.7
    loss = CrossEntropy("no")
    with pytest.raises(ValueError, match="y must not be negative"):
        loss.losses(y, t)
    with fake_cupy.installed():
        arrays = fake_cupy.asarray(y), fake_cupy.asarray(t)
        with fake_cupy.transfers(0):
            found = loss.losses(*arrays)
        np.testing.assert_allclose(fake_cupy.held(found)[:2], -np.log(0.7))
        with (
            fake_cupy.transfers(4),
            chainer.using_config("debug", True),
            pytest.raises(ValueError, match="y must not be negative"),
        ):
            loss.losses(*arrays)
