"""RobustGradient against the materialised rows of the whole model."""

from __future__ import annotations

import copy
import gc
import pickle
import warnings
import weakref

import numpy as np
import pytest

import chainrob
import chainer
from chainer import functions as F
from chainer import links as L
from chainrob.functions import recorder
from chainrob.training import RobustGradient

N = 6
EPS = 1e-9


class Tied(chainer.Chain):
    """An embedding that is also the output matrix, a layer that is used twice, a convolution."""

    def __init__(self):
        super().__init__()
        with self.init_scope():
            self.embed = L.EmbedID(7, 4)
            self.conv = L.Convolution1D(4, 4, 3, pad=1)
            self.twice = L.Linear(4, 4)
            self.norm = L.LayerNormalization(4)
            self.out = L.Linear(4, 7)
        self.out.W = self.embed.W

    def forward(self, ids):
        h = F.transpose(self.embed(ids), (0, 2, 1))
        h = F.mean(F.tanh(self.conv(h)), axis=2)
        for _ in range(2):
            h = F.tanh(self.twice(h))
        return self.out(self.norm(h))

    def inputs(self, rng, n):
        return rng.integers(0, 7, size=(n, 5)).astype(np.int32), rng.integers(0, 7, size=n)


class Recurrent(chainer.Chain):
    """An LSTM and a GRU unrolled over time."""

    def __init__(self):
        super().__init__()
        with self.init_scope():
            self.lstm = L.LSTM(3, 4)
            self.gru = L.StatefulGRU(4, 3)
            self.out = L.Linear(3, 3)

    def forward(self, xs):
        self.lstm.reset_state()
        self.gru.reset_state()
        for t in range(xs.shape[1]):
            h = self.gru(self.lstm(xs[:, t]))
        return self.out(h)

    def inputs(self, rng, n):
        return rng.normal(size=(n, 4, 3)), rng.integers(0, 3, size=n)


def make(kind, seed=0):
    with chainer.using_config("dtype", np.dtype(np.float64)):
        model = kind()
    rng = np.random.default_rng(seed)
    for _, parameter in sorted(model.namedparams()):
        parameter.array = rng.normal(scale=0.7, size=parameter.shape)
    x, t = model.inputs(rng, N)
    return model, x, t.astype(np.int32)


def gradients(model):
    return {name: parameter.grad.copy() for name, parameter in sorted(model.namedparams())}


def oracle_rows(model, x, t):
    """Each sample alone through the stock model: name to rows (N, D); a shared one once."""
    unique = {}
    for name, parameter in sorted(model.namedparams()):
        unique.setdefault(id(parameter), name)
    rows = {name: [] for name in unique.values()}
    for n in range(len(x)):
        model.cleargrads()
        F.softmax_cross_entropy(model(x[n : n + 1]), t[n : n + 1]).backward()
        grads = gradients(model)
        for name, row in rows.items():
            row.append(grads[name].ravel())
    return {name: np.stack(row) for name, row in rows.items()}


def joint(robustifier, rows):
    names = list(rows)
    estimate = robustifier(np.concatenate([rows[name] for name in names], axis=1))
    ends = np.cumsum([rows[name].shape[1] for name in names])[:-1]
    return dict(zip(names, np.split(estimate, ends), strict=True))


def run(model, hook, x, t, reduction="mean", extra=None):
    model.cleargrads()
    loss = F.softmax_cross_entropy(model(x), t, reduce="no")
    loss = F.mean(loss) if reduction == "mean" else F.sum(loss)
    if extra is not None:
        loss = loss + extra()
    loss.backward()
    hook()
    return gradients(model)


@pytest.mark.parametrize("kind", [Tied, Recurrent])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize(
    "robustifier",
    [
        chainrob.Mean(),
        chainrob.GeometricMedian(),
        chainrob.TrimmedMean(0.2),
        chainrob.MedianOfMeans(3),
        lambda rows: np.median(rows, axis=0),
    ],
    ids=["mean", "geometric", "trimmed", "median_of_means", "callable"],
)
def test_against_the_rows_of_the_whole_model(kind, reduction, robustifier):
    model, x, t = make(kind)
    expected = joint(robustifier, oracle_rows(model, x, t))
    chainrob.robustify(model, robustifier, scope="model", loss_reduction=reduction)
    found = run(model, RobustGradient(model), x, t, reduction)
    factor = N if reduction == "sum" else 1
    for name, estimate in expected.items():
        np.testing.assert_allclose(
            found[name].ravel(), factor * estimate, rtol=1e-6, atol=1e-7, err_msg=name
        )


