"""Per-sample gradients of any Chain against one backward pass a sample."""

import numpy as np
import pytest

import chainrob
import chainer
from chainer.link_hooks import SpectralNormalization
from chainrob.aggregation.recorder import recorder_of
from chainrob.differentiation import functional, per_sample_gradients

F, L = chainer.functions, chainer.links
RNG = np.random.default_rng(0)


class Recurrent(chainer.Chain):
    """One link in three time steps, an embedding, and a head that is not used."""

    def __init__(self):
        super().__init__()
        with self.init_scope():
            self.embed = L.EmbedID(5, 3)
            self.step = L.Linear(6, 3)
            self.out = L.Linear(3, 2)
            self.spare = L.Linear(3, 2)

    def forward(self, ids):
        h = self.embed(ids[:, 0])
        for k in range(1, ids.shape[1]):
            h = F.tanh(self.step(F.concat([h, self.embed(ids[:, k])])))
        return self.out(h)


class Scaled(chainer.Chain):
    """A parameter of its own, which no robust form knows."""

    def __init__(self):
        super().__init__()
        with self.init_scope():
            self.inner = L.Linear(3, 2)
            self.scale = chainer.Parameter(np.array([1.5, -0.5]))

    def forward(self, x):
        y = self.inner(x)
        return y * F.broadcast_to(self.scale, y.shape)


def cases():
    image = RNG.normal(size=(5, 2, 4, 4))
    convolution = chainer.Sequential(
        L.Convolution2D(2, 3, 2), F.tanh, L.GroupNormalization(1, size=3), L.Linear(None, 2)
    )
    convolution(image.astype(np.float64))
    robust = chainrob.links.MLP((3, 4, 2), chainrob.CoordinateMedian())
    deep = chainer.Sequential(L.Linear(3, 6), F.relu, L.Linear(6, 2))
    targets = RNG.normal(size=(7, 2))
    x = RNG.normal(size=(7, 3))
    labels = np.arange(7) % 2
    return {
        "deep": (deep, F.mean_squared_error, x, targets, {}),
        "robust": (robust, F.softmax_cross_entropy, x, labels, {}),
        "convolution": (convolution, F.mean_squared_error, image, targets[:5], {}),
        "recurrent": (
            Recurrent(),
            F.softmax_cross_entropy,
            RNG.integers(0, 5, size=(7, 3)),
            labels,
            {},
        ),
        "own parameter": (Scaled(), F.mean_squared_error, x, targets, {"loop": True}),
        "sum": (
            chainer.Sequential(L.Linear(3, 2)),
            lambda y, t: F.sum((y - t) ** 2),
            x,
            targets,
            {"loss_reduction": "sum"},
        ),
    }


@pytest.fixture(params=["deep", "robust", "convolution", "recurrent", "own parameter", "sum"])
def case(request):
    with chainer.using_config("dtype", np.float64):
        model, loss, x, t, options = cases()[request.param]
    for seed, (_, one) in enumerate(sorted(model.namedparams())):
        one.array = np.random.default_rng(seed).normal(size=one.shape)
    return model, loss, x, t, options


def oracle(model, loss, x, t):
    """Rows (N, D) by a batch of one, parameters in the order of their names."""
    rows = []
    for n in range(len(t)):
        model.cleargrads()
        with chainrob.exact_backward():
            loss(model(x[n : n + 1]), t[n : n + 1]).backward()
        rows.append(
            {name: one.grad.copy() for name, one in model.namedparams() if one.grad is not None}
        )
    model.cleargrads()
    return rows


