"""Make Chainer 7.8.1 importable and right on today's Python, NumPy and CuPy."""

from __future__ import annotations

import builtins
import importlib
import importlib.abc
import importlib.machinery
import sys
import types
from collections.abc import Callable, Sequence
from typing import Any

import numpy

__all__ = ["install"]


class _StandIn(types.ModuleType):
    """A module that answers for another one, with some names of its own."""

    def __init__(self, module: types.ModuleType | None = None, /, **names: Any) -> None:
        super().__init__("chainrob_stand_in" if module is None else module.__name__)
        self.__dict__["_module"] = module
        self.__dict__.update(names)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_module"], name)


def _importing(**stand_ins: Any) -> dict[str, Any]:
    """Builtins under which ``import NAME`` yields ``stand_ins[NAME]``."""

    def substitute(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.partition(".")[0] in stand_ins:
            return stand_ins[name.partition(".")[0]]
        return builtins.__import__(name, *args, **kwargs)

    return {**vars(builtins), "__import__": substitute}


def _sctypes() -> dict[str, list[type]]:
    return {
        "int": [numpy.int8, numpy.int16, numpy.int32, numpy.int64],
        "float": [numpy.float16, numpy.float32, numpy.float64, numpy.longdouble],
    }


class _ResolutionError(Exception):
    pass


class _WorkingSet:
    def require(self, *requirements: str) -> None:
        raise _ResolutionError(", ".join(requirements))


_BEFORE: dict[str, Callable[[], dict[str, Any]]] = {
    "chainer._environment_check": lambda: _importing(
        numpy=None,
        pkg_resources=types.SimpleNamespace(
            require=_WorkingSet().require, DistributionNotFound=_ResolutionError
        ),
    ),
    "chainer.functions.array.as_strided": lambda: _importing(
        numpy=_StandIn(numpy, sctypes=_sctypes())
    ),
    "chainer.testing.helper": lambda: _importing(
        pkg_resources=types.SimpleNamespace(
            WorkingSet=_WorkingSet, ResolutionError=_ResolutionError
        )
    ),
    "chainer.testing.doctest_helper": lambda: _importing(
        pkg_resources=types.SimpleNamespace(
            WorkingSet=_WorkingSet, ResolutionError=_ResolutionError
        )
    ),
}


class _Loader(importlib.abc.Loader):
    def __init__(self, loader: Any, name: str) -> None:
        self._loader = loader
        self._name = name

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType | None:
        module: types.ModuleType | None = self._loader.create_module(spec)
        return module

    def exec_module(self, module: types.ModuleType) -> None:
        vars(module)["__builtins__"] = _BEFORE[self._name]()
        self._loader.exec_module(module)


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(
        self, name: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name not in _BEFORE:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, name)
        return spec


def install() -> None:
    """Import Chainer with what it misses."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
    importlib.import_module("chainer")
