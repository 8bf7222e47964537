"""One estimate for all parameters of a model, from what its layers recorded in a backward pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from chainrob.aggregation.observers import watched_estimate
from chainrob.aggregation.recorder import Recording
from chainrob.aggregation.sample_index import ADVICE
from chainrob.aggregation.scopes import count_samples, plain_mean
from chainrob.sample_gradients import SampleGradients, add_up
from chainrob.sample_gradients.operator_base import Array


class Entry(NamedTuple):
    """A parameter of the model and its rows."""

    name: str
    """Its path in the model."""
    recording: Recording
    rows: SampleGradients
    """Summed over the parameter's uses."""

    @classmethod
    def of(cls, name: str, recording: Recording) -> Entry:
        """The uses of a parameter added up.

        Raises:
            ValueError: uses with different numbers of samples.
        """
        try:
            return cls(name, recording, add_up(recording.operators))
        except ValueError as error:
            raise ValueError(
                f"RobustGradient: parameter {name} is used several times: {error}; {ADVICE}"
            ) from error


def model_gradients(
    entries: Sequence[Entry], robustifier: Callable[[Any], Any], model: Any
) -> list[Array]:
    r"""The gradients of a model, from one row a sample over all its parameters.

    .. math:: \langle g_m, g_n \rangle = \sum_l \langle g_m^{(l)}, g_n^{(l)} \rangle

    Args:
        entries: what was recorded, at least one.
        robustifier: a Robustifier, or any callable (N, D) -> (D,).
        model: whose observers are told, besides those of the layers.

    Returns:
        one array a parameter, in the scale of the stock gradient and the dtype of its rows.

    Raises:
        ValueError: different numbers of samples or loss reductions.
    """
    named = _named(entries)
    counts = {name: rows.n_samples for name, rows in named.items()}
    if len(set(counts.values())) > 1:
        raise ValueError(
            f"RobustGradient: all parameters must see the same samples, found numbers of "
            f"samples {_by_value(counts)}; {ADVICE}"
        )
    reductions = {one.name: one.recording.loss_reduction for one in entries}
    if len(set(reductions.values())) > 1:
        raise ValueError(
            f"RobustGradient: all links must have one loss_reduction, found {_by_value(reductions)}"
        )
    reduction: Any = entries[0].recording.loss_reduction
    n_samples = entries[0].rows.n_samples
    owners = (model, *(one.recording.owner for one in entries)) if n_samples else ()
    estimates = watched_estimate(robustifier, named, "model", reduction, model, owners)
    return [_scaled(one, robustifier, reduction, n_samples) for one in estimates]


def mean_gradients(
    entries: Sequence[Entry], robustifier_of: Callable[[Entry], Callable[[Any], Any]]
) -> list[Array | None]:
    """The plain gradients of parameters that were recorded but are not to be estimated robustly.

    Args:
        entries: what was recorded.
        robustifier_of: what would have estimated an entry; the mean is over the ranks that it
            spans.

    Returns:
        one array a parameter; None where there is no sample.
    """
    means: list[Array | None] = []
    for entry in entries:
        robustifier = robustifier_of(entry)
        if not count_samples(robustifier, entry.rows.n_samples):
            means.append(None)
            continue
        mean = plain_mean(robustifier, entry.rows)
        reduction = entry.recording.loss_reduction
        means.append(_scaled(mean, robustifier, reduction, entry.rows.n_samples))
    return means


def _by_value(values: Mapping[str, Any]) -> str:
    """A message's list of what was found, each value once with all its names."""
    names: dict[Any, list[str]] = {}
    for name, value in values.items():
        names.setdefault(value, []).append(name)
    return "; ".join(f"{value!r} ({', '.join(found)})" for value, found in names.items())


def _named(entries: Sequence[Entry]) -> dict[str, SampleGradients]:
    """Rows by path; a parameter that a hook remakes at each use has several of one path."""
    named: dict[str, SampleGradients] = {}
    for entry in entries:
        name, number = entry.name, 1
        while name in named:
            number += 1
            name = f"{entry.name} ({number})"
        named[name] = entry.rows
    return named


def _scaled(estimate: Array, robustifier: Any, reduction: str, n_samples: int) -> Array:
    if reduction != "sum":
        return estimate
    return estimate * estimate.dtype.type(count_samples(robustifier, n_samples))