def test_all_questions_against_one_pass_a_sample(case):
    model, loss, x, t, options = case
    expected = oracle(model, loss, x, t)
    names = sorted(expected[0])
    g = np.stack([np.concatenate([row[name].ravel() for name in names]) for row in expected])
    found = per_sample_gradients(model, loss, x, t, **options)
    assert list(found) == names
    np.testing.assert_allclose(found.norms(), np.linalg.norm(g, axis=1), rtol=1e-10)
    np.testing.assert_allclose(found.gram(), g @ g.T, rtol=1e-9, atol=1e-10)
    distances = ((g[:, None] - g[None]) ** 2).sum(axis=-1)
    np.testing.assert_allclose(found.squared_distances(), distances, rtol=1e-8, atol=1e-9)
    weights = RNG.normal(size=len(t))
    total = found.weighted_sum(weights)
    mean = found.mean()
    v = {name: RNG.normal(size=expected[0][name].shape) for name in names}
    flat = np.concatenate([v[name].ravel() for name in names])
    np.testing.assert_allclose(found.products(v), g @ flat, rtol=1e-9, atol=1e-10)
    for name in names:
        each = np.stack([row[name] for row in expected])
        np.testing.assert_allclose(
            total[name], np.tensordot(weights, each, 1), rtol=1e-9, atol=1e-10
        )
        np.testing.assert_allclose(mean[name], each.mean(axis=0), rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(found.joined.materialize(), g, rtol=1e-9, atol=1e-10)
    assert found.unused == (("/spare/W", "/spare/b") if isinstance(model, Recurrent) else ())


def test_the_model_is_left_as_it_was(case):
    model, loss, x, t, options = case
    model.cleargrads()
    loss(model(x), t).backward()
    before = {name: one.grad for name, one in model.namedparams()}
    kinds = [type(link) for link in model.links()]
    kept = [dict(vars(link)) for link in model.links()]
    hook = None
    if type(model) is chainrob.links.MLP:
        chainrob.robustify(model, chainrob.Mean(), scope="model")
        hook = chainrob.training.RobustGradient(model)
        kinds, kept = [type(k) for k in model.links()], [dict(vars(k)) for k in model.links()]
        recorders = [recorder_of(link) for link in model.links()]
    per_sample_gradients(model, loss, x, t, **options)
    assert [type(link) for link in model.links()] == kinds
    assert [dict(vars(link)) for link in model.links()] == kept
    for name, one in model.namedparams():
        assert one.grad is before[name]
    if hook is not None:
        assert [recorder_of(link) for link in model.links()] == recorders
        assert not hook._recorder.recordings


def test_batch_normalization_in_test_mode_and_in_training():
    with chainer.using_config("dtype", np.float64):
        model = chainer.Sequential(L.Linear(3, 4), L.BatchNormalization(4), F.tanh, L.Linear(4, 1))
    x, t = RNG.normal(size=(6, 3)), RNG.normal(size=(6, 1))
    with pytest.raises(ValueError, match=r"mixes the samples.*pass loop=True"):
        per_sample_gradients(model, F.mean_squared_error, x, t)
    with pytest.raises(ValueError, match="BatchNormalization in training mode"):
        per_sample_gradients(model, F.mean_squared_error, x, t, loop=True)
    with chainer.using_config("train", False):
        found = per_sample_gradients(model, F.mean_squared_error, x, t, loop=True)
        expected = oracle(model, F.mean_squared_error, x, t)
    for name, operator in found.items():
        each = np.stack([row[name].ravel() for row in expected])
        np.testing.assert_allclose(operator.materialize(), each, rtol=1e-9, atol=1e-12)


def test_products_are_the_change_of_each_loss():
    """A second oracle: forward mode through the functional call."""
    model = chainer.Sequential(L.Linear(3, 5), F.sigmoid, L.Linear(5, 1))
    x, t = RNG.normal(size=(9, 3)).astype("f"), RNG.normal(size=(9, 1)).astype("f")
    found = per_sample_gradients(model, F.mean_squared_error, x, t)
    f = functional(model)
    vectors = [RNG.normal(size=shape).astype("f") for shape in f.shapes]
    _, moved = chainrob.differentiation.jvp(
        lambda *p: F.sum((f(*p, x) - t) ** 2, axis=1), f.parameters, vectors
    )
    np.testing.assert_allclose(
        found.products(dict(zip(f.names, vectors, strict=True))), moved, rtol=1e-4, atol=1e-5
    )


def test_large_layers_are_never_materialized():
    """256 rows of 4 million numbers are 4 GB; the factors are 3 MB."""
    rng = np.random.default_rng(0)
    model = chainer.Sequential(L.Linear(2000, 2000, initialW=0.01))
    x = rng.normal(size=(256, 2000)).astype("f")
    t = rng.normal(size=(256, 2000)).astype("f")
    found = per_sample_gradients(model, F.mean_squared_error, x, t)
    gy = 2 * (model(x).array - t).astype(np.float64) / 2000
    gram = (x.astype(np.float64) @ x.T + 1) * (gy @ gy.T)
    np.testing.assert_allclose(found.gram(), gram, rtol=1e-4, atol=1e-4 * abs(gram).max())
    np.testing.assert_allclose(found.norms(), np.diag(gram) ** 0.5, rtol=1e-4)


def linear():
    return L.Linear(3, 2)


ONES, TWO = np.ones((4, 3), "f"), np.ones((4, 2), "f")


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: per_sample_gradients(F.relu, F.mean_squared_error, ONES, TWO), TypeError, "Link"),
        (
            lambda: per_sample_gradients(linear(), lambda y, t: y, ONES, TWO),
            ValueError,
            r"one number, found \(4, 2\)",
        ),
        (
            lambda: per_sample_gradients(
                linear(), lambda y, t: F.mean_squared_error(y.array, t), ONES, TWO
            ),
            ValueError,
            "must depend on the parameters",
        ),
        (
            lambda: per_sample_gradients(Scaled(), F.mean_squared_error, ONES, TWO),
            ValueError,
            "Scaled.*loop=True",
        ),
        (
            lambda: per_sample_gradients(
                linear(), F.mean_squared_error, ONES, TWO, loss_reduction="max"
            ),
            ValueError,
            "'max'",
        ),
        (
            lambda: per_sample_gradients(linear(), lambda y, t: F.mean(y**2), ONES, TWO[:3]),
            ValueError,
            "3 targets",
        ),
        (
            lambda: per_sample_gradients(linear(), F.mean_squared_error, ONES, TWO).weighted_sum(
                np.ones(3)
            ),
            ValueError,
            "weights must have shape",
        ),
        (
            lambda: per_sample_gradients(linear(), F.mean_squared_error, ONES, TWO).products(
                {"V": 1}
            ),
            KeyError,
            "'V'",
        ),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_hook_in_the_way():
    model = linear()
    model.add_hook(SpectralNormalization())
    with pytest.raises(ValueError, match="link hook changes W of a Linear"):
        per_sample_gradients(model, F.mean_squared_error, ONES, TWO)


