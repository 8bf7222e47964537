"""What NumPy and CuPy have no fast form for, and the only place that asks which of the two an array
belongs to.

``fused(name, array)`` answers with a compiled coordinate-wise reduction of outer products, or with
None where there is none: the caller then reduces tile by tile in plain array code, which is the
definition that the kernel has to meet.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import chainer

__all__ = ["array_module", "is_array", "to_host"]


def array_module(*arrays: Any) -> ModuleType:
    """NumPy or CuPy, whichever the arrays belong to."""
    return chainer.backend.get_array_module(*arrays)


def is_array(value: Any) -> bool:
    """True for a NumPy or CuPy array (a Chainer variable or a list is none)."""
    return isinstance(value, (chainer.get_cpu_array_types(), chainer.get_array_types()))


def to_host(array: Any) -> Any:
    """The array as NumPy's; a device array is copied and the device waited for."""
    return chainer.backends.cuda.to_cpu(array)
