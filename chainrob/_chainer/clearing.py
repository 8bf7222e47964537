"""Clearing a parameter's gradient can be listened to."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from chainrob._chainer.mending import mends

LISTENERS: list[Callable[[Any], None]] = []
"""Called with each parameter whose gradient was cleared."""


@mends("chainer.variable")
def _variable(module: Any) -> None:
    # What RobustGradient records is a part of the gradient and must live exactly as long, or an
    # iteration that was never updated would leak into the next one. Link.cleargrads of a whole
    # model calls no method of the links below it, so this is the one place that sees every
    # clearing.
    for name in ("cleargrad", "zerograd"):
        setattr(module.Parameter, name, _heard(getattr(module.Parameter, name)))


def _heard(method: Callable[[Any], None]) -> Callable[[Any], None]:
    @functools.wraps(method)
    def clear(parameter: Any) -> None:
        method(parameter)
        for listener in LISTENERS:
            listener(parameter)

    return clear
