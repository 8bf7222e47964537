"""A strict stand-in for CuPy on a machine without a device.

Its arrays hold NumPy arrays, and refuse what would make the host wait for a device: conversion to
Python numbers and NumPy arrays, ``if``, masks and indices whose number nobody knows. They take part
with arrays of their own kind and scalars only, and have the methods and keywords that CuPy's have.
Kernels run as the C++ that they also are. So a test that passes here has looked at which calls are
made, not at how a device makes them.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
import types
from typing import Any

import numpy as np

from tests.kernels.host_kernels import emulated, library


class HostTransfer(AssertionError):
    """Something waited for the device."""


class _Count:
    def __init__(self, allowed: int) -> None:
        self.allowed = allowed
        self.transfers = 0


_counts = [_Count(0)]


@contextlib.contextmanager
def transfers(limit: int):
    """Allow so many transfers inside; the context's value counts those that are made."""
    _counts.append(_Count(limit))
    try:
        yield _counts[-1]
    finally:
        _counts.pop()


def _transfer(what: str) -> None:
    count = _counts[-1]
    count.transfers += 1
    if count.transfers > count.allowed:
        raise HostTransfer(f"{what} waits for the device ({count.transfers} transfers)")


SCALARS = (bool, int, float, np.generic)


def unwrap(value: Any) -> Any:
    if isinstance(value, ndarray):
        return value._held
    if isinstance(value, np.ndarray):
        raise TypeError("Unsupported type <class 'numpy.ndarray'>")
    if isinstance(value, tuple | list):
        return type(value)(unwrap(one) for one in value)
    return value


