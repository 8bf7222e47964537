# ruff: noqa: NPY002 (Chainer's initializers and dropout draw from the same state)
"""NStepLSTM and its family: as the stock links with a mean, and against each sequence run alone."""

from __future__ import annotations

import numpy as np
import pytest

import chainrob
import chainer
from chainer import functions as F
from chainer import links as L
from chainrob.training import RobustGradient

NAMES = [
    f"NStep{direction}{kind}"
    for direction in ("", "Bi")
    for kind in ("LSTM", "GRU", "RNNTanh", "RNNReLU")
]
LENGTHS = (2, 5, 1, 5, 3)
by_name = pytest.mark.parametrize("name", NAMES)


def make(name, layers=2, dropout=0.0):
    np.random.seed(1)
    bias = chainer.initializers.Normal(0.3)
    with chainer.using_config("dtype", np.dtype(np.float64)):
        return getattr(L, name)(layers, 3, 4, dropout, initial_bias=bias)


def sequences():
    rng = np.random.default_rng(0)
    return [chainer.Variable(rng.normal(size=(n, 3))) for n in LENGTHS]


def run(link, xs, divisor=1, hook=None, states=()):
    """The loss, everything that it depends on, and all gradients."""
    given = list(states) or [None] * (2 if "LSTM" in type(link).__name__ else 1)
    np.random.seed(5)  # of dropout
    link.cleargrads()
    for variable in (*xs, *states):
        variable.cleargrad()
    *last, ys = link(*given, xs)
    loss = sum(F.sum(F.sin(y)) for y in ys) + sum(F.sum(one**2) for one in last)
    loss = loss / divisor
    loss.backward()
    if hook is not None:
        hook()
    outer = [float(loss.array), *[one.grad for one in (*xs, *states)]]
    return outer, {name: one.grad.copy() for name, one in link.namedparams()}


def close(found, expected, rtol=1e-9):
    for one, other in zip(found[0], expected[0], strict=True):
        np.testing.assert_allclose(one, other, rtol=rtol, atol=1e-12)
    assert set(found[1]) == set(expected[1])
    for name, grad in expected[1].items():
        np.testing.assert_allclose(found[1][name], grad, rtol=rtol, atol=1e-12, err_msg=name)


@by_name
@pytest.mark.parametrize("scope", ["layer", "model", "unit", "parameter"])
def test_with_a_mean_it_is_the_stock_link(name, scope):
    stock, xs = make(name, dropout=0.3), sequences()
    expected = run(stock, xs)
    link = chainrob.robustify(stock.copy("copy"), chainrob.Mean(), scope=scope)
    assert type(link) is getattr(chainrob.links, name)
    close(run(link, xs, hook=RobustGradient(link) if scope == "model" else None), expected)


@pytest.mark.parametrize("name", ["NStepLSTM", "NStepBiGRU"])
def test_states_before_the_first_step(name):
    stock, xs = make(name), sequences()
    rng = np.random.default_rng(2)
    count = 2 if "LSTM" in name else 1
    shape = (2 * stock.direction, len(xs), 4)
    states = [chainer.Variable(rng.normal(size=shape)) for _ in range(count)]
    expected = run(stock, xs, states=states)
    link = chainrob.robustify(stock.copy("copy"), chainrob.Mean())
    close(run(link, xs, states=states), expected)


@by_name
def test_none_is_the_stock_link_bit_for_bit(name):
    stock, xs = make(name), sequences()
    link = getattr(chainrob.links, name)(2, 3, 4, 0.0)
    link.copyparams(stock)
    for parameter, other in zip(link.params(), stock.params(), strict=True):
        parameter.array = other.array
    ours, theirs = run(link, xs), run(stock, xs)
    for key, grad in theirs[1].items():
        np.testing.assert_array_equal(ours[1][key], grad)


def rows_of(stock, xs):
    """Each sequence run alone: name to (N, D)."""
    alone = [run(stock, [x])[1] for x in xs]
    return {name: np.stack([one[name].ravel() for one in alone]) for name in alone[0]}


