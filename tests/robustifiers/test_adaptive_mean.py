"""The default: what it makes of layers, of bad inputs, of heavy tails and of clean batches."""

import numpy as np
import pytest

import chainrob
import chainer
from chainrob import builders
from chainrob.robustifiers import AdaptiveMean, suspicion
from chainrob.robustifiers.adaptive_mean import fence_of_signals, sizes_of
from chainrob.sample_gradients import Dense, Joined, OuterProducts
from tests.oracles import estimators as oracle


def layer(x, gy):
    weights = OuterProducts(x[..., None, :], gy[..., None, :])
    return Joined((weights, weights.bias()))


def draw(n=30, p=6, q=4, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, p)), rng.normal(size=(n, q)) * rng.lognormal(size=(n, 1))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("seed", range(4))
def test_a_layer_against_the_definition(dtype, seed):
    x, gy = draw(seed=seed)
    x[3] *= 40.0
    gy[5] *= 1e4
    W, b = AdaptiveMean()(layer(x.astype(dtype), gy.astype(dtype)))
    expected = oracle.adaptive_mean_of_layer(x, gy)
    tolerance = 1e-4 if dtype == np.float32 else 1e-9
    np.testing.assert_allclose(W, expected[:, :-1], rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(b, expected[:, -1], rtol=tolerance, atol=tolerance)


def test_replicas_are_many_problems():
    problems = [draw(seed=seed) for seed in range(3)]
    x, gy = (np.stack(arrays) for arrays in zip(*problems, strict=True))
    W, b = AdaptiveMean()(layer(x, gy))
    for index, (one_x, one_gy) in enumerate(problems):
        alone = AdaptiveMean()(layer(one_x, one_gy))
        np.testing.assert_allclose(W[index], alone[0], rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(b[index], alone[1], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("size", [1e3, 1e15, 1e30])
def test_a_bad_input_has_no_influence(size):
    x, gy = (array.astype(np.float32) for array in draw())
    clean = AdaptiveMean()(layer(x[1:], gy[1:]))[0]
    x[0] *= size
    W, _ = AdaptiveMean()(layer(x, gy))
    assert np.abs(W - clean * 29 / 30).max() < 0.25 * np.abs(clean).max()
    assert AdaptiveMean().sample_weights(layer(x, gy))[0] < 1e-4


@pytest.mark.parametrize("exponent", [-60, 60])
def test_the_scale_of_inputs_and_signals_does_not_matter(exponent):
    x, gy = (array.astype(np.float32) for array in draw())
    weights = AdaptiveMean().sample_weights(layer(x, gy))
    other = AdaptiveMean().sample_weights(layer(x, np.ldexp(gy, exponent)))
    np.testing.assert_allclose(weights, other, rtol=1e-6)
    alone = OuterProducts(x[:, None], gy[:, None])
    scaled = OuterProducts(np.ldexp(x, exponent)[:, None], gy[:, None])
    np.testing.assert_allclose(
        AdaptiveMean().sample_weights(alone), AdaptiveMean().sample_weights(scaled), rtol=1e-6
    )


def clusters(wrong, hard=2):
    """Softmax gradients of two clusters, of which some samples are not fitted."""
    rng = np.random.default_rng(0)
    t = np.arange(40) % 2
    x = rng.normal(size=(40, 5)) + np.where(t, 3.0, -3.0)[:, None]
    sure = rng.uniform(0.7, 0.98, 40)
    sure[:hard] = 0.05  # though in their cluster
    labels = t.copy()
    labels[hard : hard + wrong] = 1 - labels[hard : hard + wrong]
    of_one = np.where(t == 1, sure, 1 - sure)
    gy = np.stack([1 - of_one, of_one], axis=1) - np.eye(2)[labels]
    return layer(x, gy)


def test_wrong_labels_are_the_most_suspect():
    gradients = clusters(wrong=4)
    found = suspicion(gradients)
    assert set(np.argsort(-found)[:4]) == {2, 3, 4, 5}
    assert found.min() >= 0.0
    assert found.max() <= 1.0
    rows = gradients.materialize()
    assert set(np.argsort(-suspicion(Dense(rows)))[:4]) <= set(range(6))


@pytest.mark.parametrize("wrong", [0, 4])
def test_samples_that_are_not_fitted_keep_their_weight(wrong):
    """They may be hard or wrong: nothing here can tell, and the hard ones must be learned."""
    weights = AdaptiveMean().sample_weights(clusters(wrong))
    np.testing.assert_allclose(weights, 1.0, atol=0.15)


def test_a_trained_classifier_keeps_the_samples_at_its_boundary():
    """Norms as in training: most next to nothing, a few bounded ones thirty times the usual."""
    rng = np.random.default_rng(0)
    sizes = np.concatenate([rng.uniform(0.0, 1.5, 50), rng.uniform(8.0, 20.0, 14)])
    assert fence_of_signals(sizes) > 10.0


def test_heavy_tails_are_fenced_in_at_two_deviations():
    rng = np.random.default_rng(0)
    sizes = np.abs(rng.normal(size=1000))
    sizes[:100] = np.abs(10 * rng.standard_cauchy(100))
    fence = fence_of_signals(sizes)
    assert 2.0 < fence < 2.8
    signs = rng.choice([-1, 1], size=1000)
    weights = AdaptiveMean().sample_weights(layer(np.ones((1000, 1)), (signs * sizes)[:, None]))
    far = sizes > 20
    assert far.sum() > 20
    assert weights[far].max() < 0.02
    assert weights[sizes < 2].min() == 1.0


def test_normal_residuals_are_the_plain_mean():
    sizes = np.abs(np.random.default_rng(0).normal(size=200))
    assert fence_of_signals(sizes) == sizes.max()


@pytest.mark.parametrize("spoiled", [0, 1])
def test_propagated_nan_is_not_silent(spoiled):
    arrays = draw(n=8)
    arrays[spoiled][3, 1] = np.nan
    with np.errstate(invalid="ignore"):
        W, _ = AdaptiveMean(nonfinite="propagate")(layer(*arrays))
    assert np.isnan(W).any()


def test_few_samples_and_no_signal():
    x, gy = draw(n=2)
    np.testing.assert_allclose(AdaptiveMean().sample_weights(layer(x, gy)), 1.0)
    x, gy = draw(n=9)
    W, b = AdaptiveMean()(layer(x, 0.0 * gy))
    assert not W.any()
    assert not b.any()
    W, _ = AdaptiveMean()(layer(0.0 * x, gy))
    assert not W.any()
    assert AdaptiveMean()(layer(x[:, :0], gy))[0].shape == (4, 0)


def test_other_operators_and_scopes():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(8, 3, 6, 6)).astype(np.float32)
    x[2] *= 1e6
    conv = chainrob.links.Convolution2D(3, 4, 3, robustifier=AdaptiveMean())
    plain = chainrob.links.Convolution2D(3, 4, 3, initialW=conv.W.array)
    for link, inputs in ((conv, x), (plain, np.delete(x, 2, axis=0))):
        link.cleargrads()
        chainer.functions.mean(link(inputs) ** 2).backward()
    assert np.abs(conv.W.grad).max() < 3 * np.abs(plain.W.grad).max()
    for scope in ("unit", "parameter"):
        linear = chainrob.links.Linear(3, 2, robustifier=AdaptiveMean(), scope=scope)
        linear.cleargrads()
        chainer.functions.mean(linear(x[:, :, 0, 0]) ** 2).backward()
        assert np.isfinite(linear.W.grad).all()


def test_its_derivative_is_refused():
    with pytest.raises(chainrob.NotDifferentiableError, match=r"AdaptiveMean.* is not known"):
        AdaptiveMean().pullback(Dense(np.eye(4)), np.ones(4))


@pytest.mark.parametrize("transposed", [False, True])
def test_a_convolution_against_the_definition(transposed):
    """Inputs and output gradients are judged apart."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(20, 2, 5, 5))
    x[3] *= 50.0
    kind = chainrob.links.Deconvolution2D if transposed else chainrob.links.Convolution2D
    with chainer.using_config("dtype", np.float64):
        link = kind(2, 3, 3, robustifier=AdaptiveMean(), initialW=chainer.initializers.Normal(1.0))
    seen = []
    link.cleargrads()
    with chainrob.training.observe(link, seen.append):
        y = link(x)
        gy = rng.normal(size=y.shape) * rng.lognormal(size=(20, 1, 1, 1))
        gy[5] *= 1e3
        y.grad = gy
        y.backward()
    operators = list(seen[0].gradients.values())
    rows = np.concatenate([one.materialize().reshape(20, -1) for one in operators], axis=1)
    lengths = np.sqrt((x**2).sum(axis=(1, 2, 3)))
    weights = oracle.adaptive_weights(lengths, np.sqrt((gy**2).sum(axis=(1, 2, 3))))
    np.testing.assert_allclose(seen[0].sample_weights(), weights, rtol=1e-8)
    np.testing.assert_allclose(link.W.grad.ravel(), (weights @ rows / 20)[: link.W.size], rtol=1e-8)
    assert weights[3] < 0.01
    assert weights[5] < 0.01


def test_sixteen_bad_inputs_of_thirty_are_seen():
    """A small batch of many holds more bad samples than their share, now and then."""
    x, gy = draw()
    x[:16] *= 1e4
    assert AdaptiveMean().sample_weights(layer(x, gy))[:16].max() < 1e-4


def softmax_signals(n=30, q=4):
    rng = np.random.default_rng(0)
    scores = np.eye(q)[rng.integers(q, size=n)] * 3 + rng.normal(size=(n, q)) * 0.1
    shares = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    labels = scores.argmax(axis=1)
    labels[0] = scores[0].argmin()
    return shares - np.eye(q)[labels]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_signals_of_a_softmax_have_no_fence(dtype):
    x, gy = draw()[0], softmax_signals()
    assert AdaptiveMean().sample_weights(layer(x, gy + np.array([0, 0, 0, 1e-3])))[0] < 0.7
    lengths = np.sqrt((x**2).sum(axis=1))
    near = oracle.adaptive_fence(lengths, 1 / 3, 1.65, 1.2, 2.0)
    expected = np.minimum(1, near / lengths) ** 2
    weights = AdaptiveMean().sample_weights(layer(x.astype(dtype), gy.astype(dtype)))
    np.testing.assert_allclose(weights, expected, rtol=1e-5)


def test_signals_of_a_bounded_loss_have_no_fence():
    x, gy = draw()
    gy[3] *= 1e6
    assert AdaptiveMean().sample_weights(layer(x, gy))[3] < 1e-6
    expected = oracle.adaptive_weights(np.sqrt((x**2).sum(axis=1)), np.ones(30))
    told = AdaptiveMean(bounded=True)
    np.testing.assert_allclose(told.sample_weights(layer(x, gy)), expected, rtol=1e-9)
    with pytest.raises(ValueError, match="AdaptiveMean: bounded must be True or False, found 1"):
        AdaptiveMean(bounded=1)


def test_replicas_from_a_softmax_and_others_side_by_side():
    x, gy = draw()
    both = np.stack([gy, softmax_signals()])
    weights = AdaptiveMean().sample_weights(layer(np.stack([x, x]), both))
    for found, one in zip(weights, both, strict=True):
        np.testing.assert_allclose(found, AdaptiveMean().sample_weights(layer(x, one)), rtol=1e-12)


def test_signals_behind_a_normalization_are_not_those_of_a_softmax():
    """They add up to zero, whatever the loss."""
    x, gy = draw()
    gy -= gy.mean(axis=1, keepdims=True)
    gy[3] *= 1e4
    assert AdaptiveMean().sample_weights(layer(x, gy))[3] < 1e-3


def test_one_sample_does_not_pass_for_a_softmax():
    x, gy = draw(n=64, q=2)
    gy[5] = 1e9, -1e9
    assert AdaptiveMean().sample_weights(layer(x, gy))[5] < 1e-6


@pytest.mark.parametrize("scope", ["unit", "model"])
def test_rows_that_hold_inputs_keep_their_fence_under_a_bounded_loss(scope):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 3)).astype(np.float32)
    x[:4] *= 1e5
    model = chainrob.links.MLP((3, 4, 2), AdaptiveMean(bounded=True), scope=scope)
    optimizer = chainer.optimizers.SGD(1.0).setup(model)
    if scope == "model":
        optimizer.add_hook(chainrob.training.RobustGradient(model))
    optimizer.update(lambda: chainer.functions.sum(model(x)) / 40)
    for link in model.links():
        if isinstance(link, chainrob.links.Linear):
            assert np.abs(link.W.grad).max() < 10


@pytest.mark.parametrize("factor", [0.0, 0.1])
def test_a_third_of_small_inputs_does_not_cut_off_the_others(factor):
    x = np.random.default_rng(0).normal(size=(64, 100))
    x[:26] *= factor
    weights = AdaptiveMean().sample_weights(layer(x, np.ones((64, 2))))
    assert weights.min() > 0.5


def test_zeros_do_not_hide_what_is_far():
    rows = np.random.default_rng(0).normal(size=(100, 3))
    rows[:37] = 0.0
    rows[50] = 1e12
    assert np.abs(AdaptiveMean()(rows)).max() < 1.0


@pytest.mark.parametrize("n", [5, 8, 12])
def test_small_batches_with_one_far_row(n):
    rng = np.random.default_rng(0)
    for _ in range(200):
        rows = rng.normal(size=(n, 1))
        rows[0] = 1e6
        assert np.abs(AdaptiveMean()(rows)).max() < 10


def test_rows_beyond_float64_are_an_error():
    rows = np.random.default_rng(0).normal(size=(32, 3))
    rows[0] = 1e250
    with pytest.raises(chainrob.NonFiniteGradientError, match="does not fit into float64"):
        AdaptiveMean()(rows)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_suspicion_of_a_row_that_is_not_finite_is_one(bad):
    x, gy = draw()
    expected = suspicion(layer(np.delete(x, 4, axis=0), np.delete(gy, 4, axis=0)))
    x[4, 1] = bad
    found = suspicion(layer(x, gy))
    assert found[4] == 1.0
    np.testing.assert_allclose(np.delete(found, 4), expected, rtol=1e-9)


@pytest.mark.parametrize("n", [0, 1, 2])
def test_suspicion_of_few_samples(n):
    x, gy = draw()
    np.testing.assert_array_equal(suspicion(layer(x[:n], gy[:n])), np.zeros(n))


class TestWhatIsALayer:
    """With two parameters in the estimate the second need not be the bias of the first."""

    def operators(self):
        x, gy = draw()
        weights = OuterProducts(x[..., None, :], gy[..., None, :])
        return weights, Dense(gy * 2.0)

    def test_a_bias_stays_one_for_some_of_the_samples(self):
        weights, _ = self.operators()
        whole = Joined((weights, weights.bias()))
        for one in (whole, whole.take(np.arange(0, 30, 2))):
            assert sizes_of(one) is not None

    def test_a_convolution_with_its_bias(self):
        x, gy = np.ones((4, 2, 5)), np.ones((4, 3, 3))
        geometry = builders.Geometry((3,), (1,), (1,), 1)
        found = builders.convolution_rows((x, gy), (1, 2), geometry, (0,))
        assert sizes_of(Joined([found[1], found[2]])) is not None

    def test_any_other_vector_is_none(self):
        weights, scale = self.operators()
        rows = Joined((weights, scale))
        assert sizes_of(rows) is None
        assert sizes_of(Joined((weights, OuterProducts(*weights.factors).bias()))) is None
        plain = AdaptiveMean()(Dense(rows.materialize()))
        found = np.concatenate([one.ravel() for one in AdaptiveMean()(rows)])
        np.testing.assert_allclose(found, plain, rtol=1e-9)

    def test_signals_have_no_fence_where_the_loss_bounds_them(self):
        _, gy = draw()
        gy[3] *= 1e3
        bounded = AdaptiveMean(bounded=True)
        np.testing.assert_allclose(bounded(Dense(gy, of_signals=True)), gy.mean(axis=0))
        assert not np.allclose(bounded(Dense(gy)), gy.mean(axis=0))
