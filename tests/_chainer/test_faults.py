"""What Chainer gets wrong on today's NumPy and h5py is right: one test a mend."""

from __future__ import annotations

import numpy
import pytest

import chainer
import chainer.functions as F
from chainer import gradient_check

RNG = numpy.random.default_rng


def test_as_strided_forward_and_backward():
    x = chainer.Variable(numpy.arange(5, dtype=numpy.float64))
    y = F.as_strided(x, (4, 2), (1, 1), 0)
    numpy.testing.assert_array_equal(y.array, [[0, 1], [1, 2], [2, 3], [3, 4]])
    F.sum(y).backward()
    numpy.testing.assert_array_equal(x.grad, [1, 2, 2, 2, 1])  # how often each entry is seen


def test_as_strided_still_refuses_integers():
    y = F.as_strided(chainer.Variable(numpy.arange(4)), (2, 2), (2, 1), 0)
    y.grad = numpy.ones((2, 2), dtype=int)
    with pytest.raises(TypeError, match="Only float is supported"):
        y.backward()


@pytest.mark.parametrize(
    ("options", "row"),
    [
        ({"align_corners": True}, [0, 1, 2]),
        ({"align_corners": False}, [0, 1, 2]),
        ({"mode": "nearest"}, [0, 0, 2]),
    ],
)
def test_resize_images(options, row):
    x = numpy.array([[[[0, 2], [0, 2]]]], dtype=numpy.float32)
    y = F.resize_images(x, (2, 3), **options)
    numpy.testing.assert_allclose(y.array[0, 0], [row, row], atol=1e-6)
    assert y.dtype == numpy.float32


def test_resize_images_backward():
    x = RNG(0).normal(size=(2, 3, 3, 4)).astype(numpy.float32)
    gy = RNG(1).normal(size=(2, 3, 5, 6)).astype(numpy.float32)
    gradient_check.check_backward(
        lambda x: F.resize_images(x, (5, 6)), x, gy, atol=1e-2, rtol=1e-3, eps=1e-2
    )


@pytest.mark.parametrize("dtype", [numpy.uint8, numpy.uint32, numpy.int16, numpy.float16])
def test_pad_sequence_with_a_negative_padding(dtype):
    xs = [numpy.array(x, dtype=dtype) for x in ([1], [2, 3, 4])]
    y = F.pad_sequence(xs, padding=-1).array
    assert y.dtype == dtype
    padding = numpy.array([-1]).astype(dtype)[0]
    numpy.testing.assert_array_equal(y, numpy.array([[1, padding, padding], [2, 3, 4]], dtype))


@pytest.mark.parametrize("shape", [(4, 5), (3, 4, 5)], ids=["matrix", "batch"])
@pytest.mark.parametrize("dtypes", ["ee", "ef", "fe", "ff", "dd"])
def test_sparse_matmul(shape, dtypes):
    rng = RNG(2)
    a = (rng.normal(size=shape) * (rng.random(shape) < 0.5)).astype(dtypes[0])
    b = rng.normal(size=(*shape[:-2], 5, 2)).astype(dtypes[1])
    y = F.sparse_matmul(chainer.utils.to_coo(a), b)
    expected = numpy.matmul(a.astype(float), b.astype(float))
    assert y.dtype == numpy.result_type(*dtypes)
    tolerance = 4 * numpy.finfo(y.dtype).eps
    numpy.testing.assert_allclose(y.array, expected, rtol=tolerance, atol=4 * tolerance)


def test_fix_and_the_backward_of_fmod():
    x = numpy.array([-2.5, -0.5, 0.5, 2.5], dtype=numpy.float32)
    numpy.testing.assert_array_equal(F.fix(x).array, [-2, -0.0, 0, 2])
    divisor = chainer.Variable(numpy.full(4, 2, numpy.float32))
    F.sum(F.fmod(x, divisor)).backward()
    numpy.testing.assert_array_equal(divisor.grad, [1, 0, 0, -1])  # minus the whole quotient