def test_a_penalty_belongs_to_no_sample():
    model = linear()
    with pytest.raises(ValueError, match="belongs to no sample"):
        per_sample_gradients(
            model, lambda y, t: F.mean_squared_error(y, t) + F.sum(model.W**2), ONES, TWO
        )


def test_losses_that_do_not_add_up_get_a_warning():
    """Means over other numbers, mixed samples, the wrong reduction; weights by place are right."""
    with chainer.using_config("dtype", np.float64):
        model = chainer.Sequential(L.Linear(3, 4))
    rng = np.random.default_rng(0)
    x, t, labels = rng.normal(size=(7, 3)), rng.normal(size=(7, 4)), rng.integers(0, 4, 7)
    labels[4] = -1

    def spread(y, t):
        return F.mean((y - F.broadcast_to(F.mean(y, axis=0), y.shape)) ** 2)

    with pytest.warns(UserWarning, match="parts of the batch add up"):
        per_sample_gradients(model, F.softmax_cross_entropy, x, labels)
    with pytest.warns(UserWarning, match="not the mean of the samples"):
        per_sample_gradients(model, spread, x, t)
    with pytest.warns(UserWarning, match="not the sum of the samples"):
        per_sample_gradients(model, F.mean_squared_error, x, t, loss_reduction="sum")

    rows = per_sample_gradients(
        model, lambda y, t: F.softmax_cross_entropy(y, t, normalize=False), x, labels
    )
    assert rows.norms()[4] == 0
    one = per_sample_gradients(model, F.softmax_cross_entropy, x[:1], labels[:1])
    np.testing.assert_allclose(rows["/0/W"].materialize()[0], one["/0/W"].materialize()[0])
    weights = np.arange(7.0)[:, None]
    weighted = per_sample_gradients(model, lambda y, t: F.mean(weights * (y - t) ** 2), x, t)
    plain = per_sample_gradients(model, lambda y, t: F.mean((y - t) ** 2), x, t)
    np.testing.assert_allclose(weighted.norms(), np.arange(7) * plain.norms())


def test_no_sample():
    with pytest.raises(ValueError, match="t must hold at least one sample, found none"):
        per_sample_gradients(L.Linear(3, 2), F.mean_squared_error, np.ones((0, 3)), np.ones((0, 2)))
