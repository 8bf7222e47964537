"""Make Chainer 7.8.1 importable, and right, on today's Python, NumPy and CuPy.

This module is the only place that knows what Chainer misses. Nothing is changed outside Chainer's
own modules, NumPy least of all: a finder at the head of ``sys.meta_path`` lets a few of Chainer's
modules see a stand-in where they import something that is gone, and mends a few of their functions
right after they are executed. So what is imported late (``chainer.testing``, ``chainermn``) is
mended late, and costs nothing before.

Two devices do the work.

- *Stand-ins.* A module is executed under builtins of its own, in which ``import NAME`` yields what
  it needs (`_importing`). ``numpy`` and ``sys.modules`` do not change, not even for a moment.
- *Rebinding.* A global name that one function reads is bound to something else by renaming it in
  the function's code (`_rebind`). The function stays the same object, so whatever re-exported or
  registered it sees the mend, and a Chainer imported before this package is mended in place.

Worker processes that start anew (spawn, forkserver) import this module before they unpickle
anything of Chainer's (`_ImportInChild`).
"""

from __future__ import annotations

import builtins
import functools
import importlib
import multiprocessing.process
import sys
import threading
import types
from collections.abc import Callable, Mapping, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy

__all__ = ["CHAINER_VERSION", "install"]

CHAINER_VERSION = "7.8.1"

Mend = Callable[[Any], None]

# What modules of Chainer see instead of a module they import; how they are mended once executed.
_STAND_INS: dict[str, dict[str, object]] = {}
_MENDS: dict[str, Mend] = {}


def install() -> None:
    """Import Chainer, mended; mend it in place where it was imported before.

    Raises:
        ImportError: Chainer is missing, or is not the version that is mended here.
    """
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
    if "chainer" not in sys.modules:
        # What a failed `import chainer` left behind counts as loaded, and nothing would make it an
        # attribute of the new package.
        for name in [name for name in sys.modules if name.startswith("chainer.")]:
            del sys.modules[name]
    chainer = importlib.import_module("chainer")
    if not chainer.__version__.startswith(CHAINER_VERSION):
        raise ImportError(
            f"chainrob needs Chainer {CHAINER_VERSION}, whose faults on today's NumPy it mends; "
            f"found Chainer {chainer.__version__}"
        )
    for name in _MENDS:
        if name in sys.modules:
            _mend(sys.modules[name])
    multiprocessing.process.current_process()._config.setdefault(  # type: ignore[attr-defined]
        __name__, _ImportInChild()
    )


# The finder -------------------------------------------------------------------


class _Finder:
    """Hands the modules that need a stand-in or a mend to `_Loader`."""

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name not in _STAND_INS and name not in _MENDS:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)  # type: ignore[assignment]
        return spec


class _Loader:
    """A module's own loader, with stand-ins before it and a mend after it."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def exec_module(self, module: ModuleType) -> None:
        stand_ins = _STAND_INS.get(module.__name__)
        if stand_ins is not None:
            vars(module)["__builtins__"] = _importing(stand_ins)
        self._loader.exec_module(module)
        vars(module).pop("_chainrob_mended", None)  # left from before a reload
        _mend(module)


def _importing(stand_ins: Mapping[str, object]) -> dict[str, Any]:
    """Builtins under which ``import NAME`` yields ``stand_ins[NAME]``."""

    def substitute(name: str, *args: Any, **kwargs: Any) -> object:
        top = name.partition(".")[0]
        return stand_ins[top] if top in stand_ins else builtins.__import__(name, *args, **kwargs)

    return {**vars(builtins), "__import__": substitute}


def _mend(module: ModuleType) -> None:
    """Apply the mend of a module once."""
    if module.__name__ in _MENDS and not vars(module).get("_chainrob_mended", False):
        vars(module)["_chainrob_mended"] = True
        _MENDS[module.__name__](module)


def _mends(name: str) -> Callable[[Mend], Mend]:
    """Register what is done to the module ``name`` right after it is executed."""

    def register(mend: Mend) -> Mend:
        _MENDS[name] = mend
        return mend

    return register


def _rebind(function: types.FunctionType, **bindings: object) -> None:
    """Bind global names that one function reads to something else, for that function alone.

    The name is replaced throughout the function's code, attributes included, so it must not be
    used as both. The other functions of the module go on seeing the module's globals.
    """
    own = {name: f"_chainrob_{function.__name__}_{name}" for name in bindings}
    _rename(function, **own)
    function.__globals__.update((own[name], value) for name, value in bindings.items())


def _rename(function: types.FunctionType, **names: str) -> None:
    """Replace names of globals and attributes in a function's code, in place."""
    code = function.__code__
    for name in names:
        if name not in code.co_names:
            raise ImportError(
                f"{function.__module__}.{function.__qualname__} does not read {name!r}: "
                f"it is not Chainer {CHAINER_VERSION}'s, which chainrob mends"
            )
    function.__code__ = code.replace(co_names=tuple(names.get(n, n) for n in code.co_names))


