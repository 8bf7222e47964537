"""robustify and plain: the same objects, other classes; what cannot be converted is listed."""

from __future__ import annotations

import copy
import pickle
import warnings

import numpy as np
import pytest

import chainrob
import chainer
from chainer import functions as F
from chainer import links as L
from chainrob.links.conversion import named_layers
from tests.links.cases import CASES


class Net(chainer.Chain):
    """Children in an order that is not that of their names, one in a list."""

    def __init__(self):
        super().__init__()
        with self.init_scope():
            self.stem = L.Convolution2D(1, 4, 3)
            self.norm = L.GroupNormalization(2, 4)
            self.act = L.PReLU((4,))
            self.l1 = L.Linear(16, 5)
            self.l10 = L.Linear(5, 5)
            self.l2 = L.Linear(5, 3)
            self.tail = chainer.Sequential(L.Swish((3,)), F.tanh, L.Scale(1, (3,), True))

    def forward(self, x):
        h = self.act(self.norm(self.stem(x)))
        return self.tail(self.l2(F.relu(self.l10(F.relu(self.l1(h))))))


ORDER = ["/stem", "/norm", "/act", "/l1", "/l10", "/l2", "/tail/0", "/tail/1", "/tail/1/bias"]


def train(model, optimizer, steps, seed=0):
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        x = rng.normal(size=(6, 1, 4, 4)).astype(np.float32)
        t = rng.integers(0, 3, size=6).astype(np.int32)
        optimizer.update(lambda x=x, t=t: F.softmax_cross_entropy(model(x), t))


def arrays(model):
    return {name: parameter.array.copy() for name, parameter in model.namedparams()}


def robust_names(model):
    return [
        name
        for name, link in chainrob.links.conversion.named_layers(model)
        if isinstance(link, chainrob.links.RobustLink)
    ]


def test_everything_is_kept():
    model = Net()
    optimizer = chainer.optimizers.Adam().setup(model)
    optimizer.add_hook(chainer.optimizer_hooks.WeightDecay(1e-3))
    model.l1.W.update_rule.hyperparam.alpha = 0.5
    train(model, optimizer, 2)
    links = dict(model.namedlinks())
    parameters = dict(model.namedparams())
    states = {name: one.update_rule.state for name, one in parameters.items()}
    before = arrays(model)
    assert chainrob.robustify(model, chainrob.Mean()) is model
    assert {name: id(link) for name, link in model.namedlinks()} == {
        name: id(link) for name, link in links.items()
    }
    for name, parameter in model.namedparams():
        assert parameter is parameters[name]
        assert parameter.update_rule.state is states[name]
        np.testing.assert_array_equal(parameter.array, before[name])
    assert model.l1.W.update_rule.hyperparam.alpha == 0.5
    assert robust_names(model) == ORDER
    train(model, optimizer, 1)


def test_plain_undoes_it_exactly():
    model = Net()
    reference = copy.deepcopy(model)
    types = {name: type(link) for name, link in model.namedlinks()}
    attributes = {name: set(vars(link)) for name, link in model.namedlinks()}
    chainrob.robustify(model, chainrob.GeometricMedian(), scope="unit", loss_reduction="sum")
    assert chainrob.plain(model) is model
    assert {name: type(link) for name, link in model.namedlinks()} == types
    assert {name: set(vars(link)) for name, link in model.namedlinks()} == attributes
    for one in (model, reference):
        train(one, chainer.optimizers.Adam().setup(one), 3)
    for name, array in arrays(reference).items():
        np.testing.assert_array_equal(dict(model.namedparams())[name].array, array)


def test_mean_trains_as_the_plain_model_does():
    model = Net()
    reference = copy.deepcopy(model)
    chainrob.robustify(model, chainrob.Mean())
    for one in (model, reference):
        train(one, chainer.optimizers.MomentumSGD(0.05).setup(one), 5)
    for name, array in arrays(reference).items():
        found = dict(model.namedparams())[name].array
        np.testing.assert_allclose(found, array, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_stock_link_has_its_robust_form(case):
    link = case.stock()
    chainrob.robustify(link, chainrob.TrimmedMean(0.1), scope="parameter", loss_reduction="sum")
    assert type(link) is getattr(chainrob.links, case.link)
    assert link.robustifier == chainrob.TrimmedMean(0.1)
    assert (link.scope, link.loss_reduction) == ("parameter", "sum")
    x = case.inputs(5)
    np.testing.assert_array_equal(link(x, **case.call).array, case.stock()(x, **case.call).array)
    assert type(chainrob.plain(link)) is getattr(L, case.link)


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ("l1", ["/l1"]),
        ("/l1", ["/l1"]),
        (["l2", "/stem"], ["/stem", "/l2"]),
        ("tail", ["/tail/0", "/tail/1", "/tail/1/bias"]),
        (0, ["/stem"]),
        ([-1, 4], ["/l10", "/tail/1/bias"]),
        (lambda name, link: isinstance(link, L.Linear), ["/l1", "/l10", "/l2"]),
        (lambda name, link: name.startswith("/l1"), ["/l1", "/l10"]),
        ("/", ORDER),
    ],
)
def test_layers(layers, expected):
    model = Net()
    chainrob.robustify(model, chainrob.Mean(), layers=layers)
    assert robust_names(model) == expected