@pytest.mark.parametrize("kind", [Tied, Recurrent])
def test_an_optimizer_takes_the_steps_of_the_oracle(kind):
    robustifier = chainrob.GeometricMedian()
    model, x, t = make(kind)
    reference = copy.deepcopy(model)
    chainrob.robustify(model, robustifier, scope="model")
    optimizer = chainer.optimizers.SGD(0.1).setup(model)
    optimizer.add_hook(RobustGradient(model))
    parameters = dict(reference.namedparams())
    for _ in range(3):
        optimizer.update(lambda: F.softmax_cross_entropy(model(x), t))
        step = joint(robustifier, oracle_rows(reference, x, t))
        shared = {id(parameters[name]): estimate for name, estimate in step.items()}
        for parameter in parameters.values():
            # Chainer's optimizers update a parameter of two names twice.
            parameter.array -= 0.1 * shared[id(parameter)].reshape(parameter.shape)
    for name, parameter in reference.namedparams():
        found = dict(model.namedparams())[name].array
        np.testing.assert_allclose(found, parameter.array, atol=1e-6, err_msg=name)


def test_what_else_the_loss_says_of_a_parameter_is_kept():
    model, x, t = make(Tied)
    rows = oracle_rows(model, x, t)
    chainrob.robustify(model, chainrob.CoordinateMedian(), scope="model")
    penalty = lambda: 0.5 * F.sum(model.twice.W**2)  # noqa: E731
    found = run(model, RobustGradient(model), x, t, extra=penalty)
    expected = np.median(rows["/twice/W"], axis=0) + model.twice.W.array.ravel()
    np.testing.assert_allclose(found["/twice/W"].ravel(), expected, atol=1e-10)


def test_plain_links_keep_their_plain_gradient():
    model, x, t = make(Tied)
    rows = oracle_rows(model, x, t)
    robustifier = chainrob.GeometricMedian()
    chainrob.robustify(model, robustifier, scope="model", layers=["conv", "norm"])
    model.norm.robustifier = None
    found = run(model, RobustGradient(model), x, t)
    conv = joint(robustifier, {name: rows[name] for name in ("/conv/W", "/conv/b")})
    for name in rows:
        expected = conv[name] if name in conv else rows[name].mean(axis=0)
        np.testing.assert_allclose(found[name].ravel(), expected, atol=1e-7, err_msg=name)


INDEX_SETS = {
    "names": (["/conv/W", "twice"], {"/conv/W", "/twice/W", "/twice/b"}),
    "link": ("norm", {"/norm/gamma", "/norm/beta"}),
    "none": ([], set()),
    "predicate": (lambda name, p: name.endswith("/b"), {"/conv/b", "/twice/b", "/out/b"}),
}


@pytest.mark.parametrize("case", INDEX_SETS)
def test_any_subset_of_parameters_may_be_robust(case):
    selection, chosen = INDEX_SETS[case]
    model, x, t = make(Tied)
    rows = oracle_rows(model, x, t)
    robustifier = chainrob.GeometricMedian()
    chainrob.robustify(model, robustifier, scope="model")
    hook = RobustGradient(model)
    everything = joint(robustifier, rows)
    for parameters, names in [(selection, chosen), (None, set(rows)), (selection, chosen)]:
        hook.parameters = parameters
        found = run(model, hook, x, t)
        if names == set(rows):
            expected = everything
        else:
            expected = {name: row.mean(axis=0) for name, row in rows.items()}
            if names:
                expected |= joint(robustifier, {n: r for n, r in rows.items() if n in names})
        for name in rows:
            np.testing.assert_allclose(found[name].ravel(), expected[name], atol=1e-7, err_msg=name)


def test_the_hooks_robustifier_comes_before_the_links():
    model, x, t = make(Tied)
    rows = oracle_rows(model, x, t)
    chainrob.robustify(model, chainrob.Mean(), scope="model")
    model.norm.robustifier = chainrob.TrimmedMean(0.1)
    with pytest.raises(ValueError, match=r"one robustifier, found \[Mean\(\), TrimmedMean"):
        run(model, RobustGradient(model), x, t)
    found = run(model, RobustGradient(model, chainrob.CoordinateMedian()), x, t)
    for name, row in rows.items():
        np.testing.assert_allclose(found[name].ravel(), np.median(row, axis=0), atol=1e-10)


def test_two_losses_of_one_batch_add_up_by_sample():
    model, x, t = make(Tied)
    other = (t + 1) % 7
    rows, more = oracle_rows(model, x, t), oracle_rows(model, x, other)
    chainrob.robustify(model, chainrob.CoordinateMedian(), scope="model")
    hook = RobustGradient(model)
    model.cleargrads()
    F.softmax_cross_entropy(model(x), t).backward()
    F.softmax_cross_entropy(model(x), other.astype(np.int32)).backward()
    hook()
    found = gradients(model)
    for name, row in rows.items():
        expected = np.median(row + more[name], axis=0)
        np.testing.assert_allclose(found[name].ravel(), expected, atol=1e-10, err_msg=name)


