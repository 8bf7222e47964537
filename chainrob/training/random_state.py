"""The states of random number generators as text, so that they fit into a snapshot."""

from __future__ import annotations

import random
from typing import Any

import numpy as np

Generator = np.random.Generator | np.random.RandomState

__all__ = ["Generator", "get_global_state", "get_state", "set_global_state", "set_state"]


def get_state(generator: Generator) -> Any:
    """The state of a NumPy generator, as values that JSON can hold."""
    if isinstance(generator, np.random.RandomState):
        return _plain(generator.get_state(legacy=False))
    return _plain(generator.bit_generator.state)


def set_state(generator: Generator, state: Any) -> None:
    """Put a generator of the same kind into a state of ``get_state``."""
    if isinstance(generator, np.random.RandomState):
        generator.set_state(state)
    else:
        generator.bit_generator.state = state


def get_global_state() -> Any:
    """The states of ``numpy.random`` and ``random``, which shuffling and dropout use."""
    return {
        "numpy": _plain(np.random.get_state(legacy=False)),  # noqa: NPY002
        "python": random.getstate(),
    }


def set_global_state(state: Any) -> None:
    """Go back to the states of ``get_global_state``."""
    np.random.set_state(state["numpy"])  # noqa: NPY002
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return value.tolist()
    return value.item() if isinstance(value, np.generic) else value
