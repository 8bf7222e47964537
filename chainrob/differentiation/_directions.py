"""Random directions, the same on every device."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["DIRECTIONS", "as_generator", "check_directions", "draw_direction"]

DIRECTIONS = ("rademacher", "gaussian")


def check_directions(directions: str) -> str:
    """Return the name of a distribution of directions; raise ValueError for an unknown one."""
    if directions not in DIRECTIONS:
        raise ValueError(f"directions must be one of {DIRECTIONS}, found {directions!r}")
    return directions


def as_generator(seed: int | np.random.Generator | None) -> np.random.Generator:
    """A generator from a seed. A generator is returned unchanged, in its present state."""
    return np.random.default_rng(seed)


def draw_direction(
    generator: np.random.Generator, directions: str, shape: tuple[int, ...], dtype: Any
) -> np.ndarray:
    """One direction with independent entries of mean 0 and variance 1."""
    if directions == "rademacher":
        return (2 * generator.integers(0, 2, size=shape) - 1).astype(dtype)
    return generator.standard_normal(shape).astype(dtype)