@pytest.mark.parametrize("function", [F.maximum, F.minimum])
@pytest.mark.parametrize(
    "shapes", [((), ()), ((1,), (1,)), ((3,), (3,)), ((2, 3), (3,)), ((3,), (2, 3)), ((2, 1), (3,))]
)
@pytest.mark.parametrize("variable", [(0, 1), (0,), (1,)], ids=["both", "first", "second"])
def test_second_derivatives_of_maximum_and_minimum(function, shapes, variable):
    """Also where one of the two is a constant, and where one is broadcast."""
    rng = RNG(4)
    xs = [rng.normal(size=shape) for shape in shapes]
    others = {index: xs[index] for index in (0, 1) if index not in variable}

    def cube(*variables):
        given = dict(zip(variable, variables, strict=True)) | others
        return function(given[0], given[1]) ** 3

    given = [xs[index] for index in variable]
    gy = rng.normal(size=numpy.broadcast_shapes(*shapes))
    ggs = [rng.normal(size=x.shape) for x in given]
    gradient_check.check_double_backward(cube, given, gy, ggs, atol=1e-4, rtol=1e-4, eps=1e-4)


@pytest.mark.parametrize("batch", [(), (4,), (2, 3)])
@pytest.mark.parametrize("samples", [(), (5,)])
def test_categorical_log_prob(batch, samples):
    rng = RNG(3)
    p = rng.dirichlet(numpy.ones(6), size=batch).astype(numpy.float32)
    x = rng.integers(6, size=samples + batch)
    given = chainer.Variable(p)
    log_prob = chainer.distributions.Categorical(p=given).log_prob(x)
    rows = numpy.broadcast_to(p, samples + p.shape)
    expected = numpy.take_along_axis(rows, x[..., None], -1)[..., 0]
    numpy.testing.assert_allclose(log_prob.array, numpy.log(expected), rtol=1e-5)

    F.sum(log_prob).backward()
    counts = (x[..., None] == numpy.arange(6)).reshape(-1, *p.shape).sum(0)
    numpy.testing.assert_allclose(given.grad, counts / p, rtol=1e-5)


def test_concat_examples_with_padding():
    rows = [numpy.array(row, numpy.float32) for row in ([[1]], [[2, 3]], [[4], [5]])]
    numpy.testing.assert_array_equal(
        chainer.dataset.concat_examples(rows, padding=0),
        [[[1, 0], [0, 0]], [[2, 3], [0, 0]], [[4, 0], [5, 0]]],
    )


@pytest.mark.parametrize("text", ["", "plain", "αβ 'quoted'\n"])
def test_hdf5_strings(tmp_path, text):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "strings.h5", "w") as file:
        chainer.serializers.HDF5Serializer(file)("ours", text)
        file.create_dataset("fixed", data=numpy.bytes_(text.encode()))
        file.create_dataset("number", data=3)
    with h5py.File(tmp_path / "strings.h5") as file:
        read = chainer.serializers.HDF5Deserializer(file)
        assert read("ours", "") == text
        assert read("fixed", "") == text
        assert read("number", 0) == 3
        assert read("number", "") == "3"
        with pytest.raises(KeyError):
            read("missing", "")
        assert chainer.serializers.HDF5Deserializer(file, strict=False)("missing", "x") == "x"


def test_maxout_filled_by_a_plain_function():
    def fill(array):
        array[...] = numpy.arange(array.size).reshape(array.shape)
        shapes.append(array.shape)

    shapes: list[tuple[int, ...]] = []
    link = chainer.links.Maxout(2, 3, 4, initialW=fill, initial_bias=fill)
    assert sorted(shapes) == [(3, 4), (3, 4, 2)]
    numpy.testing.assert_array_equal(link.linear.W.array, numpy.arange(24).reshape(12, 2))
    numpy.testing.assert_array_equal(link.linear.b.array, numpy.arange(12))
    x = numpy.ones((1, 2), numpy.float32)
    expected = [5 * u + 1 for u in (3, 7, 11)]  # the last of each pool: 2u + (2u + 1) + u
    numpy.testing.assert_array_equal(link(x).array, [expected])


@pytest.mark.parametrize("initializer", [None, 0.5, chainer.initializers.One()])
def test_maxout_filled_as_ever(initializer):
    link = chainer.links.Maxout(2, 3, 4, initialW=initializer, initial_bias=numpy.ones((3, 4), "f"))
    assert link.linear.W.shape == (12, 2)
    numpy.testing.assert_array_equal(link.linear.b.array, numpy.ones(12))


def test_deconvolution_of_an_input_without_gradient():
    x = RNG(0).normal(size=(2, 2, 4, 4)).astype(numpy.float32)
    plain = chainer.links.Deconvolution2D(2, 3, 3, stride=2)
    plain.cleargrads()
    F.sum(plain(x) ** 2).backward()
    wanted = plain.W.grad
    plain.cleargrads()
    F.sum(plain(chainer.Variable(x)) ** 2).backward()  # here the input has a gradient, too
    numpy.testing.assert_allclose(wanted, plain.W.grad, rtol=1e-5)