class _StandIn(ModuleType):
    """Answers for a module, with some names of its own."""

    def __init__(self, module: Any, **names: object) -> None:
        super().__init__(module.__name__)
        vars(self).update(names, _module=module)

    def __getattr__(self, name: str) -> Any:
        return getattr(vars(self)["_module"], name)


# What Chainer misses at import ------------------------------------------------

# NumPy 2 dropped sctypes. Chainer looks up the integer of a size, and whether a type is a float.
_STAND_INS["chainer.functions.array.as_strided"] = {
    "numpy": _StandIn(
        numpy,
        sctypes={
            "int": [numpy.int8, numpy.int16, numpy.int32, numpy.int64],
            "float": [numpy.float16, numpy.float32, numpy.float64, numpy.longdouble],
        },
    )
}

# It looks for a faulty BLAS of old macOS through numpy.distutils, and for old versions of CuPy and
# iDeep through pkg_resources. Both modules are gone, and there is nothing left to check.
_STAND_INS["chainer._environment_check"] = {"numpy": None, "pkg_resources": None}


@_mends("chainer._environment_check")
def _environment_check(module: Any) -> None:
    module.check = lambda: None


class _ResolutionError(Exception):
    """A requirement is not met."""


class _WorkingSet:
    """The part of pkg_resources.WorkingSet that ``chainer.testing`` uses."""

    @staticmethod
    def require(*requirements: str) -> None:
        from importlib.metadata import PackageNotFoundError, version

        from packaging.requirements import Requirement

        for requirement in map(Requirement, requirements):
            if requirement.marker is not None and not requirement.marker.evaluate():
                continue
            try:
                found = version(requirement.name)
            except PackageNotFoundError:
                raise _ResolutionError(str(requirement)) from None
            if not requirement.specifier.contains(found, prereleases=True):
                raise _ResolutionError(f"{requirement}: found {found}")


for _name in ("chainer.testing.helper", "chainer.testing.doctest_helper"):
    _STAND_INS[_name] = {
        "pkg_resources": SimpleNamespace(WorkingSet=_WorkingSet, ResolutionError=_ResolutionError)
    }


# What is wrong when it is called ----------------------------------------------


@_mends("chainer.functions.array.resize_images")
def _resize_images(module: Any) -> None:
    # numpy.float was Python's float. A stand-in for the module's numpy would not do: its functions
    # ask `xp is numpy` to tell the CPU from the GPU.
    _rename(module.compute_indices_and_weights, float="float64")


@_mends("chainer.functions.array.pad_sequence")
def _pad_sequence(module: Any) -> None:
    forward = module.PadSequence.forward

    @functools.wraps(forward)
    def cast_padding_first(self: Any, xs: tuple[Any, ...]) -> Any:
        # NumPy 2 refuses to write -1 into an unsigned array; before it became the largest number.
        if isinstance(self.padding, (int, float)) and xs[0].dtype.kind in "iu":
            self.padding = numpy.asarray(self.padding).astype(xs[0].dtype)[()]
        return forward(self, xs)

    module.PadSequence.forward = cast_padding_first


@_mends("chainer.functions.math.sparse_matmul")
def _sparse_matmul(module: Any) -> None:
    product = module._coo_matmul_cpu

    def single(array: Any) -> Any:
        return array.astype(numpy.float32) if array.dtype == numpy.float16 else array

    @functools.wraps(product)
    def without_half(A_data: Any, A_row: Any, A_col: Any, A_shape: Any, B: Any, dtype: Any) -> Any:
        # SciPy has no sparse matrix of float16; the product is rounded to `dtype` at its end.
        return product(single(A_data), A_row, A_col, A_shape, single(B), dtype)

    module._coo_matmul_cpu = without_half


@_mends("chainer.functions.math.fix")
def _fix(module: Any) -> None:
    # NumPy deprecates fix, whose other name is trunc; CuPy has both.
    _rename(module.fix, fix="trunc")


@_mends("chainer.distributions.categorical")
def _categorical(module: Any) -> None:
    # meshgrid gives a tuple since NumPy 2, and log_prob adds a list to it.
    def meshgrid(*args: Any, **kwargs: Any) -> list[Any]:
        return list(numpy.meshgrid(*args, **kwargs))

    _rebind(module.Categorical.log_prob, numpy=_StandIn(numpy, meshgrid=meshgrid))


