"""A Chain as a pure function: against finite differences, for models that were not made for it."""

import numpy as np
import pytest

import chainrob
import chainer
from chainer.utils.type_check import InvalidType
from chainrob.differentiation import (
    argmin,
    central_difference,
    evaluation_trace,
    functional,
    gauss_newton_vector_product,
    hessian,
    hessian_vector_product,
    jacobian,
    jvp,
    spsa,
    vjp,
)

F, L = chainer.functions, chainer.links
RNG = np.random.default_rng(0)
X = RNG.normal(size=(6, 3))


class Network(chainer.Chain):
    """Shared links, a parameter of its own, an inner chain and a list of links."""

    def __init__(self):
        super().__init__()
        with self.init_scope():
            self.first = L.Linear(3, 4)
            self.inner = chainer.Sequential(L.Linear(4, 4), F.tanh)
            self.scale = chainer.Parameter(np.ones(4))
        self.steps = [self.inner, self.inner]

    def forward(self, x):
        h = F.sin(self.first(x)) * F.broadcast_to(self.scale, (len(x), 4))
        for step in self.steps:
            h = step(h)
        return F.sum(h**2, axis=1)


def double(model, seed=0):
    rng = np.random.default_rng(seed)
    for _, one in sorted(model.namedparams()):
        one.array = rng.normal(size=one.shape) * 0.7
    return model


def convolutional():
    return chainer.Sequential(
        L.Convolution2D(1, 2, 2), F.tanh, L.GroupNormalization(1, size=2), L.Linear(8, 2)
    )


def networks():
    image = RNG.normal(size=(3, 1, 3, 3))
    norm = chainer.Sequential(L.Linear(3, 4), L.BatchNormalization(4), F.sigmoid, L.Linear(4, 1))
    return {
        "chain": (Network(), X),
        "convolution": (convolutional(), image),
        "batch normalization": (norm, X),
        "recurrent": (L.LSTM(3, 2), X),
        "robust": (chainrob.links.MLP((3, 4, 1), chainrob.CoordinateMedian()), X),
        "robust model": (
            chainrob.robustify(
                chainer.Sequential(L.Linear(3, 4), F.tanh, L.Linear(4, 1)),
                chainrob.GeometricMedian(),
                scope="model",
            ),
            X,
        ),
    }


@pytest.fixture(params=["chain", "convolution", "batch normalization", "recurrent", "robust",
                        "robust model"])  # fmt: skip
def case(request):
    with chainer.using_config("dtype", np.float64):
        model, x = networks()[request.param]
        return double(model), x


