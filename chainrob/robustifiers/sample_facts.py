"""What is known of a batch's samples beside their gradients: their groups, their losses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np

from chainrob.kernels import to_host
from chainrob.robustifiers.robustifier import Estimate, Robustifier
from chainrob.sample_gradients import SampleGradients
from chainrob.sample_gradients.operator_base import Array

FACTS = ("groups", "losses")

_known: ContextVar[dict[str, Any]] = ContextVar("chainrob.sample_facts", default={})  # noqa: B039


@contextmanager
def sample_facts(**facts: Any) -> Iterator[None]:
    """Tell the robustifiers inside what is known of the batch's samples beside their gradients.

    ``Grouped`` asks for ``groups``, ``MedianOfMeansMinimization`` for ``losses``. The facts hold in
    this thread until the block ends; an inner block adds to an outer one's.

    Args:
        facts: ``groups``, one key a sample (numbers or strings: the label, the sensor, the
            client), and ``losses``, one number a sample; each an array (N,) in the order of the
            batch, or a callable without arguments that gives it when it is asked for, inside the
            backward pass.

    Raises:
        TypeError: another name.

    Example:
        >>> import numpy as np, chainrob
        >>> rows = np.array([[1.0], [2.0], [9.0], [5.0], [7.0], [6.0]])
        >>> robust = chainrob.Grouped(chainrob.CoordinateMedian(), least=3)
        >>> with chainrob.sample_facts(groups=[0, 0, 0, 1, 1, 1]):
        ...     robust(rows)
        array([4.])
    """
    for name in facts:
        if name not in FACTS:
            raise TypeError(f"sample_facts: facts are {', '.join(FACTS)}, found {name!r}")
    token = _known.set({**_known.get(), **facts})
    try:
        yield
    finally:
        _known.reset(token)


def fact(owner: Robustifier, name: str, n_samples: int) -> np.ndarray:
    """The fact ``name`` of the batch's samples, (N,), on the host.

    Raises:
        ValueError: nobody told it, or it is not one a sample.
    """
    known = _known.get()
    if name not in known:
        raise ValueError(
            f"{owner!r} needs the samples' {name}: run the backward pass inside "
            f"'with chainrob.sample_facts({name}=...):'"
        )
    value = known[name]
    values = np.asarray(to_host(value() if callable(value) else value))
    if values.shape != (n_samples,):
        raise ValueError(
            f"sample_facts: {name} must hold one value a sample, shape ({n_samples},), found shape "
            f"{values.shape}"
        )
    return values


class AsksForFacts(Robustifier):
    """Base of the robustifiers that ask for facts: rows that are dropped take theirs along."""

    def _from_finite(self, gradients: SampleGradients, finite: Array, watch: bool) -> Estimate:
        rows = np.asarray(to_host(finite)).reshape(-1, gradients.n_samples)
        if not (rows == rows[:1]).all():  # then it comes back, replica by replica
            return super()._from_finite(gradients, finite, watch)
        kept = rows[0]
        narrowed: dict[str, Callable[[], Any]] = {
            name: _narrowed(self, name, kept) for name in _known.get()
        }
        with sample_facts(**narrowed):
            return super()._from_finite(gradients, finite, watch)


def _narrowed(owner: Robustifier, name: str, kept: np.ndarray) -> Callable[[], Any]:
    known = _known.get()

    def look() -> np.ndarray:
        token = _known.set(known)
        try:
            return fact(owner, name, len(kept))[kept]
        finally:
            _known.reset(token)

    return look
