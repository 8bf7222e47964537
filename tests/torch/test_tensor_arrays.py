"""Tensors and arrays share their memory; threads, streams and devices are PyTorch's."""

import sys
import types
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from threadpoolctl import ThreadpoolController

import chainrob
import chainrob.torch as ct
from chainrob.kernels import matrix_products, threads
from chainrob.sample_gradients import PatchProducts
from chainrob.sample_gradients.patches import Geometry
from chainrob.torch import tensor_arrays
from chainrob.torch.tensor_arrays import computing, to_array, to_tensor


def test_no_copy():
    tensor = torch.arange(6.0).reshape(2, 3).t().requires_grad_()
    array = to_array(tensor)
    with torch.no_grad():
        tensor[0, 1] = 9.0
    assert array[0, 1] == 9.0
    back = to_tensor(array, torch.float32)
    assert back.data_ptr() == tensor.data_ptr()
    assert to_tensor(array[::-1], torch.float64).dtype == torch.float64


def test_bfloat16_becomes_float32():
    assert to_array(torch.ones(2, dtype=torch.bfloat16)).dtype == np.float32
    assert to_array(torch.ones(2, dtype=torch.float16)).dtype == np.float16


def test_tensors_of_other_kinds():
    with pytest.raises(TypeError, match=r"dense tensors, found layout torch\.sparse_coo"):
        to_array(torch.eye(2).to_sparse())
    with pytest.raises(TypeError, match="found device 'meta'"):
        to_array(torch.ones(2, device="meta"))


def blas_threads():
    found = ThreadpoolController().select(user_api="blas").lib_controllers
    return [one.num_threads for one in found if "torch" not in one.filepath.split("/")]


def test_threads_follow_pytorch():
    before, own = torch.get_num_threads(), blas_threads()
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            with computing(torch.ones(1)):
                assert set(blas_threads()) == {number}
                with computing(torch.ones(1)):
                    assert threads.count() <= number
                assert set(blas_threads()) == {number}
            assert blas_threads() == own
    finally:
        torch.set_num_threads(before)


def test_results_do_not_depend_on_the_number_of_threads():
    before, found = torch.get_num_threads(), []
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            torch.manual_seed(0)
            layer = ct.Linear(40, 30, robustifier=chainrob.SoftTruncation())
            layer(torch.randn(64, 40)).square().mean().backward()
            found.append(layer.weight.grad)
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(*found, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(np.float64, 1e-12), (np.float32, 1e-5), (np.float16, 1e-2)]
)
@pytest.mark.parametrize(
    ("geometry", "positions", "spare"),
    [
        (Geometry((3,), (2,), (1,), 1), (4,), 1),
        (Geometry((1,), (3,), (2,), 4), (2,), 5),
        (Geometry((2, 3), (1, 2), (2, 1), 2), (3, 2), 0),
        (Geometry((2, 1, 2), (2, 1, 1), (1, 1, 3), 2), (2, 2, 3), 2),
    ],
    ids=["1d", "depthwise with a gap", "2d", "3d"],
)
def test_filters_are_summed_by_pytorch(monkeypatch, geometry, positions, spare, dtype, tolerance):
    rng = np.random.default_rng(0)
    reach = [
        (count - 1) * by + (size - 1) * apart + 1 + spare
        for count, by, size, apart in zip(
            positions, geometry.stride, geometry.ksize, geometry.dilate, strict=True
        )
    ]
    patched = rng.normal(size=(5, 4, *reach)).astype(dtype)
    plain = rng.normal(size=(5, 8, *positions)).astype(dtype)
    operator, weights = PatchProducts(patched, plain, geometry), rng.normal(size=5)
    asked = []

    def watched(*arguments):
        asked.append(filter_sums(*arguments))
        return asked[-1]

    filter_sums = tensor_arrays._filter_sums
    monkeypatch.setattr(tensor_arrays, "_filter_sums", watched)
    monkeypatch.setattr(matrix_products, "LARGE_SUMS", 1)
    by_units = rng.normal(size=(operator.n_units, 5))
    with computing(torch.ones(1)):
        found = operator.mean(), operator.weighted_sum(weights)
        found += (operator.units().weighted_sum(by_units),)
    assert len(asked) == (0 if dtype is np.float64 else 3)  # that is left to our own form
    rows = operator.materialize().astype(np.float64)
    wanted = rows.mean(axis=0), weights @ rows
    wanted += (np.einsum("un,nud->ud", by_units, rows.reshape(5, len(by_units), -1)),)
    for one, other in zip(found, wanted, strict=True):
        assert one.dtype == dtype
        np.testing.assert_allclose(one.ravel(), other.ravel(), rtol=tolerance, atol=tolerance)


def test_a_gpu_is_used_by_dlpack_on_pytorch_s_stream(monkeypatch):
    """Stand-ins for CuPy and a tensor of a GPU write down what they are asked for."""
    asked = []

    @contextmanager
    def entered(*what):
        asked.append(what)
        yield

    cupy = types.ModuleType("cupy")
    cupy.from_dlpack = lambda tensor: asked.append(("from_dlpack", tensor.data_ptr()))
    cupy.cuda = types.SimpleNamespace(
        Device=lambda index: entered("device", index),
        ExternalStream=lambda pointer: entered("stream", pointer),
    )
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    current = lambda device: types.SimpleNamespace(cuda_stream=1234)  # noqa: E731
    monkeypatch.setattr(torch.cuda, "current_stream", current)
    memory = torch.ones(3)

    class OfGPU:
        device = types.SimpleNamespace(type="cuda", index=1)
        layout, dtype = torch.strided, torch.float32
        detach = lambda self: self  # noqa: E731
        data_ptr = lambda self: memory.data_ptr()  # noqa: E731

    with computing(OfGPU()):
        to_array(OfGPU())
    assert asked == [("device", 1), ("stream", 1234), ("from_dlpack", memory.data_ptr())]
    # What comes back does so by DLPack as well: here from an array that is not NumPy's.
    answer = types.SimpleNamespace(
        __dlpack__=lambda **options: np.ones(2).__dlpack__(), __dlpack_device__=lambda: (1, 0)
    )
    assert to_tensor(answer, torch.float32).tolist() == [1.0, 1.0]


def test_no_cupy(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(ImportError, match=r"chainrob\[cuda12\]"):
        tensor_arrays._cupy()
