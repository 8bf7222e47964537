"""Tensors as the core's arrays and back, without a copy; on the tensors' device and stream.

On the CPU a tensor and a NumPy array share their memory. On a GPU they do so by DLPack, and CuPy
works on PyTorch's current stream, so nothing waits for anything. Only bfloat16 is copied, to
float32, for neither NumPy nor CuPy has it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from chainrob.kernels.matrix_products import use_products
from chainrob.sample_gradients.operator_base import Array

__all__ = ["computing", "to_array", "to_tensor"]


def to_array(tensor: torch.Tensor) -> Array:
    """The tensor's memory as a NumPy or CuPy array.

    Raises:
        TypeError: a tensor of another device, or a sparse one.
    """
    tensor = tensor.detach()
    if tensor.layout != torch.strided:
        raise TypeError(f"a robust layer needs dense tensors, found layout {tensor.layout}")
    if tensor.dtype == torch.bfloat16:
        tensor = tensor.float()
    if tensor.device.type == "cpu":
        return tensor.numpy()
    if tensor.device.type == "cuda":
        return _cupy().from_dlpack(tensor)
    raise TypeError(
        f"a robust layer works on tensors of 'cpu' and 'cuda', found device {str(tensor.device)!r}"
    )


def to_tensor(array: Array, dtype: torch.dtype) -> torch.Tensor:
    """The array's memory as a tensor on the same device."""
    if isinstance(array, np.ndarray):
        if not array.flags.writeable or any(stride < 0 for stride in array.strides):
            array = array.copy()
        tensor = torch.from_numpy(array)
    else:
        tensor = torch.from_dlpack(array)
    return tensor.to(dtype)


def computing(like: torch.Tensor) -> AbstractContextManager[None]:
    """Inside, the core computes where the tensor is: its GPU and PyTorch's stream, or as many
    threads of the CPU as ``torch.get_num_threads()`` says, with PyTorch's large matrix products and
    convolutions.
    """
    return _on_gpu(like) if like.device.type == "cuda" else _on_cpu


@contextmanager
def _on_gpu(like: torch.Tensor) -> Iterator[None]:
    cupy = _cupy()
    stream = torch.cuda.current_stream(like.device).cuda_stream
    with cupy.cuda.Device(like.device.index), cupy.cuda.ExternalStream(stream):
        yield


def _product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a @ b by PyTorch's library, whatever autocast says: with ``out`` it does not look there."""
    if not (a.flags.writeable and b.flags.writeable):
        return a @ b
    out = np.empty((a.shape[0], b.shape[1]), a.dtype)
    torch.mm(torch.from_numpy(a), torch.from_numpy(b), out=torch.from_numpy(out))
    return out


def _filter_sums(patched: np.ndarray, plain: np.ndarray, geometry: Any) -> np.ndarray:
    """The filters' gradient of a convolution whose input has its padding already."""
    ksize, stride, dilation, groups = geometry
    # What no patch reaches would be taken for more positions.
    reach: tuple[Any, ...] = tuple(
        slice((count - 1) * by + (size - 1) * apart + 1)
        for count, by, size, apart in zip(plain.shape[2:], stride, ksize, dilation, strict=True)
    )
    x, gy = torch.from_numpy(patched[(..., *reach)]), torch.from_numpy(plain)
    weight = torch.empty(plain.shape[1], patched.shape[1] // groups, *ksize, dtype=gy.dtype)
    none = (0,) * len(ksize)
    options = (stride, none, dilation, False, none, groups, (False, True, False))
    found = torch.ops.aten.convolution_backward(gy, x, weight, None, *options)[1]
    return found.contiguous().numpy()


class _OnCPU:
    """NumPy's matrix library limited to PyTorch's threads, which our kernels follow, and PyTorch's
    own for large products and convolutions.

    The number of threads belongs to the process, so passes that overlap share one change.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.depth = 0
        self.before: list[tuple[Any, int]] = []

    def __enter__(self) -> None:
        use_products(_product, _filter_sums)
        with self.lock:
            self.depth += 1
            if self.depth > 1:
                return
            wanted = torch.get_num_threads()
            for library in _matrix_libraries():
                found = library.num_threads
                if found != wanted:
                    self.before.append((library, found))
                    library.set_num_threads(wanted)

    def __exit__(self, *error: object) -> None:
        use_products(None)
        with self.lock:
            self.depth -= 1
            if self.depth:
                return
            while self.before:
                library, found = self.before.pop()
                library.set_num_threads(found)


_on_cpu = _OnCPU()


@lru_cache(maxsize=1)
def _matrix_libraries() -> list[Any]:
    from threadpoolctl import ThreadpoolController

    found = ThreadpoolController().select(user_api="blas").lib_controllers
    # PyTorch's own library has its threads from PyTorch.
    return [one for one in found if "torch" not in str(one.filepath).split("/")]


def _cupy() -> Any:
    try:
        import cupy
    except ImportError as error:
        raise ImportError(
            "robust layers on a GPU need CuPy: pip install 'chainrob[cuda12]' or "
            "'chainrob[cuda13]', whichever CUDA PyTorch was built for"
        ) from error
    return cupy
