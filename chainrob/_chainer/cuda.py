"""What is wrong in Chainer and ChainerMN with CuPy 14 and under MPI."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from chainrob._chainer.mending import mends, rebind


@mends("chainer.backends.cuda")
def _cuda(module: Any) -> None:
    # CuPy 14 has no cuDNN, so Chainer's advice to install it helps nobody. Chainer does without.
    if module.available and module._cupy_major >= 14:
        module.check_cuda_available._already_warned = True


@mends("chainer.training.updaters.multiprocess_parallel_updater")
def _multiprocess_parallel_updater(module: Any) -> None:
    # CuPy 14 no longer declares float16 in every kernel.
    def elementwise(*args: Any, **kwargs: Any) -> Any:
        return module.cuda.elementwise(*args, preamble="#include <cupy/float16.cuh>", **kwargs)

    cuda = SimpleNamespace(elementwise=elementwise)
    rebind(module._memcpy_gather, cuda=cuda)
    rebind(module._memcpy_scatter, cuda=cuda)


@mends("chainermn.communicators._memory_utility")
def _memory_utility(module: Any) -> None:
    # CuPy 14 no longer declares half in every kernel.
    def raw(source: str, *args: Any, **kwargs: Any) -> Any:
        return module.chainer.cuda.raw("#include <cuda_fp16.h>\n" + source, *args, **kwargs)

    chainer = SimpleNamespace(cuda=SimpleNamespace(raw=raw))
    rebind(module._cupy_batched_pack_params, chainer=chainer)
    rebind(module._cupy_batched_unpack_params, chainer=chainer)

    # copy=False used to mean "copy if needed", and means "never" since NumPy 2.
    def array(values: Any, copy: bool, dtype: Any) -> Any:
        return values.astype(dtype, copy=copy)

    backend = SimpleNamespace(get_array_module=lambda values: SimpleNamespace(array=array))
    rebind(module.unpack_params, chainer=SimpleNamespace(backend=backend))


@mends("chainermn.iterators.multi_node_iterator")
def _multi_node_iterator(module: Any) -> None:
    # NumPy deprecates int() of an array of one element that has an axis.
    rebind(module._MultiNodeIteratorSlave.__init__, int=lambda size: int(size.item()))
