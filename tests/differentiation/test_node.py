"""Nodes as (f, G), links and Chainer functions; any shapes; forward propagation; costs."""

import itertools
import time
import tracemalloc

import numpy as np
import pytest

import chainrob
import chainer
from chainrob.differentiation import (
    DeepFunction,
    Node,
    central_difference,
    subgradient,
)

F, L = chainer.functions, chainer.links
N = 4


def squared(y):
    return F.sum(F.reshape((y - 0.3) ** 2, (len(y), -1)), axis=1)


def by_arrays(z, w, b):
    """A layer of plain NumPy: tanh(z W^T + b)."""
    return np.tanh(z @ w.T + b)


def its_adjoint(epsilon, z, theta):
    w, b = theta
    below = epsilon * (1 - np.tanh(z @ w.T + b) ** 2)
    return below @ w, (below.T @ z, below.sum(axis=0))


def its_tangent(dz, dtheta, z, theta):
    w, b = theta
    return (1 - np.tanh(z @ w.T + b) ** 2) * (dz @ w.T + z @ dtheta[0].T + dtheta[1])


def by_chainer(z, w, b):
    return F.tanh(F.linear(z, w, b))


def pair_of_networks(rng):
    """The same layers with G of their own and by Chainer."""
    thetas = [(rng.normal(size=(b, a)), rng.normal(size=b)) for a, b in ((3, 5), (5, 2))]
    own = DeepFunction.chain([(by_arrays, theta, its_adjoint, its_tangent) for theta in thetas])
    return own, DeepFunction.chain([(by_chainer, theta) for theta in thetas])


def test_a_node_with_an_adjoint_function_of_its_own():
    rng = np.random.default_rng(0)
    own, stock = pair_of_networks(rng)
    x = rng.normal(size=(N, 3))
    found, exact = own.adjoint(x, squared), stock.adjoint(x, squared)
    for name in exact.states:
        np.testing.assert_allclose(found.states[name], exact.states[name], rtol=1e-12)
        np.testing.assert_allclose(found.errors[name], exact.errors[name], rtol=1e-12)
    for name in exact.gradients:
        for k in range(2):
            np.testing.assert_allclose(found.gradients[name][k], exact.gradients[name][k])
            np.testing.assert_allclose(
                found.sample_gradients[name][k], exact.sample_gradients[name][k], rtol=1e-12
            )
        np.testing.assert_allclose(found.B[name], exact.B[name], rtol=1e-12, atol=1e-15)
    for edge in exact.A:
        np.testing.assert_allclose(found.A[edge], exact.A[edge], rtol=1e-12)
    y = own(x)  # and it is a Chainer function like any other
    F.sum(y).backward()
    np.testing.assert_allclose(y.array, stock(x).array)


def test_the_adjoint_is_never_a_matrix():
    """A shuffle of many numbers: G costs what f costs, its Jacobian would not fit anywhere."""
    order = np.random.default_rng(1).permutation(10**5)
    back = np.argsort(order)
    node = Node(
        "shuffle", lambda z: z[:, order], ("x",), adjoint=lambda e, z, theta: (e[:, back], None)
    )
    network = DeepFunction([node, Node("sum", lambda z: F.sum(z**2, axis=1), ("shuffle",))])
    x = np.random.default_rng(2).normal(size=(2, 10**5))
    result = network.adjoint(x, lambda y: y)
    np.testing.assert_allclose(result.errors["x"], 2 * x)
    with pytest.raises(ValueError, match=r"A\['shuffle', 'x'\] must have at most 16,777,216"):
        result.A["shuffle", "x"]


