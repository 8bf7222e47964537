"""Robustifiers by name, for command lines and configuration files, and with sensible defaults."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from functools import reduce
from math import ceil
from typing import Any

from chainrob.robustifiers.grammar import Step, read_steps
from chainrob.robustifiers.pre_aggregation import PreAggregation
from chainrob.robustifiers.robustifier import Policy, Robustifier

Entry = Robustifier | PreAggregation

_REGISTRY: dict[str, type[Any]] = {}


def register(*classes: type[Any]) -> None:
    """Make classes available by their name in snake case (``TrimmedMean`` as ``trimmed_mean``)."""
    for cls in classes:
        _REGISTRY[_snake(cls.__name__)] = cls


def names() -> list[str]:
    """The names that ``get`` knows, sorted: robustifiers and pre-aggregations."""
    return sorted(_REGISTRY)


def get(name: str, **parameters: Any) -> Any:
    """A robustifier by name.

    Args:
        name: class name in snake case (see ``names()``) or as it is; or a whole expression such as
            ``'nearest_neighbor_mixing(f=3) >> geometric_median'``, with literals as parameters, in
            the grammar of ``chainrob.robustifiers.grammar``. So what ``repr`` prints is understood.
        parameters: its arguments, where the name is a name alone.

    Returns:
        A ``Robustifier``; a pre-aggregation where the name is one of these.

    Raises:
        ValueError: an unknown name or parameter, with the known ones, or a parameter that cannot
            work.

    Example:
        >>> import chainrob
        >>> chainrob.robustifiers.get('trimmed_mean', fraction=0.05)
        TrimmedMean(fraction=0.05)
        >>> chainrob.robustifiers.get('nearest_neighbor_mixing(f=3) >> geometric_median')
        NearestNeighborMixing(f=3) >> GeometricMedian()
        >>> chainrob.robustifiers.get('soft_truncation:delta=0.01,pilot=median')
        SoftTruncation(delta=0.01, pilot='median')
    """
    if name.isidentifier():
        return _make(Step(name, (), parameters))
    if parameters:
        raise ValueError(f"parameters belong inside the expression {name!r}, found {parameters}")
    return parse(name)


def parse(
    text: str,
    *,
    extra: Mapping[str, Callable[..., Any]] | None = None,
    nonfinite: Policy | None = None,
) -> Any:
    """What an expression of the grammar names: ``get`` for programs that read it from a user.

    Args:
        text: in the grammar of ``chainrob.robustifiers.grammar``.
        extra: further names, and what makes their robustifiers.
        nonfinite: given to the robustifier where the text says nothing of it.

    Returns:
        A ``Robustifier``; a pre-aggregation where nothing follows one.

    Raises:
        ValueError: as ``get``.

    Example:
        >>> from chainrob.robustifiers import parse
        >>> parse('bucketing:size=3 >> krum:f=1', nonfinite='raise')
        Bucketing(size=3, seed=0) >> Krum(nonfinite='raise', f=1)
    """
    return reduce(_join, [_make(step, extra or {}, nonfinite) for step in read_steps(text)])


def default(
    name: str,
    n_samples: int,
    contamination: float = 0.1,
    *,
    nonfinite: Policy | None = None,
) -> Any:
    """A robustifier whose parameters follow from the batch size and a share of bad samples.

    With N = ``n_samples`` and f = ceil(contamination * N), the number of bad rows that a batch
    holds if each share of it is as bad as the whole:

    - ``f=f`` for ``krum``, ``multi_krum``, ``mean_around_median``, ``phocas``,
      ``minimum_diameter_averaging``, ``caf``, ``smea``, ``monna``, ``spectral_filter``, ``dnc``,
      ``bulyan``, ``nearest_neighbor_mixing`` and ``adaptive_robust_clipping``; ``count=f`` for
      ``trimmed_mean`` and ``winsorized_mean``;
    - ``n_blocks=2f+1`` for ``median_of_means`` and ``median_of_means_minimization``: the fewest of
      which f bad ones are a minority;
    - ``size=(N-1)//(2f)`` for ``bucketing``: the largest that leaves f bad buckets a minority (all
      rows in one bucket for f = 0, which is the mean);
    - ``pilot='median'`` for ``soft_truncation``, ``multiplicative_noise`` and ``m_estimator`` where
      f > 0, else ``'mean'``;
    - nothing for ``mean``, ``adaptive_mean``, ``coordinate_median``, ``geometric_median``,
      ``centered_clipping`` and ``relative_clipping``.

    A random batch of N holds more than f bad samples about every other time. Who wants a margin
    states a higher contamination.

    Args:
        name: a name of ``names()``, or several joined by ``>>``. Behind ``bucketing`` N is the
            number of buckets. Parts with parameters, as in ``'bucketing(size=2) >> krum'``, keep
            them.
        n_samples: N, the batch size.
        contamination: share of bad samples, in [0, 0.5).
        nonfinite: given to the robustifier where ``name`` says nothing of it.

    Raises:
        ValueError: an unknown name, one without a default (``clip_norm``: its limit has a unit), a
            contamination outside [0, 0.5), or more bad rows than the robustifier can stand.

    Example:
        >>> import chainrob
        >>> chainrob.robustifiers.default('trimmed_mean', n_samples=100, contamination=0.05)
        TrimmedMean(count=5)
        >>> chainrob.robustifiers.default('median_of_means', n_samples=100, contamination=0.02)
        MedianOfMeans(n_blocks=5)
    """
    if not 0.0 <= contamination < 0.5:
        raise ValueError(f"contamination must lie in [0, 0.5), found {contamination!r}")
    if isinstance(n_samples, bool) or n_samples != int(n_samples) or n_samples < 1:
        raise ValueError(f"n_samples must be a positive integer, found {n_samples!r}")
    f = ceil(contamination * n_samples - 1e-9)
    result: Any = None
    rows = int(n_samples)
    for step in read_steps(name):
        if step.parameters is None:
            rule = _rule(_class(step.name))
            if rule is None:
                raise ValueError(f"{step.name} has no default; give its parameters to get")
            step = step._replace(parameters=rule(rows, f))
        entry = _make(step, nonfinite=nonfinite)
        entry.check(rows)
        rows = entry.n_mixed(rows) if isinstance(entry, PreAggregation) else rows
        result = entry if result is None else _join(result, entry)
    return result


_Rule = Callable[[int, int], dict[str, Any]]


def _pilot(n: int, f: int) -> dict[str, Any]:
    return {"pilot": "median" if f else "mean"}


def _nothing(n: int, f: int) -> dict[str, Any]:
    return {}


_DEFAULTS: dict[str, _Rule] = {
    **dict.fromkeys(("mean", "adaptive_mean", "coordinate_median", "geometric_median"), _nothing),
    **dict.fromkeys(("soft_truncation", "multiplicative_noise", "m_estimator"), _pilot),
    **dict.fromkeys(("centered_clipping", "relative_clipping"), _nothing),
    "median_of_means": lambda n, f: {"n_blocks": 2 * f + 1},
    "median_of_means_minimization": lambda n, f: {"n_blocks": 2 * f + 1},
    "bucketing": lambda n, f: {"size": max((n - 1) // (2 * f), 1) if f else n},
}
"""Those of what does not count bad rows in a parameter."""


def _rule(cls: type[Any]) -> _Rule | None:
    """What the parameters follow from; None where there is no default."""
    counted = getattr(cls, "counts_bad_rows", ())
    if counted:
        return lambda n, f: dict.fromkeys(counted, f)
    return _DEFAULTS.get(_snake(cls.__name__))


def _snake(name: str) -> str:
    """``MEstimator`` as ``m_estimator``, ``CAF`` as ``caf``, ``MoNNA`` as ``monna``."""
    return re.sub(r"(?<=[A-Za-z])(?=[A-Z][a-z])", "_", name).lower()


def _class(name: str, extra: Mapping[str, Any] | None = None) -> Any:
    cls = (extra or {}).get(name) or _REGISTRY.get(name) or _REGISTRY.get(_snake(name))
    if cls is None:
        known = sorted({*names(), *(extra or {})})
        raise ValueError(f"name must be one of {', '.join(known)}; found {name!r}")
    return cls


def _make(
    step: Step, extra: Mapping[str, Any] | None = None, nonfinite: Policy | None = None
) -> Any:
    name = step.name
    cls = _class(name, extra)
    parameters = dict(step.parameters or {})
    if isinstance(cls, type):
        _check_names(name, cls, step.arguments, parameters)
    if nonfinite is not None and not (isinstance(cls, type) and issubclass(cls, PreAggregation)):
        parameters.setdefault("nonfinite", nonfinite)
    try:
        return cls(*step.arguments, **parameters)
    except TypeError as error:
        raise ValueError(f"{name}: {error}") from error


def _check_names(
    name: str, cls: type[Any], arguments: tuple[Any, ...], parameters: dict[str, Any]
) -> None:
    """Raise ValueError for a parameter that the class has not, and for one that it has to have."""
    known = [item for item in fields(cls) if item.init]
    unknown = sorted(set(parameters) - {item.name for item in known})
    if unknown:
        names = ", ".join(item.name for item in known)
        raise ValueError(f"{name}: parameters are {names}; found {', '.join(unknown)}")
    by_position = [item for item in known if not item.kw_only]
    given = {item.name for item in by_position[: len(arguments)]} | set(parameters)
    for item in known:
        if item.name in given or item.default is not MISSING or item.default_factory is not MISSING:
            continue
        rule = (
            f", or take chainrob.robustifiers.default({name!r}, n_samples), which finds it from "
            f"the batch size"
            if _rule(cls) is not None
            else ""
        )
        raise ValueError(
            f"{name}: parameter {item.name!r} is missing; write {name}({item.name}=...){rule}"
        )


def _join(left: Any, right: Any) -> Any:
    try:
        return left >> right
    except TypeError as error:
        raise ValueError(str(error)) from error