@by_name
@pytest.mark.parametrize(
    "robustifier", [chainrob.GeometricMedian(), chainrob.CoordinateMedian()], ids=repr
)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_one_row_a_sequence(name, robustifier, reduction):
    stock, xs = make(name), sequences()
    rows = rows_of(stock, xs)
    link = chainrob.robustify(
        stock.copy("copy"), robustifier, loss_reduction=reduction, scope="layer"
    )
    n = len(xs)
    found = run(link, xs, divisor=n if reduction == "mean" else 1)[1]
    factor = 1 if reduction == "mean" else n
    for part in range(len(list(link))):
        names = sorted(one for one in rows if one.startswith(f"/{part}/"))
        expected = factor * robustifier(np.hstack([rows[one] for one in names]))
        got = np.concatenate([found[one].ravel() for one in names])
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", ["NStepLSTM", "NStepBiGRU"])
def test_one_row_a_sequence_of_the_whole_model(name):
    stock, xs = make(name), sequences()
    rows = rows_of(stock, xs)
    names = sorted(rows)
    expected = chainrob.GeometricMedian()(np.hstack([rows[one] for one in names]))
    link = chainrob.robustify(stock.copy("copy"), chainrob.GeometricMedian(), scope="model")
    found = run(link, xs, divisor=len(xs), hook=RobustGradient(link))[1]
    got = np.concatenate([found[one].ravel() for one in names])
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-7)


def test_sequences_that_are_parts_of_samples():
    """Sentences of documents: the context says which document each sentence belongs to."""
    stock, xs = make("NStepLSTM"), sequences()
    index = np.array([1, 0, 1, 2, 0])
    rows = rows_of(stock, xs)
    link = chainrob.robustify(stock.copy("copy"), chainrob.CoordinateMedian())
    with chainrob.samples(index):
        found = run(link, xs, divisor=3)[1]
    for name, one in rows.items():
        sums = np.stack([one[index == n].sum(axis=0) for n in range(3)])
        np.testing.assert_allclose(
            found[name].ravel(), np.median(sums, axis=0), atol=1e-10, err_msg=name
        )


def test_a_bad_sequence_is_dropped():
    stock, xs = make("NStepGRU"), sequences()
    xs[2].array[...] = np.nan
    link = chainrob.robustify(stock.copy("copy"), chainrob.CoordinateMedian())
    with pytest.warns(chainrob.NonFiniteGradientWarning):
        found = run(link, xs, divisor=len(xs))[1]
    rows = rows_of(stock, [x for number, x in enumerate(xs) if number != 2])
    for name, one in rows.items():
        np.testing.assert_allclose(found[name].ravel(), np.median(one, axis=0), atol=1e-10)


def test_a_second_derivative_is_refused_and_gx_is_right():
    stock, xs = make("NStepLSTM"), sequences()
    link = chainrob.robustify(stock.copy("copy"), chainrob.Mean())

    def gradient(model, of, at):
        *_, ys = model(None, None, xs)
        loss = sum(F.sum(F.sin(y)) for y in ys)
        found = chainer.grad([loss], of, enable_double_backprop=True)
        return chainer.grad([sum(F.sum(g**2) for g in found)], at)

    with pytest.raises(chainrob.NotDifferentiableError, match="not available for SequenceInput"):
        gradient(link, [link[0].w1], xs)
    for expected, found in zip(gradient(stock, xs, xs), gradient(link, xs, xs), strict=True):
        np.testing.assert_allclose(found.array, expected.array, rtol=1e-9)


def test_files_fit_both_ways(tmp_path):
    stock, xs = make("NStepBiLSTM"), sequences()
    link = chainrob.links.NStepBiLSTM(2, 3, 4, 0.0, robustifier=chainrob.Mean())
    chainer.serializers.save_npz(tmp_path / "a.npz", stock)
    for parameter in link.params():
        parameter.array = parameter.array.astype(np.float64)
    chainer.serializers.load_npz(tmp_path / "a.npz", link)
    close(run(link, xs), run(stock, xs))
    assert [name for name, _ in link.namedparams()] == [name for name, _ in stock.namedparams()]


def test_back_to_plain_and_a_copy():
    link = chainrob.robustify(make("NStepLSTM"), chainrob.GeometricMedian())
    assert "robustifier=GeometricMedian()" in repr(link)
    twin = link.copy("copy")
    assert type(twin) is chainrob.links.NStepLSTM
    assert twin.robustifier == link.robustifier
    assert type(chainrob.plain(link)) is L.NStepLSTM
    assert link.rnn.__func__ is L.NStepLSTM.rnn


def test_inputs_of_another_size():
    link = chainrob.links.NStepLSTM(1, 3, 4, 0.0, robustifier=chainrob.Mean())
    with pytest.raises(ValueError, match="as many columns as 0/w0, found 2 and 3"):
        link(None, None, [np.ones((2, 2), np.float32)])