def test_links_and_functions_of_any_shape():
    """Images through a convolution, a fan-out, a concatenation and a Linear link."""
    rng = np.random.default_rng(3)
    with chainer.using_config("dtype", np.float64):
        conv, linear = L.Convolution2D(2, 3, 3, pad=1), L.Linear(None, 2)
    network = DeepFunction(
        [
            Node("conv", conv, ("x",)),
            Node("act", F.softplus, ("conv",)),
            Node("both", lambda a, b: F.concat((a, b), axis=1), ("act", "x")),
            Node("out", linear, ("both",)),
        ]
    )
    x = rng.normal(size=(N, 2, 5, 4))
    with chainer.using_config("dtype", np.float64):  # the sizes of the last link come with the data
        result = network.adjoint(x, squared)
    variable = chainer.Variable(x)
    h = F.softplus(conv(variable))
    losses = squared(linear(F.concat((h, variable), axis=1)))
    for link in (conv, linear):
        link.cleargrads()
    F.sum(losses).backward(retain_grad=True)
    np.testing.assert_allclose(result.losses, losses.array)
    np.testing.assert_allclose(result.errors["x"], variable.grad, rtol=1e-10, atol=1e-14)
    np.testing.assert_allclose(result.errors["act"], h.grad, rtol=1e-10, atol=1e-14)
    for name, link in (("conv", conv), ("out", linear)):
        for path, parameter in link.namedparams():
            np.testing.assert_allclose(result.gradients[name][path], parameter.grad, rtol=1e-10)
            rows = result.sample_gradients[name][path]
            assert rows.shape == (N, *parameter.shape)
            np.testing.assert_allclose(rows.sum(axis=0), parameter.grad, rtol=1e-9, atol=1e-13)
    assert result.A["conv", "x"].shape == (N, 3, 5, 4, 2, 5, 4)
    error = np.einsum("nabcdef,nabc->ndef", result.A["conv", "x"], result.errors["conv"])
    error += np.einsum("nabcdef,nabc->ndef", result.A["both", "x"], result.errors["both"])
    np.testing.assert_allclose(error, result.errors["x"], rtol=1e-10, atol=1e-13)


def test_a_whole_chain_and_a_robust_link_are_nodes():
    rng = np.random.default_rng(4)
    with chainer.using_config("dtype", np.float64):
        model = chainrob.robustify(
            chainer.Sequential(L.Linear(3, 6), F.tanh, L.Linear(6, 2)), chainrob.SoftTruncation()
        )
    x = rng.normal(size=(9, 3))
    result = DeepFunction.chain([model, F.sin]).adjoint(x, squared)
    plain = {name: parameter.array for name, parameter in model.namedparams()}
    for name in plain:  # exact sums, as everywhere in this package, not estimates

        def total(value, name=name):
            parameter = dict(model.namedparams())[name]
            parameter.array = value
            with chainer.no_backprop_mode():
                answer = float(F.sum(squared(F.sin(model(x)))).array)
            parameter.array = plain[name]
            return answer

        np.testing.assert_allclose(
            result.gradients["layer1"][name], central_difference(total, plain[name]), atol=1e-7
        )


def recurrent(rng):
    """Two inputs, two outputs, a node with two outputs and parameters, and both are used twice."""

    def cell(h, x, w, u):
        gate = F.sigmoid(F.linear(x, u))
        state = F.tanh(F.linear(h, w)) * gate
        return state, gate

    w, u = rng.normal(size=(3, 3)), rng.normal(size=(3, 2))
    return DeepFunction(
        [
            Node("cell", cell, ("h", "x"), (w, u), outputs=("state", "gate")),
            Node("mix", lambda a, b: a * b + a, ("state", "gate")),
            Node("again", lambda a, b, v: F.matmul(a + b, v), ("mix", "state"), w),
        ],
        inputs=("h", "x"),
        outputs=("again", "gate"),
    )


def test_several_inputs_and_outputs():
    rng = np.random.default_rng(5)
    network = recurrent(rng)
    h, x = rng.normal(size=(N, 3)), rng.normal(size=(N, 2))
    loss = lambda y, gate: F.sum(y**2, axis=1) + F.sum(F.sin(gate), axis=1)  # noqa: E731
    result = network.adjoint({"x": x, "h": h}, loss)
    assert set(result.states) == {"h", "x", "state", "gate", "mix", "again"}
    total = lambda h, x: float(F.sum(loss(*network(h, x))).array)  # noqa: E731
    np.testing.assert_allclose(
        result.errors["h"], central_difference(lambda v: total(v, x), h), atol=1e-7
    )
    np.testing.assert_allclose(
        result.errors["x"], central_difference(lambda v: total(h, v), x), atol=1e-7
    )
    w, u = network.nodes[0].parameters
    again = network.nodes[2].parameters

    def of_parameters(w, u, again):
        nodes = list(network.nodes)
        nodes[0] = Node("cell", nodes[0].function, ("h", "x"), (w, u), outputs=("state", "gate"))
        nodes[2] = Node("again", nodes[2].function, ("mix", "state"), again)
        other = DeepFunction(nodes, inputs=("h", "x"), outputs=("again", "gate"))
        return float(F.sum(loss(*other(h, x))).array)

    for found, exact in (
        (result.gradients["cell"][0], central_difference(lambda v: of_parameters(v, u, again), w)),
        (result.gradients["cell"][1], central_difference(lambda v: of_parameters(w, v, again), u)),
        (result.gradients["again"], central_difference(lambda v: of_parameters(w, u, v), again)),
    ):
        np.testing.assert_allclose(found, exact, atol=1e-7)
    np.testing.assert_allclose(
        result.sample_gradients["cell"][1].sum(axis=0), result.gradients["cell"][1], rtol=1e-12
    )
    with pytest.raises(ValueError, match="must have one output for a Jacobian"):
        result.A["cell", "h"]


