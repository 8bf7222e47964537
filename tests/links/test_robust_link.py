"""What robust links say of themselves, and whose subclasses they are."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import chainrob
import chainer
from chainer import functions as F
from chainer import links as L
from chainrob.links.robust_link import robust_forms
from tests.links.cases import CASES

PAIR = ((L.Linear, 2), (L.BatchNormalization, 1))
SETTINGS = "robustifier=TrimmedMean(fraction=0.1), loss_reduction='sum', scope='unit'"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_link_prints_its_settings(case):
    link = case.robust(robustifier=chainrob.TrimmedMean(0.1), loss_reduction="sum", scope="unit")
    for text in (str(link), repr(link)):
        assert SETTINGS in text
        assert text.startswith(case.link)
    stock = case.stock()
    assert str(case.robust()) == str(stock)
    inside = str(stock)[:-1]
    if not isinstance(stock, chainer.Chain):
        assert str(link).startswith(inside)


def test_a_model_prints_them_all():
    model = chainer.Sequential(L.Linear(2, 3), F.relu, L.Convolution2D(1, 2, 3))
    before = str(model)
    chainrob.robustify(model, chainrob.GeometricMedian(), scope="model")
    settings = "robustifier=GeometricMedian(), loss_reduction='mean', scope='model'"
    assert str(model).count(settings) == 2
    chainrob.plain(model)
    assert str(model) == before


def test_subclasses_are_those_of_chainer():
    for (stock, form), (other, other_form) in itertools.permutations(robust_forms().items(), 2):
        # Other tests may have made classes of their own, which are nobody's business.
        if stock.__module__.startswith("chainer.") and other.__module__.startswith("chainer."):
            assert issubclass(form, other_form) == issubclass(stock, other), (form, other_form)


@pytest.mark.parametrize("name", ["Convolution", "Deconvolution"])
def test_a_convolution_of_one_dimension_is_one_of_n(name):
    kind = getattr(chainrob.links, f"{name}1D")
    link = kind(2, 3, 2, robustifier=chainrob.Mean())
    assert isinstance(link, getattr(chainrob.links, f"{name}ND"))
    assert link(np.ones((4, 2, 5), np.float32)).shape[:2] == (4, 3)
    plain = chainrob.plain(link)
    assert type(plain) is getattr(L, f"{name}1D")
    assert type(chainrob.robustify(plain, chainrob.Mean())) is kind


@pytest.mark.parametrize("robustifier", [None, chainrob.Mean()], ids=repr)
@pytest.mark.parametrize("case", [one for one in CASES if one.n_ids is None], ids=lambda c: c.name)
def test_an_input_without_gradient(case, robustifier):
    """As the first layer of every network has it."""
    x = case.inputs(4)
    gradients = []
    for needed in (True, False):
        link = case.robust(robustifier=robustifier)
        y = link(chainer.Variable(x, requires_grad=needed), **case.call)
        F.sum(F.sin(y)).backward()
        gradients.append([one.grad for _, one in sorted(link.namedparams())])
    for one, other in zip(*gradients, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("kind", ["Scale", "Bias"])
@pytest.mark.parametrize("robustifier", [None, chainrob.Mean()], ids=repr)
def test_the_wrong_number_of_inputs(kind, robustifier):
    x = np.ones((2, 3), np.float32)
    make = getattr(chainrob.links, kind)
    link = make(1, (3,), robustifier=robustifier)
    name = "W" if kind == "Scale" else "b"
    with pytest.raises(TypeError, match=f"{kind}: a link that holds {name} takes 1 input, found 2"):
        link(x, x[0])
    with pytest.raises(TypeError, match=f"holds no {name} takes 2 inputs, found 1"):
        make(1, robustifier=robustifier)(x)
    with chainer.using_config("debug", True), pytest.raises(AssertionError, match="found 2"):
        link(x, x[0])  # as the stock link
    assert make(1, robustifier=robustifier)(x, x[0]).shape == (2, 3)


def test_reasons_are_given_once():
    layers = [kind(*(3,) * n) for _ in range(20) for kind, n in PAIR]
    model = chainer.Sequential(*layers)
    with pytest.raises(ValueError, match="20 of 40 links have no robust form") as caught:
        chainrob.robustify(model, chainrob.Mean())
    message = str(caught.value)
    assert message.count("mixes the samples") == 1
    assert "/1, /3, /5," in message
    assert "/39 (BatchNormalization): it mixes" in message
    assert len(message) < 400
