"""The adjoint view against Chainer's own backward, and the two orders of multiplication."""

import itertools

import numpy as np
import pytest

import chainrob  # noqa: F401
import chainer
from chainrob.differentiation import DeepFunction, Node, jacobian_product

F = chainer.functions
N = 5


def layer(x, w):
    return F.tanh(F.matmul(w, x[:, :, None])[:, :, 0])


def join(a, b, w):
    return F.sin(a) * b + F.matmul(w, (a + b)[:, :, None])[:, :, 0]


def product(a, b):
    return a * F.exp(-(b**2))


def loss(y):
    return F.sum((y - 0.3) ** 2, axis=1)


def layered(rng):
    sizes = (4, 6, 5, 3)
    weights = [rng.normal(size=(b, a)) for a, b in itertools.pairwise(sizes)]
    return DeepFunction.chain([(layer, w) for w in weights])


def graph(rng):
    """Fan-in of two, fan-out of three (h is used by u, v and z), and a node used twice."""
    w = lambda *shape: rng.normal(size=shape)  # noqa: E731
    return DeepFunction(
        [
            Node("h", layer, ("x",), w(3, 4)),
            Node("u", layer, ("h",), w(3, 3)),
            Node("v", join, ("u", "h"), w(3, 3)),
            Node("s", product, ("v", "v")),
            Node("z", join, ("s", "h"), w(3, 3)),
        ]
    )


@pytest.mark.parametrize("make", [layered, graph])
def test_adjoint_against_chainer(make):
    rng = np.random.default_rng(0)
    network = make(rng)
    x = rng.normal(size=(N, 4))
    result = network.adjoint(x, loss)

    def chainer_pass(rows):
        """The whole graph through Chainer, each node with one parameter Variable."""
        variables = {"x": chainer.Variable(x[rows])}
        thetas = {}
        for node in network.nodes:
            arguments = [variables[name] for name in node.inputs]
            if node.parameters is not None:
                thetas[node.name] = chainer.Variable(node.parameters)
                shape = (len(rows), *node.parameters.shape)
                arguments.append(F.broadcast_to(thetas[node.name], shape))
            variables[node.name] = node.function(*arguments)
        losses = loss(variables[network.nodes[-1].name])
        F.sum(losses).backward(retain_grad=True)
        return variables, thetas, losses

    variables, thetas, losses = chainer_pass(range(N))
    np.testing.assert_allclose(result.losses, losses.array, rtol=1e-12)
    for name, variable in variables.items():
        np.testing.assert_allclose(result.states[name], variable.array, rtol=1e-12)
        np.testing.assert_allclose(result.errors[name], variable.grad, rtol=1e-10, atol=1e-13)
    for name, theta in thetas.items():
        np.testing.assert_allclose(result.gradients[name], theta.grad, rtol=1e-10, atol=1e-13)
    for i in range(N):  # per sample: the stock backward on a batch of one
        for name, theta in chainer_pass([i])[1].items():
            np.testing.assert_allclose(
                result.sample_gradients[name][i], theta.grad, rtol=1e-10, atol=1e-13
            )
    np.testing.assert_allclose(network(x).array, result.states[network.nodes[-1].name])


def test_jacobians_of_a_linear_tanh_layer():
    rng = np.random.default_rng(1)
    w, x = rng.normal(size=(2, 3)), rng.normal(size=(N, 3))
    result = DeepFunction.chain([(layer, w)]).adjoint(x, loss)
    slope = 1 - np.tanh(x @ w.T) ** 2
    np.testing.assert_allclose(result.A["layer1", "x"], slope[:, :, None] * w, rtol=1e-12)
    exact = np.einsum("ni,ij,nk->nijk", slope, np.eye(2), x).reshape(N, 2, 6)
    np.testing.assert_allclose(result.B["layer1"], exact, rtol=1e-12)


def test_bad_graphs():
    with pytest.raises(ValueError, match="at least one node"):
        DeepFunction([])
    with pytest.raises(ValueError, match="unique names, found 'a' again"):
        DeepFunction([Node("a", F.sin, ("x",)), Node("a", F.sin, ("x",))])
    with pytest.raises(ValueError, match="inputs that come before"):
        DeepFunction([Node("a", F.sin, ("b",)), Node("b", F.sin, ("x",))])
    one = DeepFunction([Node("a", F.sin, ("x",))])
    with pytest.raises(ValueError, match=r"x must be an array \(samples, ...\)"):
        one.adjoint(np.zeros(()), loss)
    with pytest.raises(ValueError, match=r"loss must return shape \(2,\)"):
        one.adjoint(np.zeros((2, 3)), F.sum)


def test_exponents_of_the_two_orders():
    rng = np.random.default_rng(2)
    sizes = [16, 32, 64, 128]
    fits = {}
    for order in ("left-to-right", "right-to-left"):
        counts = []
        for n in sizes:
            chain = [rng.normal(size=(n, n)) / np.sqrt(n) for _ in range(5)]
            error = rng.normal(size=n)
            found = jacobian_product(chain, error, order=order)
            exact = np.linalg.multi_dot([*[a.T for a in chain], error])
            np.testing.assert_allclose(found.vector, exact, rtol=1e-9, atol=1e-11)
            counts.append(found.multiplications)
        fits[order] = np.polyfit(np.log(sizes), np.log(counts), 1)[0]
    assert fits["left-to-right"] == pytest.approx(3, abs=0.02)
    assert fits["right-to-left"] == pytest.approx(2, abs=1e-9)


def test_products_of_unequal_sizes_and_their_refusals():
    rng = np.random.default_rng(3)
    a, b, e = rng.normal(size=(3, 2)), rng.normal(size=(4, 3)), rng.normal(size=4)
    right, left = (jacobian_product([a, b], e, order=o) for o in ("right-to-left", "left-to-right"))
    np.testing.assert_allclose(right.vector, a.T @ (b.T @ e))
    np.testing.assert_allclose(left.vector, right.vector)
    assert right.multiplications == 12 + 6
    assert left.multiplications == 2 * 3 * 4 + 2 * 4
    with pytest.raises(ValueError, match="must chain"):
        jacobian_product([b, a], e)
    with pytest.raises(ValueError, match="order must be"):
        jacobian_product([a, b], e, order="inside-out")