def wrap(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return ndarray(np.asarray(value))
    if isinstance(value, tuple | list):
        return tuple(wrap(one) for one in value)
    return value


def _refuse(name: str):
    def method(self, *args, **kwargs):
        _transfer(name)
        return getattr(self._held, name)(*args, **kwargs)

    return method


def _operator(name: str):
    def method(self, *args):
        for other in args:
            if not isinstance(other, (ndarray, *SCALARS)):
                return NotImplemented
        found = getattr(self._held, name)(*(unwrap(one) for one in args))
        return self if name.startswith("__i") and name != "__invert__" else wrap(found)

    return method


def _method(name: str, allowed: str):
    keywords = set(allowed.split())

    def method(self, *args, **kwargs):
        unknown = set(kwargs) - keywords
        if unknown:
            raise TypeError(f"ndarray.{name} of CuPy has no keyword {sorted(unknown)}")
        kwargs = {key: unwrap(value) for key, value in kwargs.items()}
        return wrap(getattr(self._held, name)(*(unwrap(one) for one in args), **kwargs))

    return method


class _Device:
    id = 0
    attributes = types.MappingProxyType(
        {"MultiProcessorCount": 132, "MaxSharedMemoryPerBlockOptin": 232448}
    )

    def __init__(self, device: int = 0) -> None:
        pass

    def __enter__(self):
        return self

    def __exit__(self, *args):
        pass

    def use(self):
        pass

    def __eq__(self, other):
        return isinstance(other, _Device)

    def __hash__(self):
        return 0


class ndarray:
    """The array type."""

    __array_priority__ = 100
    device = _Device()

    def __init__(self, held: np.ndarray) -> None:
        self._held = held

    shape = property(lambda self: self._held.shape)
    ndim = property(lambda self: self._held.ndim)
    size = property(lambda self: self._held.size)
    dtype = property(lambda self: self._held.dtype)
    itemsize = property(lambda self: self._held.itemsize)
    nbytes = property(lambda self: self._held.nbytes)
    strides = property(lambda self: self._held.strides)
    flags = property(lambda self: self._held.flags)
    T = property(lambda self: wrap(self._held.T))

    def __len__(self):
        return len(self._held)

    def __repr__(self):
        return f"fake {self._held!r}"

    def __iter__(self):
        return (wrap(self._held[i]) for i in range(len(self._held)))

    def __getitem__(self, index):
        parts = index if isinstance(index, tuple) else (index,)
        if any(isinstance(one, ndarray) and one.dtype == bool for one in parts):
            _transfer("an index by a mask")
        return wrap(self._held[unwrap(index)])

    def __setitem__(self, index, value):
        self._held[unwrap(index)] = unwrap(value)

    def __array_ufunc__(self, ufunc, method, *inputs, **kwargs):
        if method != "__call__" or kwargs:
            return NotImplemented
        return wrap(ufunc(*(unwrap(one) for one in inputs)))

    def __array_function__(self, function, kinds, args, kwargs):
        raise TypeError(f"numpy.{function.__name__} was called on an array of the device")

    def get(self, *args, **kwargs):
        _transfer("get")
        return self._held.copy()

    def __array__(self, *args, **kwargs):
        raise TypeError("Implicit conversion to a NumPy array is not allowed")

    def __deepcopy__(self, memo):
        return ndarray(self._held.copy())


for _name in ("__float__", "__int__", "__bool__", "__index__", "item", "tolist", "nonzero"):
    setattr(ndarray, _name, _refuse(_name))
for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and", "or"):
    for _form in ("__%s__", "__r%s__", "__i%s__"):
        setattr(ndarray, _form % _name, _operator(_form % _name))
for _name in ("neg", "pos", "abs", "invert", "lt", "le", "gt", "ge", "eq", "ne", "xor"):
    setattr(ndarray, f"__{_name}__", _operator(f"__{_name}__"))
ndarray.__hash__ = None
for _name, _keywords in {
    "sum": "axis dtype out keepdims",
    "prod": "axis dtype out keepdims",
    "mean": "axis dtype out keepdims",
    "var": "axis dtype out ddof keepdims",
    "max": "axis out keepdims",
    "min": "axis out keepdims",
    "all": "axis out keepdims",
    "any": "axis out keepdims",
    "argmax": "axis out dtype keepdims",
    "argmin": "axis out dtype keepdims",
    "argsort": "axis",
    "cumsum": "axis dtype out",
    "astype": "order casting subok copy",
    "reshape": "order",
    "ravel": "order",
    "swapaxes": "",
    "transpose": "",
    "squeeze": "axis",
    "copy": "order",
    "fill": "",
    "take": "axis out",
    "dot": "out",
    "clip": "min max out",
    "diagonal": "offset axis1 axis2",
    "view": "",
    "conj": "",
}.items():
    setattr(ndarray, _name, _method(_name, _keywords))

UPLOADS = ("asarray", "array", "ascontiguousarray")
WAITING = ("nonzero", "flatnonzero", "argwhere", "unique", "extract", "compress", "array_equal")
UFUNC_METHODS = {"add": ("reduceat", "at"), "maximum": ("at",), "minimum": ("at",)}
"""Those that CuPy has and the library uses."""
MISSING = ("nanquantile", "block", "vecdot", "errstate", "float_power", "from_dlpack")
LIMITED = {"max": "axis out keepdims", "min": "axis out keepdims", "sum": "axis dtype out keepdims"}


def _function(name: str, function: Any):
    def call(*args, **kwargs):
        if name in WAITING or (name == "where" and len(args) == 1):
            _transfer(f"cupy.{name}")
        unknown = set(kwargs) - set(LIMITED[name].split()) if name in LIMITED else set()
        if unknown:
            raise TypeError(f"cupy.{name} has no keyword {sorted(unknown)}")
        if name in UPLOADS:
            args = tuple(
                one._held if isinstance(one, ndarray) else one for one in args
            )  # a copy to the device is no wait for it
            args = tuple([unwrap(o) for o in one] if isinstance(one, list) else one for one in args)
        else:
            args = tuple(unwrap(one) for one in args)
        kwargs = {key: unwrap(value) for key, value in kwargs.items()}
        return wrap(function(*args, **kwargs))

    for method in UFUNC_METHODS.get(name, ()):
        setattr(call, method, _function(f"{name}.{method}", getattr(function, method)))
    return call


class Emulation:
    """How kernels run: as plain C++, or thread by thread with their barriers."""

    on = False
    backwards = False


def _code(argument: Any) -> str:
    """The type of a kernel's argument, as cuda_on_host.hpp writes it."""
    if isinstance(argument, ndarray):
        return f"P{argument.dtype.kind}{argument.itemsize}"
    assert isinstance(argument, np.generic), "Python numbers have a width of CuPy's choice"
    return f"{argument.dtype.kind}{argument.itemsize}"


class RawKernel:
    def __init__(self, code: str, name: str, options: tuple = ()) -> None:
        if Emulation.on:
            found = emulated(code, *options)
            self.function = getattr(found, f"launch_{name}")
            signature = getattr(found, f"signature_{name}")
            signature.restype = ctypes.c_char_p
            self.codes = signature().decode().split()
        else:
            self.function = getattr(library(code), name)
        self.max_dynamic_shared_size_bytes = 48 << 10
        self.code, self.name = code, name

    @property
    def kernel(self):
        return self

    def __call__(self, grid, block, args, shared_mem=0, enable_cooperative_groups=False):
        assert max(len(grid), len(block)) <= 3
        assert np.prod(block) <= 1024
        assert shared_mem <= self.max_dynamic_shared_size_bytes <= 232448
        assert all(isinstance(one, int) and one >= 1 for one in (*grid, *block))
        assert max(*grid[1:], 1) <= 65535, "only the first axis of a grid has room for more"
        if Emulation.on:
            # A device reads each argument with the kernel's own type, whatever was handed over.
            given = [_code(one) for one in args]
            assert len(given) == len(self.codes), "a wrong number of arguments"
            for number, (one, code) in enumerate(zip(given, self.codes, strict=True)):
                assert one == code or (one, code[0]) == ("u8", "P"), f"argument {number}: {one}"
        found = []
        for one in args:
            if isinstance(one, ndarray):
                assert one.flags.c_contiguous, "a kernel takes the array's memory as it lies"
                found.append(ctypes.c_void_p(one._held.ctypes.data))
            else:
                found.append(np.ctypeslib.as_ctypes_type(type(one))(one.item()))
        if Emulation.on:
            dims = [*(*grid, 1, 1)[:3], *(*block, 1)[:2], shared_mem]
            dims += [int(enable_cooperative_groups), int(Emulation.backwards)]
            pointers = [ctypes.cast(ctypes.pointer(one), ctypes.c_void_p) for one in found]
            status = self.function(
                (ctypes.c_int * 8)(*dims), (ctypes.c_void_p * len(found))(*pointers)
            )
            assert status == 0, "threads wait at different barriers"
            return
        replicas = grid[2] if len(grid) == 3 else grid[0]
        self.function(*found, ctypes.c_int(replicas))


class RawModule:
    def __init__(self, *, code: str, options: tuple = (), backend: str = "nvrtc") -> None:
        self.code, self.options = code, options
        assert set(options) <= {"-std=c++17", "-DWIDE"}

    def get_function(self, name: str) -> RawKernel:
        return RawKernel(self.code, name, self.options)


def _forward(module: types.ModuleType, source: Any) -> None:
    def lookup(name: str) -> Any:
        if name in MISSING or name.startswith("__"):
            raise AttributeError(f"CuPy has no {name}")
        found = getattr(source, name)
        if isinstance(found, type) or not callable(found):
            return found
        return _function(name, found)

    module.__getattr__ = lookup  # type: ignore[method-assign]


def make() -> types.ModuleType:
    """The module ``cupy``."""
    module = types.ModuleType("cupy")
    module.__dict__.update(
        ndarray=ndarray, RawModule=RawModule, RawKernel=RawKernel, bool_=np.bool_, pi=np.pi
    )
    _forward(module, np)
    module.linalg = types.ModuleType("cupy.linalg")
    _forward(module.linalg, np.linalg)
    tricks = types.SimpleNamespace()
    tricks.as_strided = _function("as_strided", np.lib.stride_tricks.as_strided)
    module.lib = types.SimpleNamespace(stride_tricks=tricks)
    module.cuda = types.ModuleType("cupy.cuda")
    module.cuda.Device = _Device
    return module


def asarray(array: np.ndarray) -> ndarray:
    return ndarray(np.array(array))


def held(value: Any) -> Any:
    """What a test compares: the NumPy arrays inside."""
    if isinstance(value, tuple | list):
        return type(value)(held(one) for one in value)
    return value._held


@contextlib.contextmanager
def installed():
    """Put the stand-in where chainrob looks for CuPy."""
    from chainrob.kernels.gpu import loading, weiszfeld

    module = make()
    before = sys.modules.get("cupy")
    caches = (loading.kernel, loading._module, weiszfeld._limits)
    for cached in caches:
        cached.cache_clear()
    try:
        sys.modules["cupy"] = module
        yield module
    finally:
        if before is None:
            sys.modules.pop("cupy", None)
        else:
            sys.modules["cupy"] = before
        for cached in caches:
            cached.cache_clear()