def test_two_batches_may_be_estimated_one_by_one():
    model, x, t = make(Tied)
    chainrob.robustify(model, chainrob.GeometricMedian(), scope="model")
    hook = RobustGradient(model)
    first = run(model, hook, x, t)
    second = run(model, hook, x[:4], t[:4])
    model.cleargrads()
    for n in (N, 4):
        F.softmax_cross_entropy(model(x[:n]), t[:n]).backward()
        hook()
    for name, grad in gradients(model).items():
        np.testing.assert_allclose(grad, first[name] + second[name], atol=1e-12)


@pytest.mark.parametrize("how", ["model", "links", "parameters", "update"])
def test_cleared_gradients_leave_nothing_behind(how):
    model, x, t = make(Tied)
    chainrob.robustify(model, chainrob.GeometricMedian(), scope="model")
    hook = RobustGradient(model)
    expected = run(model, hook, x, t)
    for _ in range(2):
        loss = F.softmax_cross_entropy(model(x[::-1]), t)
        loss.backward()  # never updated
        del loss
        if how == "model":
            model.cleargrads()
        elif how == "links":
            for link in model.links():
                link.cleargrads()
        elif how == "parameters":
            for parameter in model.params():
                parameter.cleargrad()
        else:
            hook()
            model.cleargrads()
    F.softmax_cross_entropy(model(x), t).backward()
    hook()
    for name, grad in gradients(model).items():
        np.testing.assert_array_equal(grad, expected[name])


def test_an_update_without_a_backward_pass_changes_nothing():
    model, _, _ = make(Tied)
    chainrob.robustify(model, chainrob.GeometricMedian(), scope="model")
    optimizer = chainer.optimizers.SGD(0.1).setup(model)
    optimizer.add_hook(RobustGradient(model))
    before = {name: parameter.array.copy() for name, parameter in model.namedparams()}
    model.cleargrads()
    optimizer.update()
    for name, parameter in model.namedparams():
        np.testing.assert_array_equal(parameter.array, before[name])


def test_memory_is_freed_after_the_update():
    model, x, t = make(Tied)
    chainrob.robustify(model, chainrob.GeometricMedian(), scope="model")
    optimizer = chainer.optimizers.SGD(0.1).setup(model)
    optimizer.add_hook(RobustGradient(model))
    seen = []
    original = recorder.record

    def spy(link, operators, *args):
        seen.extend(weakref.ref(one) for one in operators.values())
        original(link, operators, *args)

    recorder.record = spy
    try:
        optimizer.update(lambda: F.softmax_cross_entropy(model(x), t))
    finally:
        recorder.record = original
    gc.collect()
    assert len(seen) == 11
    assert all(reference() is None for reference in seen)


def test_without_a_hook_the_backward_pass_says_so():
    model, x, t = make(Tied)
    chainrob.robustify(model, chainrob.Mean(), scope="model")
    with pytest.raises(RuntimeError, match=r"add_hook\(chainrob.training.RobustGradient\(model\)"):
        F.softmax_cross_entropy(model(x), t).backward()
    hook = RobustGradient(model)
    F.softmax_cross_entropy(model(x), t).backward()
    del hook
    model.cleargrads()
    with pytest.raises(RuntimeError, match="nobody waits for it"):
        F.softmax_cross_entropy(model(x), t).backward()