@pytest.mark.parametrize("kind", ["own", "stock", "recurrent", "links"])
def test_forward_propagation_of_gradients(kind):
    """Tangents against differences, and <epsilon, tangent> is the same at every cut."""
    rng = np.random.default_rng(6)
    step = 1e-6
    if kind == "recurrent":
        network, x = recurrent(rng), (rng.normal(size=(N, 3)), rng.normal(size=(N, 2)))
        loss = lambda y, gate: F.sum(y**2, axis=1) + F.sum(gate, axis=1)  # noqa: E731
    elif kind == "links":
        with chainer.using_config("dtype", np.float64):
            network = DeepFunction.chain([L.Linear(3, 4), F.tanh, L.Bilinear(4, 1, 2)][:2])
        x, loss = (rng.normal(size=(N, 3)),), squared
    else:
        network = dict(zip(("own", "stock"), pair_of_networks(rng), strict=True))[kind]
        x, loss = (rng.normal(size=(N, 3)),), squared
    v = tuple(rng.normal(size=one.shape) for one in x)
    found = network.tangent(x, v)
    ahead, behind = (
        network.tangent(tuple(a + s * step * b for a, b in zip(x, v, strict=True))).states
        for s in (1, -1)
    )
    for name, tangent in found.tangents.items():
        np.testing.assert_allclose(tangent, (ahead[name] - behind[name]) / (2 * step), atol=1e-8)
    result = network.adjoint(x, loss)
    slope = sum((result.errors[n] * d).sum() for n, d in zip(network.inputs, v, strict=True))
    # The same number by the tangents of the outputs and the loss's own error vectors there.
    leaves = [chainer.Variable(result.states[name]) for name in network.outputs]
    own = chainer.grad([F.sum(loss(*leaves))], leaves)
    ends = zip(network.outputs, own, strict=True)
    assert sum((found.tangents[n] * e.array).sum() for n, e in ends) == pytest.approx(slope)


@pytest.mark.parametrize("which", [0, 1])
def test_forward_propagation_in_parameters(which):
    rng = np.random.default_rng(7)
    network = pair_of_networks(rng)[which]
    x = rng.normal(size=(N, 3))
    direction = tuple(rng.normal(size=p.shape) for p in network.nodes[0].parameters)
    found = network.tangent(x, parameters={"layer1": direction})
    result = network.adjoint(x, squared)
    slope = sum((g * d).sum() for g, d in zip(result.gradients["layer1"], direction, strict=True))
    ahead = (result.errors["layer2"] * found.tangents["layer2"]).sum()
    assert ahead == pytest.approx(slope, rel=1e-12)
    assert not found.tangents["x"].any()


def test_kinks_are_refused_here_too():
    network = DeepFunction.chain([F.relu])
    x = np.array([[0.0, 1.0]])
    with pytest.raises(ValueError, match="not differentiable there: a ReLU of 0"):
        network.adjoint(x, squared)
    with subgradient("right"):
        np.testing.assert_allclose(network.adjoint(x, squared).errors["x"], [[-0.6, 1.4]])