def test_derivatives_against_finite_differences(case):
    model, x = case
    f = functional(model, flat=True)
    theta = f.parameters

    def loss(p):
        return F.sum(F.sin(f(p, x)))

    numbers = central_difference(loss, theta)
    _, slope = vjp(loss, theta)
    np.testing.assert_allclose(slope, numbers, rtol=1e-6, atol=1e-8)
    assert abs(slope).max() > 1e-3
    v = np.random.default_rng(1).normal(size=theta.shape)
    y, moved = jvp(lambda p: f(p, x), theta, v)
    h = 1e-6
    ends = [f(theta + s * h * v, x).array for s in (1, -1)]
    np.testing.assert_allclose(moved, (ends[0] - ends[1]) / (2 * h), rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(y, f(theta, x).array)
    bent = hessian_vector_product(loss, theta, v)
    ends = [vjp(loss, theta + s * h * v)[1] for s in (1, -1)]
    np.testing.assert_allclose(bent, (ends[0] - ends[1]) / (2 * h), rtol=1e-4, atol=1e-5)
    j = jacobian(lambda p: f(p, x), theta).reshape(-1, theta.size)
    np.testing.assert_allclose(j @ v, moved.ravel(), rtol=1e-9, atol=1e-12)

    def square(y):
        return F.sum(y**4)

    found = gauss_newton_vector_product(lambda p: f(p, x), square, theta, v)
    np.testing.assert_allclose(found, j.T @ (12 * y.ravel() ** 2 * (j @ v)), rtol=1e-9, atol=1e-10)


def test_a_call_leaves_no_trace(case):
    model, x = case
    before = {name: (one, one.array.copy()) for name, one in model.namedparams()}
    kept = [dict(vars(link)) for link in model.links()]
    averages = [
        np.array(getattr(link, name)) for link in model.links() for name in sorted(link._persistent)
    ]
    f = functional(model)
    vjp(lambda *p: F.sum(f(*p, x)), f.parameters)
    with pytest.raises(InvalidType, match="Expect"):
        f(*f.parameters, np.zeros((2, 99)))
    for link, attributes in zip(model.links(), kept, strict=True):
        assert set(vars(link)) == set(attributes)
        assert all(vars(link)[name] is value for name, value in attributes.items())
    for name, one in model.namedparams():
        assert one is before[name][0]
        assert one.grad is None or np.isnan(one.grad).all()
        np.testing.assert_array_equal(one.array, before[name][1])
    after = [getattr(k, name) for k in model.links() for name in sorted(k._persistent)]
    for one, other in zip(after, averages, strict=True):
        np.testing.assert_array_equal(one, other)


def test_values_names_and_constants():
    model = double(Network())
    f = functional(model)
    assert f.names == ("/first/W", "/first/b", "/inner/0/W", "/inner/0/b", "/scale")
    np.testing.assert_array_equal(f(*f.parameters, X).array, model(X).array)
    g = functional(model, names="first")
    assert g.names == ("/first/W", "/first/b")
    slopes = vjp(lambda *p: F.sum(g(*p, X)), g.parameters)[1]
    full = vjp(lambda *p: F.sum(f(*p, X)), f.parameters)[1]
    for one, other in zip(slopes, full, strict=False):
        np.testing.assert_array_equal(one, other)
    flat = functional(model, flat=True)
    np.testing.assert_array_equal(
        flat.parameters, np.concatenate([p.ravel() for p in f.parameters])
    )
    before = model.scale.array.copy()
    flat.assign(flat.parameters * 2)
    np.testing.assert_array_equal(model.scale.array, 2 * before)


def test_inputs_are_arguments_too():
    model = double(Network())
    f = functional(model)
    _, (*_, gx) = vjp(lambda *a: F.sum(f(*a)), (*f.parameters, X))
    np.testing.assert_allclose(gx, central_difference(lambda x: F.sum(model(x)), X), rtol=1e-6)


def test_spsa_and_the_hessian():
    model = double(L.Linear(3, 1))
    f = functional(model, flat=True)
    exact = vjp(lambda p: F.sum(f(p, X) ** 2), f.parameters)[1]
    rough = spsa(lambda p: F.sum(f(p, X) ** 2), f.parameters, samples=1000, seed=0)
    np.testing.assert_allclose(rough, exact, atol=0.1 * np.linalg.norm(exact))
    ones = np.hstack([X, np.ones((6, 1))])
    np.testing.assert_allclose(
        hessian(lambda p: F.sum(f(p, X) ** 2), f.parameters), 2 * ones.T @ ones, rtol=1e-12
    )


def test_the_naive_call_is_refused_where_it_gave_zeros():
    """Parameters passed to a function that reads the model's own: once zeros without a word."""
    model = double(Network())
    parameters = tuple(model.params())
    for call in (
        lambda f: vjp(f, parameters),
        lambda f: jacobian(f, parameters),
        lambda f: hessian(f, parameters),
        lambda f: hessian_vector_product(f, parameters, tuple(p.array for p in parameters)),
        lambda f: jvp(f, tuple(p.array for p in parameters), tuple(p.array for p in parameters)),
    ):
        with pytest.raises(ValueError, match=r"functional\(model\)"):
            call(lambda *p: F.sum(model(X)))


def test_argmin_over_the_input_of_a_network():
    """The thread's question at a real model: dx*/dtheta for all parameters of a Chain."""
    model = double(Network(), seed=3)
    f = functional(model)
    thetas = [chainer.Variable(p) for p in f.parameters]

    def objective(x, *p):
        return F.sum(f(*p, F.reshape(x, (1, 3)))) + F.sum(x**2)

    x = argmin(objective, np.zeros(3), thetas)
    c = np.array([1.0, -2.0, 0.5])
    F.sum(c * x).backward()
    assert all(theta.grad.shape == theta.shape for theta in thetas)
    h, which = 1e-5, 2
    direction = np.random.default_rng(4).normal(size=thetas[which].shape)
    ends = []
    for sign in (1, -1):
        moved = list(f.parameters)
        moved[which] = moved[which] + sign * h * direction
        ends.append(c @ argmin(objective, x.array, moved).array)
    expected = (ends[0] - ends[1]) / (2 * h)
    assert (thetas[which].grad * direction).sum() == pytest.approx(expected, rel=1e-6)
    with pytest.raises(ValueError, match="functional"):
        argmin(lambda x, *p: F.sum(model(F.reshape(x, (1, 3)))) + F.sum(x**2), np.zeros(3),
               tuple(model.params()))  # fmt: skip


class Hoarder(chainer.Chain):
    """It keeps a parameter in a list."""

    def __init__(self):
        super().__init__()
        with self.init_scope():
            self.W = chainer.Parameter(np.ones((3, 3)))
        self.weights = [self.W]

    def forward(self, x):
        return F.matmul(x, self.weights[0])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: functional(F.relu), TypeError, r"chainer\.Link, found function"),
        (lambda: functional(chainer.Chain()), ValueError, "found none in Chain"),
        (lambda: functional(L.Linear(None, 2)), ValueError, r"found none for \['/W'\]"),
        (lambda: functional(L.Linear(3, 2), names="V"), KeyError, "found 'V'"),
        (lambda: functional(L.Linear(3, 2))(X), TypeError, "takes 2 parameters first"),
        (lambda: functional(L.Linear(3, 2))(X, X, X), ValueError, r"/W must have shape \(2, 3\)"),
        (lambda: functional(L.Linear(3, 2), flat=True)(X, X), ValueError, r"shape \(8,\)"),
        (lambda: functional(Hoarder())(np.ones((3, 3)), X), ValueError, r"keeps \['/W'\]"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_evaluation_costs_and_traces_of_a_model():
    """Two layers: what a sum of tanh costs, and the derivatives in all parameters at once."""
    with chainer.using_config("dtype", np.float64):
        model = chainer.Sequential(L.Linear(3, 4), F.tanh, L.Linear(4, 2))
    x = np.random.default_rng(0).normal(size=(5, 3))
    f = functional(model)
    assert f.names == ("/0/W", "/0/b", "/1/W", "/1/b")

    def loss(*p):
        return F.sum(F.tanh(f(*p, x)))

    trace = evaluation_trace(loss, *f.parameters)
    assert trace.inputs == ("u-3", "u-2", "u-1", "u0")
    assert [step.expression.split("(")[0] for step in trace.steps] == [
        "LinearFunction", "Tanh", "LinearFunction", "Tanh", "Sum",
    ]  # fmt: skip
    exact = vjp(loss, f.parameters)[1]
    reverse = trace.reverse()
    for name, slope in zip(trace.inputs, exact, strict=True):
        np.testing.assert_allclose(reverse[name], slope, rtol=1e-12)
    directions = [np.random.default_rng(k).normal(size=p.shape) for k, p in enumerate(exact)]
    forward = trace.forward(*directions)["y"]
    expected = sum(float((d * g).sum()) for d, g in zip(directions, exact, strict=True))
    assert forward == pytest.approx(expected, rel=1e-12)
    costs = trace.operations()
    # Multiplications and additions of the two products, the tanhs, and the final sum.
    assert costs.evaluation >= 5 * (2 * 3 * 4 + 2 * 4 * 2)
    assert costs.reverse <= 3 * costs.evaluation


def test_evaluations_of_differences_in_the_parameters_of_a_model():
    with chainer.using_config("dtype", np.float64):
        model = L.Linear(3, 2)
    x = np.random.default_rng(0).normal(size=(5, 3))
    f = functional(model, flat=True)

    def loss(p):
        return F.sum(F.tanh(f(p, x)))

    gradient, info = central_difference(loss, f.parameters, return_info=True)
    assert info.evaluations == 2 * 8
    np.testing.assert_allclose(gradient, vjp(loss, f.parameters)[1], rtol=1e-7)


def test_one_vector_of_a_model_of_two_dtypes():
    class Mixed(chainer.Chain):
        def __init__(self):
            super().__init__()
            with self.init_scope():
                self.first = L.Linear(3, 2, initialW=np.ones((2, 3), np.float16), nobias=True)
                self.scale = chainer.Parameter(np.ones(2, np.float32))

        def forward(self, x):
            return F.cast(self.first(x), np.float32) * F.broadcast_to(self.scale, (len(x), 2))

    model = Mixed()
    f = functional(model, flat=True)
    x = np.ones((4, 3), np.float16)
    assert f.parameters.dtype == np.float32
    np.testing.assert_array_equal(f(f.parameters, x).array, model(x).array)
    slope = vjp(lambda p: F.sum(f(p, x)), f.parameters)[1]
    np.testing.assert_allclose(slope, [4] * 6 + [12] * 2)