def test_other_settings_for_other_layers():
    model = Net()
    chainrob.robustify(model, chainrob.Mean())
    chainrob.robustify(model, chainrob.CoordinateMedian(), layers="l1", scope="unit")
    chainrob.robustify(model, None, layers="l2")
    assert model.l1.robustifier == chainrob.CoordinateMedian()
    assert model.l10.robustifier == chainrob.Mean()
    assert model.l2.robustifier is None


@pytest.mark.parametrize(
    ("layers", "error", "message"),
    [
        ("l3", KeyError, r"found 'l3'; there are \['/stem'"),
        (["l1", "stem/W"], KeyError, "found 'stem/W'"),
        (9, KeyError, "numbers below 9, found 9"),
        ([1.5], TypeError, "found 1.5"),
        (True, TypeError, "found True"),
    ],
)
def test_unknown_layers(layers, error, message):
    model = Net()
    with pytest.raises(error, match=message):
        chainrob.robustify(model, chainrob.Mean(), layers=layers)
    assert robust_names(model) == []


class Own(L.Linear):
    def forward(self, x):
        return super().forward(x) * 2


class Holder(chainer.Chain):
    def __init__(self, **children):
        super().__init__()
        with self.init_scope():
            for name, child in children.items():
                setattr(self, name, child)


