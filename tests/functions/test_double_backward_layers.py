"""Double backward through every robust layer but the linear one, against central differences."""

import numpy as np
import pytest

import chainrob
import chainer
from chainrob import functions as f
from chainrob import robustifiers as r

F = chainer.functions
N = 5
STEP = 1e-6

LAYERS = {
    "convolution_1d": (f.convolution_nd, (2, 7), [(3, 2, 3), (3,)], {"stride": 2, "pad": 1}),
    "convolution_cover_all": (
        f.convolution_nd,
        (1, 6),
        [(2, 1, 3)],
        {"stride": 2, "cover_all": True},
    ),
    "convolution_2d": (
        f.convolution_2d,
        (4, 3, 4),
        [(2, 2, 2, 3), (2,)],
        {"groups": 2, "dilate": 1},
    ),
    "deconvolution_1d": (f.deconvolution_nd, (2, 4), [(2, 3, 3), (3,)], {"stride": 2, "pad": 1}),
    "deconvolution_2d": (f.deconvolution_2d, (2, 3, 3), [(2, 2, 2, 2)], {}),
    "layer_normalization": (f.layer_normalization, (6,), [(6,), (6,)], {}),
    "group_normalization": (
        lambda x, gamma, beta, **options: f.group_normalization(x, 2, gamma, beta, **options),
        (4, 3),
        [(4,), (4,)],
        {},
    ),
    "scale": (f.scale, (3, 4), [(3,)], {}),
    "bias": (f.bias, (3, 4), [(3,)], {}),
    "prelu": (f.prelu, (3, 4), [(3,)], {}),
    "swish": (f.swish, (3,), [(3,)], {}),
}
ROBUSTIFIERS = [r.SoftTruncation(0.3), r.CenteredClipping(), r.TrimmedMean(count=1)]


def first_gradients(layer, x, parameters, options, target, robustifier, scope):
    """The robust gradients of a small loss in the parameters, as graph variables."""
    function, _, _, keywords = layer
    y = function(x, *parameters, **keywords, robustifier=robustifier, scope=scope)
    loss = F.sum(F.tanh(y - target) ** 2) / N
    return chainer.grad([loss], parameters, enable_double_backprop=True), options


@pytest.mark.parametrize(
    ("robustifier", "scope"),
    [(ROBUSTIFIERS[0], "layer"), (ROBUSTIFIERS[1], "layer"), (ROBUSTIFIERS[1], "unit")],
)
@pytest.mark.parametrize("name", LAYERS)
def test_against_central_differences(name, robustifier, scope):
    if (
        scope == "unit"
        and name.startswith("deconvolution")
        and isinstance(robustifier, r.Weighting)
    ):
        pytest.skip("refused: see test_units_of_a_deconvolution_are_refused")
    layer = function, x_shape, shapes, keywords = LAYERS[name]
    rng = np.random.default_rng(0)
    x = rng.normal(size=(N, *x_shape))
    arrays = [x, *(rng.normal(size=shape) for shape in shapes)]
    along = [rng.normal(size=shape) for shape in shapes]
    y = function(*arrays, **keywords, robustifier=r.Mean())
    target = rng.normal(size=y.shape)

    def scalar():
        variables = [chainer.Variable(array) for array in arrays]
        gradients, _ = first_gradients(
            layer, variables[0], variables[1:], None, target, robustifier, scope
        )
        pairs = zip(gradients, along, strict=True)
        return sum(F.sum(one * direction) for one, direction in pairs), variables

    value, variables = scalar()
    with chainrob.exact_backward():
        found = chainer.grad([value], variables)
    for one, array in zip(found, arrays, strict=True):
        expected = np.zeros_like(array)
        for index in np.ndindex(array.shape):
            before = array[index]
            array[index] = before + STEP
            above = float(scalar()[0].array)
            array[index] = before - STEP
            below = float(scalar()[0].array)
            array[index] = before
            expected[index] = (above - below) / (2 * STEP)
        result = np.zeros_like(array) if one is None else one.array
        np.testing.assert_allclose(result, expected, atol=3e-6 * max(1.0, np.abs(expected).max()))


@pytest.mark.parametrize("robustifier", ROBUSTIFIERS, ids=repr)
def test_embedding(robustifier):
    rng = np.random.default_rng(0)
    ids = np.array([[0, 1], [1, 1], [2, -1], [3, 3], [0, 2]], np.int32)
    W, target, along = rng.normal(size=(4, 3)), rng.normal(size=(N, 2, 3)), rng.normal(size=(4, 3))

    def scalar():
        variable = chainer.Variable(W)
        y = f.embed_id(ids, variable, ignore_label=-1, robustifier=robustifier)
        loss = F.sum(F.tanh(y - target) ** 2) / N
        (gW,) = chainer.grad([loss], [variable], enable_double_backprop=True)
        return F.sum(gW * along), variable

    value, variable = scalar()
    with chainrob.exact_backward():
        (found,) = chainer.grad([value], [variable])
    expected = np.zeros_like(W)
    for index in np.ndindex(W.shape):
        before = W[index]
        W[index] = before + STEP
        above = float(scalar()[0].array)
        W[index] = before - STEP
        below = float(scalar()[0].array)
        W[index] = before
        expected[index] = (above - below) / (2 * STEP)
    np.testing.assert_allclose(found.array, expected, atol=1e-5)


def test_units_of_a_deconvolution_are_refused():
    x = chainer.Variable(np.ones((N, 2, 4)))
    W = chainer.Variable(np.ones((2, 3, 3)))
    y = f.deconvolution_nd(x, W, robustifier=r.GeometricMedian(), scope="unit")
    (gW,) = chainer.grad([F.sum(y**2)], [W], enable_double_backprop=True)
    with pytest.raises(chainrob.NotDifferentiableError, match="scope='unit'"):
        chainer.grad([F.sum(gW)], [x])
