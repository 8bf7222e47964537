"""Element t of an ensemble run equals the same run alone."""

import numpy as np
import pytest

import chainrob
import chainer
from chainrob.links import MLP, Ensemble

F = chainer.functions
# An odd number: of an even one, a geometric median in one coordinate (a bias in scope "unit") is
# not unique, and any of a whole stretch is right.
N_REPLICAS, N_SAMPLES = 4, 31

ROBUSTIFIERS = {
    "plain": None,
    "mean": chainrob.Mean(),
    "soft_truncation": chainrob.SoftTruncation(),
    "geometric_median": chainrob.GeometricMedian(tolerance=1e-13),  # no difference hides in it
    "median_of_means": chainrob.MedianOfMeans(5),
    "trimmed_mean": chainrob.TrimmedMean(count=2),
    "callable": lambda rows: rows.mean(axis=0),
}


def make_model(seed, robustifier, scope="layer"):
    rng = np.random.default_rng(seed)
    with chainer.using_config("dtype", np.float64):
        model = MLP((2, 6, 3), [robustifier, None], scope=scope)
    for parameter in model.params():
        parameter.array[...] = rng.uniform(-0.5, 0.5, parameter.shape)
    return model


@pytest.fixture
def data(rng):
    x = rng.normal(size=(N_REPLICAS, N_SAMPLES, 2))
    x[:, :2] *= 10.0  # far out, yet not so far that training is chaotic and magnifies roundings
    t = rng.integers(0, 3, size=(N_REPLICAS, N_SAMPLES)).astype(np.int32)
    return x, t


@pytest.fixture
def rng():
    return np.random.default_rng(5)


def train(model, loss, steps=20, rate=0.3):
    optimizer = chainer.optimizers.MomentumSGD(rate).setup(model)
    for _ in range(steps):
        optimizer.update(loss)


@pytest.mark.parametrize("scope", ["unit", "layer"])
@pytest.mark.parametrize("name", ROBUSTIFIERS)
def test_training_equals_training_alone(data, name, scope):
    x, t = data
    models = [make_model(seed, ROBUSTIFIERS[name], scope) for seed in range(N_REPLICAS)]
    ensemble = Ensemble(models)
    train(ensemble, lambda: ensemble.mean_loss(F.softmax_cross_entropy, ensemble(x), t))
    for index, model in enumerate(models):
        train(model, lambda m=model, i=index: F.softmax_cross_entropy(m(x[i]), t[i]))
    for model, member in zip(models, ensemble.members(), strict=True):
        for (path, alone), (_, together) in zip(
            model.namedparams(), member.namedparams(), strict=True
        ):
            np.testing.assert_allclose(together.array, alone.array, atol=1e-10, err_msg=path)


def test_replicas_keep_their_own_robustifiers(data):
    x, t = data
    own = [None, chainrob.SoftTruncation(0.005), chainrob.SoftTruncation(0.1), None]
    models = [make_model(seed, one) for seed, one in enumerate(own)]
    ensemble = Ensemble(models)
    assert ensemble.model.l1.robustifier == chainrob.PerReplica(tuple(own))
    assert ensemble.model.l2.robustifier is None
    train(ensemble, lambda: ensemble.mean_loss(F.softmax_cross_entropy, ensemble(x), t))
    for index, model in enumerate(models):
        train(model, lambda m=model, i=index: F.softmax_cross_entropy(m(x[i]), t[i]))
        member = ensemble.member(index)
        assert member.l1.robustifier == own[index]
        np.testing.assert_allclose(member.l1.W.array, model.l1.W.array, atol=1e-10)


def test_shared_inputs_and_targets(data):
    x, t = data
    models = [make_model(seed, chainrob.GeometricMedian()) for seed in range(N_REPLICAS)]
    ensemble = Ensemble(models)
    loss = ensemble.mean_loss(F.softmax_cross_entropy, ensemble(x[0]), t[0])
    ensemble.cleargrads()
    loss.backward()
    for index, model in enumerate(models):
        model.cleargrads()
        F.softmax_cross_entropy(model(x[0]), t[0]).backward()
        np.testing.assert_allclose(ensemble.model.l1.W.grad[index], model.l1.W.grad, atol=1e-12)


def test_members_serialize_as_ordinary_models(tmp_path):
    models = [make_model(seed, None) for seed in range(2)]
    ensemble = Ensemble(models)
    file = tmp_path / "member.npz"
    chainer.serializers.save_npz(file, ensemble.member(1))
    plain = make_model(7, None)
    chainer.serializers.load_npz(file, plain)
    np.testing.assert_array_equal(plain.l1.W.array, models[1].l1.W.array)


def test_the_models_are_copied(data):
    models = [make_model(seed, None) for seed in range(2)]
    before = models[0].l1.W.array.copy()
    Ensemble(models).model.l1.W.array[...] = 0.0
    np.testing.assert_array_equal(models[0].l1.W.array, before)


@pytest.mark.parametrize(
    ("models", "message"),
    [
        ([], "at least one model, found none"),
        ([MLP((2, 3)), MLP((2, 4))], "same parameters"),
        ([MLP((2, 3)), chainrob.links.Linear(2, 3)], "of one class"),
        ([chainrob.links.Linear(None, 3)], "must be initialized"),
        ([chainer.links.Linear(2, 3)], r"chainrob\.links\.Linear, found"),
    ],
)
def test_bad_models(models, message):
    with pytest.raises(ValueError, match=message):
        Ensemble(models)


def test_member_out_of_range():
    with pytest.raises(IndexError, match="found 3"):
        Ensemble([MLP((2, 3))]).member(3)
