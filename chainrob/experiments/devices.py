"""The device of a run, or a message about what is missing."""

from __future__ import annotations

import re
from typing import Any

import chainer
from chainrob.experiments.usage import UsageError

__all__ = ["get_device"]


def get_device(name: str) -> Any:
    """The Chainer device of that name, checked.

    Args:
        name: ``'@numpy'`` or ``'@cupy:0'``, ``'@cupy:1'``, ...

    Returns:
        chainer.backend.Device: The device.

    Raises:
        UsageError: There is no such device. The message says what is missing and how to install it.

    Example:
        >>> from chainrob.experiments.devices import get_device
        >>> get_device("@numpy").name
        '@numpy'
    """
    if name == "@numpy":
        return chainer.get_device(name)
    match = re.fullmatch(r"@cupy:(\d+)", name)
    if match is None:
        raise UsageError(f"--device must be @numpy or @cupy:N with N = 0, 1, ...; found {name!r}")
    try:
        import cupy
    except ImportError as error:
        raise UsageError(
            f"--device {name} needs CuPy ({error}): install it with "
            "pip install 'chainrob[cuda13]' (or [cuda12] for a driver of CUDA 12)"
        ) from error
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except Exception as error:  # the driver is missing or too old: CuPy's own type is private
        raise UsageError(
            f"--device {name}: CuPy is installed but finds no GPU ({error}); an NVIDIA GPU with "
            "its driver is needed, check it with nvidia-smi"
        ) from error
    if int(match[1]) >= count:
        raise UsageError(f"--device {name}: there are {count} GPUs, numbered from 0")
    if not chainer.backends.cuda.available:
        raise UsageError(
            f"--device {name}: CuPy finds a GPU but not all of its CUDA libraries; install them "
            "with pip install 'chainrob[cuda13]' (or [cuda12])"
        )
    return chainer.get_device(name)
