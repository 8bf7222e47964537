"""The robust Linear link as Chainer tests its own, and as a drop-in for it."""

import copy
import pickle

import numpy as np
import pytest

import chainrob
import chainer
from chainer import testing


@testing.inject_backend_tests(None, [{}])
@testing.parameterize(
    *testing.product(
        {
            "robustifier": [None, chainrob.Mean()],
            "reduction": ["mean", "sum"],
            "nobias": [True, False],
            "n_batch_axes": [1, 2],
            "in_size": [4, None],
        }
    )
)
class TestLinearAsChainerTestsIt(testing.LinkTestCase):
    """Forward, gradients of x and parameters by finite differences, initializers."""

    dtype = np.float64
    check_backward_options = {"atol": 1e-6, "rtol": 1e-6, "dtype": np.float64}  # noqa: RUF012
    skip_double_backward_test = True

    def setUp(self):
        self.param_names = ("W",) if self.nobias else ("W", "b")

    def generate_params(self):
        return (chainer.initializers.Normal(1.0, dtype=np.float64),) * len(self.param_names)

    def create_link(self, initializers):
        return chainrob.links.Linear(
            self.in_size,
            3,
            self.nobias,
            initializers[0],
            None if self.nobias else initializers[1],
            robustifier=self.robustifier,
            loss_reduction=self.reduction,
        )

    def generate_inputs(self):
        shape = (5, 4) if self.n_batch_axes == 1 else (5, 2, 4)
        return (np.random.default_rng(0).normal(size=shape),)

    def forward(self, link, inputs, device):
        return (link(inputs[0], n_batch_axes=self.n_batch_axes),)

    def forward_expected(self, link, inputs):
        y = inputs[0] @ link.W.array.T
        return (y if self.nobias else y + link.b.array,)


def test_files_of_the_stock_link_and_back(tmp_path):
    stock = chainer.links.Linear(4, 3)
    robust = chainrob.links.Linear(4, 3, robustifier=chainrob.GeometricMedian())
    chainer.serializers.save_npz(tmp_path / "stock.npz", stock)
    chainer.serializers.load_npz(tmp_path / "stock.npz", robust)
    for name in ("W", "b"):
        np.testing.assert_array_equal(getattr(robust, name).array, getattr(stock, name).array)
    chainer.serializers.save_npz(tmp_path / "robust.npz", robust)
    again = chainer.links.Linear(None, 3)
    chainer.serializers.load_npz(tmp_path / "robust.npz", again)
    np.testing.assert_array_equal(again.W.array, stock.W.array)
    with np.load(tmp_path / "stock.npz") as one, np.load(tmp_path / "robust.npz") as other:
        assert sorted(one.files) == sorted(other.files)


@pytest.mark.parametrize("twin", [copy.deepcopy, lambda link: pickle.loads(pickle.dumps(link))])
def test_copies_keep_their_settings(twin):
    robustifier = chainrob.NearestNeighborMixing(1) >> chainrob.TrimmedMean(count=1)
    link = chainrob.links.Linear(4, 3, robustifier=robustifier, loss_reduction="sum", scope="unit")
    other = twin(link)
    assert other.robustifier == robustifier
    assert (other.loss_reduction, other.scope) == ("sum", "unit")
    np.testing.assert_array_equal(other.W.array, link.W.array)


def test_the_robustifier_may_be_exchanged():
    x = np.random.default_rng(1).normal(size=(9, 4)).astype(np.float32)
    x[0] = 1e6
    link = chainrob.links.Linear(4, 3, robustifier=chainrob.Mean())
    found = []
    for robustifier in (chainrob.Mean(), chainrob.CoordinateMedian(), None):
        link.robustifier = robustifier
        link.cleargrads()
        chainer.functions.mean(link(x)).backward()
        found.append(np.abs(link.W.grad).max())
    assert found[0] == pytest.approx(found[2], rel=1e-5)
    assert found[1] < 1e-3 * found[0]


def test_in_size_comes_from_the_first_input():
    link = chainrob.links.Linear(3, robustifier=chainrob.Mean())  # as in Chainer: the out size
    assert link.W.array is None
    assert link(np.zeros((5, 2, 4), np.float32)).shape == (5, 3)
    assert link.W.shape == (3, 8)
    link = chainrob.links.Linear(None, 3, robustifier=chainrob.Mean())
    assert link(np.zeros((5, 2, 4), np.float32), n_batch_axes=2).shape == (5, 2, 3)
    assert link.W.shape == (3, 4)


def test_options_are_checked_when_the_link_is_made():
    with pytest.raises(ValueError, match="scope must be one of"):
        chainrob.links.Linear(2, 2, scope="all")
    with pytest.raises(TypeError, match="found the class Mean"):
        chainrob.links.Linear(2, 2, robustifier=chainrob.Mean)


def test_parameters_that_cannot_work_show_at_the_first_backward():
    link = chainrob.links.Linear(2, 2, robustifier=chainrob.Krum(3))
    loss = chainer.functions.mean(link(np.ones((8, 2), np.float32)))
    with pytest.raises(ValueError, match=r"Krum: 2f \+ 2 must be below the number of samples"):
        loss.backward()


@pytest.mark.parametrize("robustifier", [chainrob.Mean(), chainrob.GeometricMedian()])
def test_a_layer_without_inputs_has_the_gradient_of_its_bias(robustifier):
    link = chainrob.links.Linear(0, 3, initialW=0, robustifier=robustifier)
    link.cleargrads()
    y = link(np.zeros((4, 0), np.float32))
    y.grad = np.full((4, 3), 0.25, np.float32)
    y.backward()
    assert link.W.grad.shape == (3, 0)
    np.testing.assert_allclose(link.b.grad, 1.0)
