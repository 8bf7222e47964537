"""Old names of what was renamed. They work for one version more, and warn."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["renamed_attribute", "renamed_names"]


def renamed_attribute(old: str, new: str) -> Any:
    """A property that reads the attribute or method ``new`` and warns about ``old``."""

    def read(self: Any) -> Any:
        _warn(f"{type(self).__name__}.{old}", new)
        return getattr(self, new)

    return property(read, doc=f"The old name of ``{new}``.")


def renamed_names(module: str, names: Mapping[str, str]) -> Callable[[str], Any]:
    """A ``__getattr__`` for a module: old names to new ones.

    Example:
        >>> import warnings
        >>> import chainrob.training
        >>> with warnings.catch_warnings(record=True) as caught:
        ...     warnings.simplefilter("always")
        ...     chainrob.training.WeightTally is chainrob.training.WeightAverages
        True
        >>> print(caught[0].message)
        chainrob.training.WeightTally is now called WeightAverages; the old name will be removed
        in the next version
    """

    def read(name: str) -> Any:
        if name in names:
            _warn(f"{module}.{name}", names[name])
            return getattr(sys.modules[module], names[name])
        raise AttributeError(f"module {module!r} has no attribute {name!r}")

    return read


def _warn(old: str, new: str) -> None:
    warnings.warn(
        f"{old} is now called {new}; the old name will be removed in the next version",
        DeprecationWarning,
        stacklevel=3,
    )
