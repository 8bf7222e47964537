"""Influence and breakdown of robustifiers, as curves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike

from chainrob.characteristics import breakdown, influence
from chainrob.characteristics.sample import as_sample
from chainrob.plotting.style import axes_of, line_style

__all__ = ["breakdown_curve", "influence_curve"]

Robustifiers = (
    Mapping[str, Callable[[Any], Any]] | Sequence[Callable[[Any], Any]] | Callable[[Any], Any]
)


def influence_curve(
    robustifiers: Robustifiers,
    *,
    at: ArrayLike | None = None,
    sample: ArrayLike | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw how far one more sample at z moves the estimate (``characteristics.influence``).

    Args:
        robustifiers: One or several robustifiers, or a mapping from labels to them; any callables.
        at: The places z; None takes places from -10 to 10.
        sample: The other rows, (n, d); None is 50 normal scores.
        ax: Where to draw.

    Returns:
        matplotlib.axes.Axes: The axes, with one line per robustifier.

    Example:
        >>> import chainrob
        >>> from chainrob.plotting import influence_curve, new_figure
        >>> with new_figure(4, 3) as figure:
        ...     ax = influence_curve([chainrob.Mean(), chainrob.CoordinateMedian()],
        ...                          at=[-1.0, 0.0, 5.0], ax=figure.subplots())
        >>> [line.get_label() for line in ax.lines]
        ['Mean()', 'CoordinateMedian()']
    """
    z = np.linspace(-10, 10, 161) if at is None else np.asarray(at, np.float64)
    axes = axes_of(ax)
    for index, (label, robustifier) in enumerate(_labeled(robustifiers).items()):
        axes.plot(z, influence(robustifier, z, sample=sample), label=label, **line_style(index))
    axes.set(xlabel="z, where one more sample lies", ylabel="sensitivity curve")
    return axes


def breakdown_curve(
    robustifiers: Robustifiers,
    *,
    counts: ArrayLike | None = None,
    sample: ArrayLike | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw the largest displacement by share of bad samples (``characteristics.breakdown``).

    Args:
        robustifiers: One or several robustifiers, or a mapping from labels to them; any callables.
        counts: Numbers of bad rows; None takes all numbers up to half of the rows.
        sample: The rows, (n, d); None is 50 normal scores.
        ax: Where to draw.

    Returns:
        matplotlib.axes.Axes: The axes, with one line per robustifier and a logarithmic
            displacement.

    Example:
        >>> import chainrob
        >>> from chainrob.plotting import breakdown_curve, new_figure
        >>> with new_figure(4, 3) as figure:
        ...     ax = breakdown_curve(chainrob.Mean(), counts=[0, 1, 2], ax=figure.subplots())
        >>> ax.get_yscale()
        'log'
    """
    n = len(as_sample(sample))
    numbers = np.arange(n // 2 + 1) if counts is None else np.asarray(counts)
    axes = axes_of(ax)
    for index, (label, robustifier) in enumerate(_labeled(robustifiers).items()):
        moved = breakdown(robustifier, numbers, sample=sample)
        # A displacement of 0 cannot be drawn on a logarithmic axis.
        axes.plot(numbers / n, np.maximum(moved, 1e-2), label=label, **line_style(index))
    axes.set_yscale("log")
    axes.set(xlabel="share of bad samples", ylabel="largest displacement (0.01: none)")
    return axes


def _labeled(robustifiers: Robustifiers) -> dict[str, Callable[[Any], Any]]:
    if isinstance(robustifiers, Mapping):
        return dict(robustifiers)
    several = [robustifiers] if callable(robustifiers) else list(robustifiers)
    return {getattr(one, "__name__", None) or repr(one): one for one in several}