@_mends("chainer.dataset.convert")
def _convert(module: Any) -> None:
    # NumPy deprecates the third argument of maximum unless it is called `out`.
    def maximum(a: Any, b: Any, out: Any) -> Any:
        return numpy.maximum(a, b, out=out)

    _rebind(module._concat_arrays_with_padding, numpy=_StandIn(numpy, maximum=maximum))


@_mends("chainer.serializers.hdf5")
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


# Worker processes -------------------------------------------------------------


class _ImportInChild:
    """Makes a process that starts anew import this module before anything of Chainer's.

    A child under spawn or forkserver unpickles its process object, and with it a dataset, say,
    whose class imports Chainer. Without stand-ins that fails, and a pool starts children for ever
    in place of those that failed. But every process object carries the ``_config`` of the process
    that made it, ahead of its target and arguments: an instance of this class rides there, and to
    unpickle it is to import this module. Grandchildren inherit it.
    """

    def __reduce__(self) -> tuple[type[_ImportInChild], tuple[()]]:
        return _ImportInChild, ()


@_mends("chainer.iterators.multiprocess_iterator")
def _multiprocess_iterator(module: Any) -> None:
    class Thread(threading.Thread):
        def setDaemon(self, daemonic: bool) -> None:
            self.daemon = daemonic

    launch = module._PrefetchLoop.launch_thread
    _rebind(launch, threading=_StandIn(threading, Thread=Thread))

    @functools.wraps(launch)
    def rehearse_first(self: Any) -> Any:
        # A pool replaces workers that fail to start, for ever. One worker ahead of it tells.
        if multiprocessing.get_start_method() != "fork":
            arguments = (self.dataset, self.mem_size, self.mem_bulk)
            _rehearse(module._fetch_setup, arguments)
        return launch(self)

    module._PrefetchLoop.launch_thread = rehearse_first


def _rehearse(initializer: Callable[..., object], arguments: tuple[object, ...]) -> None:
    worker = multiprocessing.Process(target=initializer, args=arguments, daemon=True)
    worker.start()
    worker.join()
    if worker.exitcode != 0:
        raise RuntimeError(
            f"the workers of MultiprocessIterator cannot start: one ended with exit code "
            f"{worker.exitcode} (its traceback is above; start method "
            f"{multiprocessing.get_start_method()!r}). A worker imports the main module anew and "
            f"unpickles the dataset: what the main module does must stand under "
            f"`if __name__ == '__main__':`, and the class of the dataset must be importable"
        )


# CuPy and ChainerMN -----------------------------------------------------------


@_mends("chainer.backends.cuda")
def _cuda(module: Any) -> None:
    # CuPy 14 has no cuDNN, so Chainer's advice to install it helps nobody. Chainer does without.
    if module.available and module._cupy_major >= 14:
        module.check_cuda_available._already_warned = True


@_mends("chainer.training.updaters.multiprocess_parallel_updater")
def _multiprocess_parallel_updater(module: Any) -> None:
    # CuPy 14 no longer declares float16 in every kernel.
    def elementwise(*args: Any, **kwargs: Any) -> Any:
        return module.cuda.elementwise(*args, preamble="#include <cupy/float16.cuh>", **kwargs)

    cuda = SimpleNamespace(elementwise=elementwise)
    _rebind(module._memcpy_gather, cuda=cuda)
    _rebind(module._memcpy_scatter, cuda=cuda)


@_mends("chainermn.communicators._memory_utility")
def _memory_utility(module: Any) -> None:
    # CuPy 14 no longer declares half in every kernel.
    def raw(source: str, *args: Any, **kwargs: Any) -> Any:
        return module.chainer.cuda.raw("#include <cuda_fp16.h>\n" + source, *args, **kwargs)

    chainer = SimpleNamespace(cuda=SimpleNamespace(raw=raw))
    _rebind(module._cupy_batched_pack_params, chainer=chainer)
    _rebind(module._cupy_batched_unpack_params, chainer=chainer)

    # copy=False used to mean "copy if needed", and means "never" since NumPy 2.
    def array(values: Any, copy: bool, dtype: Any) -> Any:
        return values.astype(dtype, copy=copy)

    backend = SimpleNamespace(get_array_module=lambda values: SimpleNamespace(array=array))
    _rebind(module.unpack_params, chainer=SimpleNamespace(backend=backend))


@_mends("chainermn.iterators.multi_node_iterator")
def _multi_node_iterator(module: Any) -> None:
    # NumPy deprecates int() of an array of one element that has an axis.
    _rebind(module._MultiNodeIteratorSlave.__init__, int=lambda size: int(size.item()))


install()
