"""Robustifiers by name, for command lines and configuration files, and with sensible defaults."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from dataclasses import fields
from math import ceil
from typing import Any

from chainrob.robustifiers.base import Robustifier
from chainrob.robustifiers.pre_aggregation import PreAggregation

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
            ``'nearest_neighbor_mixing(f=3) >> geometric_median'``, with literals as parameters. So
            what ``repr`` prints is understood.
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
    """
    if name.isidentifier():
        return _make(name, [], parameters)
    if parameters:
        raise ValueError(f"parameters belong inside the expression {name!r}, found {parameters}")
    try:
        tree = ast.parse(name.strip(), mode="eval").body
    except SyntaxError as error:
        raise ValueError(
            f"name must be a name or an expression like 'krum(f=2)', found {name!r}"
        ) from error
    return _evaluate(tree, name)


def default(name: str, n_samples: int, contamination: float = 0.1) -> Any:
    """A robustifier whose parameters follow from the batch size and a share of bad samples.

    With N = ``n_samples`` and f = ceil(contamination * N), the number of bad rows that a batch
    holds if each share of it is as bad as the whole:

    - ``f=f`` for ``krum``, ``multi_krum``, ``mean_around_median``, ``phocas``,
      ``minimum_diameter_averaging``, ``caf``, ``smea``, ``nearest_neighbor_mixing`` and
      ``adaptive_robust_clipping``; ``count=f`` for ``trimmed_mean`` and ``winsorized_mean``;
    - ``n_blocks=2f+1`` for ``median_of_means``: the fewest of which f bad ones are a minority;
    - ``size=(N-1)//(2f)`` for ``bucketing``: the largest that leaves f bad buckets a minority (all
      rows in one bucket for f = 0, which is the mean);
    - ``pilot='median'`` for ``soft_truncation`` and ``m_estimator`` where f > 0, else ``'mean'``;
    - nothing for ``mean``, ``coordinate_median``, ``geometric_median`` and ``centered_clipping``.

    A random batch of N holds more than f bad samples about every other time. Who wants a margin
    states a higher contamination.

    Args:
        name: a name of ``names()``, or several joined by ``>>``. Behind ``bucketing`` N is the
            number of buckets.
        n_samples: N, the batch size.
        contamination: share of bad samples, in [0, 0.5).

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
    for part in (piece.strip() for piece in name.split(">>")):
        cls = _class(part)
        rule = _DEFAULTS.get(_snake(cls.__name__))
        if rule is None:
            raise ValueError(f"{part} has no default; give its parameters to get")
        entry = cls(**rule(rows, f))
        entry.check(rows)
        rows = entry.n_mixed(rows) if isinstance(entry, PreAggregation) else rows
        result = entry if result is None else result >> entry
    return result


_Rule = Callable[[int, int], dict[str, Any]]


def _bad_rows(n: int, f: int) -> dict[str, Any]:
    return {"f": f}


def _count(n: int, f: int) -> dict[str, Any]:
    return {"count": f}


def _pilot(n: int, f: int) -> dict[str, Any]:
    return {"pilot": "median" if f else "mean"}


def _nothing(n: int, f: int) -> dict[str, Any]:
    return {}


_DEFAULTS: dict[str, _Rule] = {
    **dict.fromkeys(("mean", "coordinate_median", "geometric_median"), _nothing),
    **dict.fromkeys(("soft_truncation", "m_estimator"), _pilot),
    **dict.fromkeys(("trimmed_mean", "winsorized_mean"), _count),
    **dict.fromkeys(("mean_around_median", "phocas", "krum", "multi_krum", "caf"), _bad_rows),
    **dict.fromkeys(("minimum_diameter_averaging", "smea"), _bad_rows),
    **dict.fromkeys(("nearest_neighbor_mixing", "adaptive_robust_clipping"), _bad_rows),
    "centered_clipping": _nothing,
    "median_of_means": lambda n, f: {"n_blocks": 2 * f + 1},
    "bucketing": lambda n, f: {"size": max((n - 1) // (2 * f), 1) if f else n},
}


def _snake(name: str) -> str:
    """``MEstimator`` as ``m_estimator``, ``CAF`` as ``caf``."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def _class(name: str) -> type[Any]:
    cls = _REGISTRY.get(name) or _REGISTRY.get(_snake(name))
    if cls is None:
        raise ValueError(f"name must be one of {', '.join(names())}; found {name!r}")
    return cls


def _make(name: str, arguments: list[Any], parameters: dict[str, Any]) -> Any:
    cls = _class(name)
    known = [item.name for item in fields(cls) if item.init]
    unknown = sorted(set(parameters) - set(known))
    if unknown:
        raise ValueError(f"{name}: parameters are {', '.join(known)}; found {', '.join(unknown)}")
    try:
        return cls(*arguments, **parameters)
    except TypeError as error:
        raise ValueError(f"{name}: {error}") from error


def _evaluate(node: ast.expr, text: str) -> Any:
    """A name, a call with literals, or two of these joined by ``>>``."""
    if isinstance(node, ast.Name):
        return _make(node.id, [], {})
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.RShift):
        left, right = _evaluate(node.left, text), _evaluate(node.right, text)
        try:
            return left >> right
        except TypeError as error:
            raise ValueError(str(error)) from error
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        try:
            arguments = [ast.literal_eval(item) for item in node.args]
            # ``**`` has no name: left out, it would be a parameter that silently does nothing.
            if any(item.arg is None for item in node.keywords):
                raise ValueError("** in a call")
            parameters = {str(item.arg): ast.literal_eval(item.value) for item in node.keywords}
        except ValueError as error:
            raise ValueError(f"parameters must be literals, found {text!r}") from error
        return _make(node.func.id, arguments, parameters)
    raise ValueError(f"name must be a name or an expression like 'krum(f=2)', found {text!r}")