def test_unsupported_links_are_listed():
    model = Holder(
        a=L.Linear(2, 2), bn=L.BatchNormalization(2), own=Own(2, 2), m=L.Bilinear(2, 2, 2)
    )
    with pytest.raises(ValueError, match="3 of 4 links have no robust form") as caught:
        chainrob.robustify(model, chainrob.Mean())
    text = str(caught.value)
    assert "/bn (BatchNormalization): it mixes the samples" in text
    assert "GroupNormalization or LayerNormalization" in text
    assert "/own (Own): it is a subclass of Linear" in text
    assert "derive it from chainrob.links.Linear" in text
    assert "/m (Bilinear)" in text
    # All or nothing.
    assert robust_names(model) == []
    with pytest.warns(chainrob.links.UnsupportedLinkWarning, match="3 of 4 links"):
        chainrob.robustify(model, chainrob.Mean(), on_unsupported="skip")
    assert robust_names(model) == ["/a"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        chainrob.robustify(model, chainrob.Mean(), layers="a")


def test_batch_normalization_without_parameters_is_listed():
    bn = L.BatchNormalization(2, use_gamma=False, use_beta=False)
    with pytest.raises(ValueError, match="mixes the samples"):
        chainrob.robustify(Holder(bn=bn), chainrob.Mean())


def test_parameters_of_a_chain_itself_are_listed():
    model = Holder(a=L.Linear(2, 2), free=chainer.Parameter(0.0, (2,)))
    with pytest.raises(ValueError, match=r"/ \(Holder\): its class is not known"):
        chainrob.robustify(model, chainrob.Mean())


def test_recurrent_links_need_the_whole_pass():
    model = Holder(lstm=L.LSTM(2, 3), out=L.Linear(3, 1))
    with pytest.raises(ValueError, match=r"2 of 3 .*LSTM runs it in each time step.*scope='model'"):
        chainrob.robustify(model, chainrob.Mean())
    chainrob.robustify(model, chainrob.Mean(), scope="model")
    assert robust_names(model) == ["/lstm/upward", "/lstm/lateral", "/out"]
    for recurrent in (L.GRU(2, 3), L.StatelessLSTM(2, 3), L.StatefulZoneoutLSTM(2, 3)):
        chainrob.robustify(recurrent, chainrob.Mean(), scope="model")


@pytest.mark.parametrize("make", [L.NStepLSTM, L.NStepBiGRU, L.NStepRNNTanh])
def test_networks_over_sequences_are_converted_as_a_whole(make):
    model = Holder(r=make(2, 3, 4, 0.0), out=L.Linear(4, 2))
    assert [name for name, _ in named_layers(model)] == ["/r", "/out"]
    chainrob.robustify(model, chainrob.Mean(), layers="r")
    assert robust_names(model) == ["/r"]
    assert type(chainrob.plain(model).r) is make


def test_a_tree_lstm_tells_its_links_what_they_see():
    model = Holder(r=L.ChildSumTreeLSTM(3, 4))
    with pytest.raises(ValueError, match="use scope='model', which estimates it after the pass"):
        chainrob.robustify(model, chainrob.Mean())
    assert type(model.r) is L.ChildSumTreeLSTM
    chainrob.robustify(model, chainrob.Mean(), scope="model")
    assert type(model.r) is chainrob.links.ChildSumTreeLSTM
    assert type(chainrob.plain(model).r) is L.ChildSumTreeLSTM
    assert type(model.r.W_x) is L.Linear


@pytest.mark.parametrize(
    ("layers", "found"),
    [
        ([], r"\[\]"),
        ((), r"\(\)"),
        (lambda name, link: False, "a predicate that no link meets"),
        (lambda name, link: name == "l1", "a predicate that no link meets"),  # names begin with /
    ],
)
def test_layers_that_choose_none(layers, found):
    model = Net()
    message = f"layers must choose at least one link, found {found}; .*'/stem', .*'/l1'"
    with pytest.raises(ValueError, match=message):
        chainrob.robustify(model, chainrob.Mean(), layers=layers)
    assert robust_names(model) == []


def test_a_link_in_two_places_is_one():
    shared = L.Linear(2, 2)
    model = Holder(a=shared, b=chainer.Sequential(shared, L.Linear(2, 2)))
    assert [name for name, _ in chainrob.links.conversion.named_layers(model)] == ["/a", "/b/1"]
    chainrob.robustify(model, chainrob.Mean(), layers="b/0")
    assert robust_names(model) == ["/a"]


def test_own_links_may_have_robust_forms():
    class Double(L.Linear):
        def forward(self, x):
            return super().forward(2 * x)

    class RobustDouble(chainrob.links.RobustLink, Double):
        stock = Double

        def forward(self, x):
            return chainrob.functions.linear(2 * x, self.W, self.b, robustifier=self.robustifier)

    link = Double(2, 3)
    chainrob.robustify(link, chainrob.Mean())
    assert type(link) is RobustDouble
    assert type(chainrob.plain(link)) is Double


def test_a_robust_form_defined_again_takes_the_place_of_the_first():
    class Own(L.Linear):
        pass

    def define():  # as a cell of a notebook that is run again
        class RobustOwn(chainrob.links.RobustLink, Own):
            stock = Own

        return RobustOwn

    _, last = define(), define()

    class Other(chainrob.links.RobustLink, Own):
        stock = Own

    assert type(chainrob.robustify(Own(2, 3), chainrob.Mean())) is last


def test_a_class_derived_from_a_robust_form_runs_plainly():
    class Mine(chainrob.links.Linear):
        pass

    link = Mine(2, 3, robustifier=chainrob.Mean(), scope="unit")
    chainrob.plain(link)
    assert type(link) is Mine
    assert link.robustifier is None
    chainrob.robustify(link, chainrob.CoordinateMedian())
    assert (link.robustifier, link.scope) == (chainrob.CoordinateMedian(), "layer")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"scope": "all"}, ValueError, "scope must be one of"),
        ({"loss_reduction": "max"}, ValueError, "loss_reduction must be one of"),
        ({"on_unsupported": "ignore"}, ValueError, "on_unsupported must be .* found 'ignore'"),
        ({"robustifier": "median"}, TypeError, r"robustifier must be None.*get\('median'\)"),
        ({"model": 3}, TypeError, "model must be a chainer.Link, found int"),
    ],
)
def test_bad_arguments(arguments, error, message):
    arguments = {"model": L.Linear(2, 2), "robustifier": chainrob.Mean(), **arguments}
    with pytest.raises(error, match=message):
        chainrob.robustify(**arguments)


def test_plain_takes_links_only():
    with pytest.raises(TypeError, match="found NoneType"):
        chainrob.plain(None)


def test_copies_pickles_and_files(tmp_path):
    model = chainrob.robustify(Net(), chainrob.TrimmedMean(0.2))
    for again in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), model.copy()):
        assert robust_names(again) == ORDER
        assert again.l1.robustifier == chainrob.TrimmedMean(0.2)
    plain = Net()
    chainer.serializers.save_npz(tmp_path / "a.npz", model)
    chainer.serializers.load_npz(tmp_path / "a.npz", plain)
    for name, array in arrays(model).items():
        np.testing.assert_array_equal(dict(plain.namedparams())[name].array, array)


def test_layers_by_numbers_of_numpy():
    model = chainer.Sequential(L.Linear(3, 4), L.Linear(4, 2))
    chainrob.robustify(model, chainrob.Mean(), layers=np.arange(1, 2))
    assert type(model[0]) is L.Linear
    assert type(model[1]) is chainrob.links.Linear