def test_a_hook_that_was_never_added_is_noticed():
    model, x, t = make(Tied)
    chainrob.robustify(model, chainrob.Mean(), scope="model")
    hook = RobustGradient(model)
    optimizer = chainer.optimizers.SGD(0.1).setup(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.update(lambda: F.softmax_cross_entropy(model(x), t))
    with pytest.warns(UserWarning, match="is the hook added to the optimizer"):
        optimizer.update(lambda: F.softmax_cross_entropy(model(x), t))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.update(lambda: F.softmax_cross_entropy(model(x), t))
    del hook


def test_forgetting_to_robustify_is_an_error():
    for scope in (None, "layer"):
        model, x, t = make(Tied)
        if scope:
            chainrob.robustify(model, chainrob.Mean(), scope=scope)
        optimizer = chainer.optimizers.SGD(0.1).setup(model)
        optimizer.add_hook(RobustGradient(model, chainrob.Mean()))
        with pytest.raises(ValueError, match="no link of the model has scope='model'"):
            optimizer.update(lambda m=model, x=x, t=t: F.softmax_cross_entropy(m(x), t))


def test_a_second_hook_takes_over():
    model, x, t = make(Tied)
    chainrob.robustify(model, chainrob.Mean(), scope="model")
    first, second = RobustGradient(model), RobustGradient(model)
    with pytest.raises(RuntimeError, match="another RobustGradient"):
        run(model, first, x, t)
    with pytest.warns(UserWarning, match="none was ever estimated"):
        run(model, second, x, t)


def test_different_numbers_of_samples_are_an_error():
    model = chainer.Sequential(L.Linear(2, 2), L.Linear(2, 1))
    chainrob.robustify(model, chainrob.Mean(), scope="model")
    hook = RobustGradient(model)
    h = model[0](np.ones((4, 2), np.float32))
    F.mean(model[1](F.reshape(h, (2, 4))[:, :2])).backward()
    with pytest.raises(ValueError, match="see the same samples, found numbers of samples"):
        hook()
    shared = chainrob.robustify(L.Linear(2, 2), chainrob.Mean(), scope="model")
    hook = RobustGradient(shared)
    h = shared(np.ones((4, 2), np.float32))
    F.mean(shared(F.reshape(h, (2, 4))[:, :2])).backward()
    with pytest.raises(ValueError, match="parameter /W is used several times"):
        hook()


def test_different_loss_reductions_are_an_error():
    model = chainer.Sequential(L.Linear(2, 2), L.Linear(2, 1))
    chainrob.robustify(model, chainrob.Mean(), scope="model")
    model[1].loss_reduction = "sum"
    hook = RobustGradient(model)
    F.mean(model(np.ones((4, 2), np.float32))).backward()
    with pytest.raises(ValueError, match="one loss_reduction, found"):
        hook()


def test_unknown_parameters():
    model, _, _ = make(Tied)
    with pytest.raises(KeyError, match="found 'conv/V'; there are"):
        RobustGradient(model, parameters=["conv", "conv/V"])
    with pytest.raises(TypeError, match=r"model must be a chainer\.Link"):
        RobustGradient(3)


def test_scope_model_needs_a_link():
    with pytest.raises(ValueError, match="a function by itself has none"):
        chainrob.functions.linear(
            np.ones((2, 2)), np.ones((3, 2)), robustifier=chainrob.Mean(), scope="model"
        )


@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
def test_copies_belong_to_their_own_model(how):
    model, x, t = make(Tied)
    chainrob.robustify(model, chainrob.GeometricMedian(), scope="model")
    hook = RobustGradient(model)
    expected = run(model, hook, x, t)
    again = copy.deepcopy(hook) if how == "deepcopy" else pickle.loads(pickle.dumps(hook))
    assert again.model is not model
    for one in (again, hook):
        for name, grad in run(one.model, one, x, t).items():
            np.testing.assert_array_equal(grad, expected[name])


def test_bad_samples_are_dropped_from_all_layers():
    model, x, t = make(Recurrent)
    rows = oracle_rows(model, x, t)
    chainrob.robustify(model, chainrob.CoordinateMedian(), scope="model")
    hook = RobustGradient(model)
    x = x.copy()
    x[1] = np.nan
    with pytest.warns(chainrob.NonFiniteGradientWarning, match="1 of 6"):
        found = run(model, hook, x, t)
    for name, row in rows.items():
        expected = np.median(np.delete(row, 1, axis=0), axis=0)
        np.testing.assert_allclose(found[name].ravel(), expected, atol=1e-10)


def test_an_empty_batch_gives_zeros():
    model = chainer.Sequential(L.Linear(2, 2), L.Linear(2, 1))
    chainrob.robustify(model, chainrob.GeometricMedian(), scope="model")
    hook = RobustGradient(model)
    model.cleargrads()
    F.sum(model(np.ones((0, 2), np.float32))).backward()
    hook()
    assert all(not parameter.grad.any() for parameter in model.params())


def test_recomputation_in_the_backward_pass():
    model, x, t = make(Recurrent)
    chainrob.robustify(model, chainrob.GeometricMedian(), scope="model")
    hook = RobustGradient(model)
    expected = run(model, hook, x, t)
    model.cleargrads()
    again = F.forget(lambda xs: model(xs), chainer.Variable(x))
    F.softmax_cross_entropy(again, t).backward()
    hook()
    for name, grad in gradients(model).items():
        np.testing.assert_allclose(grad, expected[name], atol=1e-12)


def test_gradient_clipping_after_it_sees_the_estimate():
    model, x, t = make(Tied)
    chainrob.robustify(model, chainrob.Mean(), scope="model")
    optimizer = chainer.optimizers.SGD(1.0).setup(model)
    optimizer.add_hook(RobustGradient(model))
    optimizer.add_hook(chainer.optimizer_hooks.GradientClipping(1e-3))
    before = {name: parameter.array.copy() for name, parameter in model.namedparams()}
    optimizer.update(lambda: F.softmax_cross_entropy(model(x), t))
    moved = {
        id(parameter): np.sum((parameter.array - before[name]) ** 2)
        for name, parameter in model.namedparams()
    }
    assert np.sqrt(sum(moved.values())) <= 1e-3 * (1 + EPS)
    assert sum(moved.values()) > 0
