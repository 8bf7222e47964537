"""How modules of Chainer are given what they miss, and mended, without changing anything else.

Two devices do the work.

- *Stand-ins.* A module is executed under builtins of its own, in which ``import NAME`` yields what
  it needs (`_importing`). ``numpy`` and ``sys.modules`` do not change, not even for a moment.
- *Rebinding.* A global name that one function reads is bound to something else by renaming it in
  the function's code (`rebind`). The function stays the same object, so whatever re-exported or
  registered it sees the mend, and a Chainer imported before this package is mended in place.
"""

from __future__ import annotations

import builtins
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

CHAINER_VERSION = "7.8.1"

Mend = Callable[[Any], None]

# What modules of Chainer see instead of a module they import; how they are mended once executed.
STAND_INS: dict[str, dict[str, object]] = {}
MENDS: dict[str, Mend] = {}


def install_finder() -> None:
    """Put the finder ahead of all others, once."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def mend_loaded() -> None:
    """Mend in place what was imported before the finder was there."""
    for name in MENDS:
        if name in sys.modules:
            _mend(sys.modules[name])


class _Finder:
    """Hands the modules that need a stand-in or a mend to `_Loader`."""

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name not in STAND_INS and name not in MENDS:
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
        if name == "_loader":  # of a copy that has none yet
            raise AttributeError(name)
        return getattr(self._loader, name)

    def exec_module(self, module: ModuleType) -> None:
        stand_ins = STAND_INS.get(module.__name__)
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
    if module.__name__ in MENDS and not vars(module).get("_chainrob_mended", False):
        vars(module)["_chainrob_mended"] = True
        MENDS[module.__name__](module)


def mends(name: str) -> Callable[[Mend], Mend]:
    """Register what is done to the module ``name`` right after it is executed."""

    def register(mend: Mend) -> Mend:
        MENDS[name] = mend
        return mend

    return register


def rebind(function: types.FunctionType, **bindings: object) -> None:
    """Bind global names that one function reads to something else, for that function alone.

    The name is replaced throughout the function's code, attributes included, so it must not be
    used as both. The other functions of the module go on seeing the module's globals.
    """
    own = {name: f"_chainrob_{function.__name__}_{name}" for name in bindings}
    rename(function, **own)
    function.__globals__.update((own[name], value) for name, value in bindings.items())


def rename(function: types.FunctionType, **names: str) -> None:
    """Replace names of globals and attributes in a function's code, in place."""
    code = function.__code__
    for name in names:
        if name not in code.co_names:
            raise ImportError(
                f"{function.__module__}.{function.__qualname__} does not read {name!r}: "
                f"it is not Chainer {CHAINER_VERSION}'s, which chainrob mends"
            )
    function.__code__ = code.replace(co_names=tuple(names.get(n, n) for n in code.co_names))


class StandIn(ModuleType):
    """Answers for a module, with some names of its own."""

    def __init__(self, module: Any, **names: object) -> None:
        super().__init__(module.__name__)
        vars(self).update(names, _module=module)

    def __getattr__(self, name: str) -> Any:
        return getattr(vars(self)["_module"], name)
