"""What an iteration on a device has to say about its end, asked for late.

Reading a number from a device waits for everything that was queued before it. So an estimate leaves
its verdict on the device, where it joins those of the calls before, and the host looks at it once
in ``EVERY`` calls, or when ``check_convergence`` asks.
"""

from __future__ import annotations

import warnings
from threading import Lock
from typing import Any

from chainrob.kernels import array_module
from chainrob.robustifiers.errors import ConvergenceWarning

Array = Any

EVERY = 100
"""Calls of one robustifier between two looks at what its iterations left on the device."""

_lock = Lock()
_pending: dict[Any, tuple[int, Array]] = {}


def report(robustifier: Any, unconverged: Array) -> None:
    """Note the end of one estimate: a device array (), not 0 where an iteration was given up."""
    key = robustifier, _device(unconverged)
    with _lock:
        count, before = _pending.pop(key, (0, None))
        if before is not None:
            unconverged = array_module(unconverged).maximum(before, unconverged)
        if count + 1 < EVERY:
            _pending[key] = count + 1, unconverged
            return
    _look(robustifier, count + 1, unconverged)


def check_convergence() -> None:
    """Look now at all iterations that ran on devices since the last look, which waits for them.

    Warns:
        ConvergenceWarning: some of a robustifier's estimates stopped before they met its tolerance.

    Example:
        >>> from chainrob.robustifiers.convergence import check_convergence
        >>> check_convergence()
    """
    with _lock:
        pending = dict(_pending)
        _pending.clear()
    for (robustifier, _), (count, unconverged) in pending.items():
        _look(robustifier, count, unconverged)


def _look(robustifier: Any, count: int, unconverged: Array) -> None:
    if int(unconverged):
        warnings.warn(
            f"{robustifier!r} did not converge in at least one of its last {count} estimates on a "
            f"device; raise max_iterations or tolerance",
            ConvergenceWarning,
            stacklevel=3,
        )


def _device(array: Array) -> int:
    return int(array.device.id)