def test_what_is_refused():
    rng = np.random.default_rng(8)
    x = rng.normal(size=(N, 3))
    w = rng.normal(size=(2, 3))
    with pytest.raises(ValueError, match="a link has its own parameters"):
        Node("a", L.Linear(3, 2), ("x",), w)
    with pytest.raises(ValueError, match="a tangent goes with an adjoint"):
        Node("a", F.sin, ("x",), tangent=its_tangent)
    with pytest.raises(TypeError, match="function must be callable"):
        Node("a", w, ("x",))
    bad = DeepFunction.chain([(lambda z, w: z @ w.T, w, lambda e, z, w: (e @ w, e))])
    with pytest.raises(ValueError, match="adjoint must return arrays of the shapes"):
        bad.adjoint(x, squared)
    bad = DeepFunction.chain([(lambda z, w: z @ w.T, w, lambda e, z, w: e @ w)])
    with pytest.raises(ValueError, match="adjoint must return a pair"):
        bad.adjoint(x, squared)
    bad = DeepFunction.chain([(lambda z, w: z @ w.T, w, lambda e, z, w: (e @ w, e.T @ z))])
    with pytest.raises(NotImplementedError, match="forward propagation needs its tangent="):
        bad.tangent(x, x)
    with pytest.raises(ValueError, match=r"must return 1 chainer.Variable, found \['ndarray'\]"):
        DeepFunction.chain([lambda x: x.array]).adjoint(x, squared)
    with pytest.raises(ValueError, match="x must hold 2 inputs, found 1"):
        recurrent(rng).adjoint(x, squared)
    with pytest.raises(ValueError, match="outputs must be names of states"):
        DeepFunction([Node("a", F.sin, ("x",))], outputs=("b",))
    with pytest.raises(ValueError, match=r"parameters must be names of nodes .* \['b'\]"):
        DeepFunction.chain([F.sin]).tangent(x, parameters={"b": x})
    with pytest.raises(ValueError, match=r"the direction of 'x' must have shape \(4, 3\)"):
        DeepFunction.chain([F.sin]).tangent(x, x[:2])


def wide(rng, sizes=(150, 150, 150, 150, 10)):
    pairs = itertools.pairwise(sizes)
    layers = [(rng.normal(size=(b, a)) / np.sqrt(a), np.zeros(b)) for a, b in pairs]
    return DeepFunction.chain([(by_chainer, theta) for theta in layers])


def test_operations_of_both_passes():
    rng = np.random.default_rng(9)
    sizes, n = (150, 120, 10), 64
    costs = wide(rng, sizes).costs(rng.normal(size=(n, 150)), squared, repeats=1)
    # Forward: products, sums and biases, and a tanh a number. Backward: the same product twice.
    products = sum(2 * n * a * b for a, b in itertools.pairwise(sizes))
    units = n * sum(sizes[1:])
    assert costs.forward_operations == products + 2 * units
    assert 2 * products <= costs.backward_operations <= 2 * products + 8 * units
    assert costs.backward_operations <= 3 * costs.forward_operations
    assert costs.state_bytes == 8 * n * sum(sizes)


def test_backward_takes_at_most_three_forward_passes():
    rng = np.random.default_rng(10)
    network = wide(rng, (400, 400, 400, 400, 10))
    costs = network.costs(rng.normal(size=(256, 400)), squared, repeats=9)
    assert costs.backward_seconds <= 3 * costs.forward_seconds


def test_time_and_memory_of_back_propagation():
    """One 150 -> 150 layer with 64 samples: the dense Jacobians would be 1.7 GB."""
    rng = np.random.default_rng(11)
    network, x = wide(rng), rng.normal(size=(64, 150))
    states = sum(one.nbytes for one in network.adjoint(x, squared).states.values())
    parameters = sum(array.nbytes for node in network.nodes for array in node.parameters)
    tracemalloc.start()
    try:
        network.adjoint(x, squared)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # States and error vectors, the gradients, and one layer's inner values.
    assert peak <= 4 * states + parameters + 500_000

    def plain():
        variables = [chainer.Variable(a) for node in network.nodes for a in node.parameters]
        h = x
        for k in range(0, len(variables), 2):
            h = by_chainer(h, *variables[k : k + 2])
        F.sum(squared(h)).backward()

    def least(run):
        taken = []
        for _ in range(9):
            start = time.process_time()
            run()
            taken.append(time.process_time() - start)
        return min(taken)

    plain()
    assert least(lambda: network.adjoint(x, squared)) <= 3 * least(plain)


def test_one_input_may_be_named_without_a_tuple():
    network = DeepFunction([Node("out", F.tanh, "state")], inputs=("state",))
    x = np.random.default_rng(0).normal(size=(4, 3))
    np.testing.assert_array_equal(network(x).array, np.tanh(x))
