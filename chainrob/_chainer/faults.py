"""What is wrong in Chainer, on today's NumPy, SciPy and h5py, when it is called."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any

import numpy

from chainrob._chainer.mending import StandIn, mends, rebind, rename


@mends("chainer.functions.array.resize_images")
def _resize_images(module: Any) -> None:
    # numpy.float was Python's float. A stand-in for the module's numpy would not do: its functions
    # ask `xp is numpy` to tell the CPU from the GPU.
    rename(module.compute_indices_and_weights, float="float64")


@mends("chainer.functions.array.pad_sequence")
def _pad_sequence(module: Any) -> None:
    forward = module.PadSequence.forward

    @functools.wraps(forward)
    def cast_padding_first(self: Any, xs: tuple[Any, ...]) -> Any:
        # NumPy 2 refuses to write -1 into an unsigned array; before it became the largest number.
        if isinstance(self.padding, (int, float)) and xs[0].dtype.kind in "iu":
            self.padding = numpy.asarray(self.padding).astype(xs[0].dtype)[()]
        return forward(self, xs)

    module.PadSequence.forward = cast_padding_first


@mends("chainer.functions.math.sparse_matmul")
def _sparse_matmul(module: Any) -> None:
    product = module._coo_matmul_cpu

    def single(array: Any) -> Any:
        return array.astype(numpy.float32) if array.dtype == numpy.float16 else array

    @functools.wraps(product)
    def without_half(A_data: Any, A_row: Any, A_col: Any, A_shape: Any, B: Any, dtype: Any) -> Any:
        # SciPy has no sparse matrix of float16; the product is rounded to `dtype` at its end.
        return product(single(A_data), A_row, A_col, A_shape, single(B), dtype)

    module._coo_matmul_cpu = without_half


@mends("chainer.functions.math.fix")
def _fix(module: Any) -> None:
    # NumPy deprecates fix, whose other name is trunc; CuPy has both.
    rename(module.fix, fix="trunc")


def _gradient_of_a_choice(node: Any, first_chosen: Callable[[Any], Any]) -> None:
    """The second derivative of maximum or minimum, where one of the two sides may be a constant."""

    def backward(self: Any, indexes: Any, grad_outputs: tuple[Any, ...]) -> tuple[Any, ...]:
        # Chainer hands both to `where`, which has no use for the None of a side without gradient;
        # and maximum's answer is no tuple, so that its rows are counted as if each were a gradient.
        functions = importlib.import_module("chainer.functions")
        given = next(one for one in grad_outputs if one is not None)
        condition = given.xp.asarray(first_chosen(self))
        zeros = given.xp.zeros(condition.shape, given.dtype)
        sides = (
            zeros if one is None else functions.broadcast_to(one, condition.shape)
            for one in grad_outputs
        )
        return (functions.where(condition, *sides),)

    node.backward = backward


@mends("chainer.functions.math.maximum")
def _maximum(module: Any) -> None:
    _gradient_of_a_choice(module.MaximumGrad, lambda node: node.cond)


@mends("chainer.functions.math.minimum")
def _minimum(module: Any) -> None:
    _gradient_of_a_choice(module.MinimumGrad, lambda node: node.x1 <= node.x2)


@mends("chainer.functions.connection.deconvolution_2d")
def _deconvolution_2d(module: Any) -> None:
    # backward hands over shapes where the input's gradient is wanted, and arrays where it is not.
    cover = module.Deconvolution2DFunction._set_cover_all

    @functools.wraps(cover)
    def of_shapes(self: Any, x: Any, W: Any) -> None:
        cover(self, getattr(x, "shape", x), getattr(W, "shape", W))

    module.Deconvolution2DFunction._set_cover_all = of_shapes


@mends("chainer.distributions.categorical")
def _categorical(module: Any) -> None:
    # meshgrid gives a tuple since NumPy 2, and log_prob adds a list to it.
    def meshgrid(*args: Any, **kwargs: Any) -> list[Any]:
        return list(numpy.meshgrid(*args, **kwargs))

    rebind(module.Categorical.log_prob, numpy=StandIn(numpy, meshgrid=meshgrid))


@mends("chainer.dataset.convert")
def _convert(module: Any) -> None:
    # NumPy deprecates the third argument of maximum unless it is called `out`.
    def maximum(a: Any, b: Any, out: Any) -> Any:
        return numpy.maximum(a, b, out=out)

    rebind(module._concat_arrays_with_padding, numpy=StandIn(numpy, maximum=maximum))


@mends("chainer.serializers.hdf5")
def _hdf5(module: Any) -> None:
    write = module.HDF5Serializer.__call__
    read = module.HDF5Deserializer.__call__

    @functools.wraps(write)
    def write_strings(self: Any, key: str, value: Any) -> Any:
        # h5py cannot store NumPy's strings, which Chainer made of Python's.
        if isinstance(value, str):
            self.group.create_dataset(key, data=value, dtype=module.h5py.string_dtype())
            return value
        return write(self, key, value)

    @functools.wraps(read)
    def read_strings(self: Any, key: str, value: Any) -> Any:
        # h5py 3 reads strings as bytes, of which Chainer made "b'...'".
        if isinstance(value, str) and self.group is not None and key in self.group:
            dataset = self.group[key]
            if dataset.shape == () and module.h5py.check_string_dtype(dataset.dtype) is not None:
                return type(value)(dataset.asstr("utf-8")[()])
        return read(self, key, value)

    module.HDF5Serializer.__call__ = write_strings
    module.HDF5Deserializer.__call__ = read_strings


@mends("chainer.links.activation.maxout")
def _maxout(module: Any) -> None:
    # NumPy 2.5 deprecates writing to an array's shape, which Maxout does around a plain function
    # that fills its parameters. An Initializer it leaves alone.
    class Reshaped(module.initializer.Initializer):
        def __init__(self, fill: Any, shape: tuple[int, ...]) -> None:
            super().__init__(getattr(fill, "dtype", None))
            self.fill = fill
            self.shape = shape

        def __call__(self, array: Any) -> None:
            self.fill(array.reshape(self.shape))  # a view: parameters are contiguous

    def reshaped(given: Any, *shape: int) -> Any:
        known = (module.initializer.Initializer, *module.chainer.get_array_types())
        return Reshaped(given, shape) if callable(given) and not isinstance(given, known) else given

    init = module.Maxout.__init__

    @functools.wraps(init)
    def reshape_views(
        self: Any,
        in_size: Any,
        out_size: int,
        pool_size: int,
        initialW: Any = None,
        initial_bias: Any = 0,
    ) -> None:
        weight = reshaped(initialW, out_size, pool_size, in_size)
        bias = reshaped(initial_bias, out_size, pool_size)
        init(self, in_size, out_size, pool_size, weight, bias)

    module.Maxout.__init__ = reshape_views
