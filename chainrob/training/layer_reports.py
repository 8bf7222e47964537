"""What the robust layers of a model did in their last backward pass."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

import chainer
from chainrob.training.observation import Observation, Watch

__all__ = ["LayerReport", "RobustnessReport", "record_robustness", "robustness_report"]


@dataclass(frozen=True, eq=False)
class LayerReport:
    """One layer's last estimate."""

    name: str
    """The link's name in the model."""
    robustifier: Callable[[Any], Any]
    scope: str
    n_samples: int
    weights: NDArray[np.float64] | None
    """Effective weight of each sample, (N,) or (*R, N); 1 in a plain mean. None if the robustifier
    is a plain callable, because its weights are not known."""

    def down_weighted(self, below: float = 0.5) -> float:
        """Share of the samples with a weight under ``below``; NaN if the weights are unknown."""
        if self.weights is None or not self.weights.size:
            return float("nan")
        return float((self.weights < below).mean())

    @property
    def effective_samples(self) -> float:
        r"""Kish's effective sample size, :math:`(\sum w)^2 / \sum w^2`; N in a plain mean."""
        if self.weights is None:
            return float("nan")
        squares = (self.weights**2).sum(axis=-1)
        sizes = self.weights.sum(axis=-1) ** 2 / np.where(squares > 0, squares, 1.0)
        return float(np.mean(sizes))


@dataclass(frozen=True, eq=False)
class RobustnessReport:
    """The last estimates of all robust layers of a model, as a table when printed."""

    layers: tuple[LayerReport, ...]

    def __str__(self) -> str:
        rows = [("layer", "samples", "effective", "below 0.5", "lightest", "robustifier")]
        for layer in self.layers:
            known = layer.weights is not None and layer.weights.ndim == 1 and layer.n_samples
            rows.append(
                (
                    layer.name,
                    str(layer.n_samples),
                    f"{layer.effective_samples:.1f}",
                    f"{layer.down_weighted():.1%}",
                    str(int(np.argmin(layer.weights))) if known else "-",  # type: ignore[arg-type]
                    repr(layer.robustifier),
                )
            )
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        ]
        return "\n".join(lines)


_records: weakref.WeakKeyDictionary[chainer.Link, dict[str, LayerReport]] = (
    weakref.WeakKeyDictionary()
)


class _Recording(Watch):
    """A watch that drops its records when it is closed."""

    def __init__(self, model: chainer.Link) -> None:
        record: dict[str, LayerReport] = {}

        def keep(observation: Observation) -> None:
            record[observation.name] = LayerReport(
                observation.name,
                observation.robustifier,
                observation.scope,
                observation.n_samples,
                observation.sample_weights(),
            )

        super().__init__(model, keep)
        self._model = weakref.ref(model)
        self._record = record
        _records[model] = record

    def close(self) -> None:
        super().close()
        model = self._model()
        if model is not None and _records.get(model) is self._record:
            del _records[model]


def record_robustness(model: chainer.Link) -> Watch:
    """Remember what the robust layers of a model do, for ``robustness_report``.

    Each backward pass then also computes the samples' weights.

    Args:
        model: A link; it and all links below are watched until ``close``.

    Returns:
        Watch: Close it to stop and to drop the records, or use ``with record_robustness(model):``.
    """
    return _Recording(model)


def robustness_report(model: chainer.Link) -> RobustnessReport:
    """How much each robust layer trusted each sample in its last backward pass.

    Args:
        model: A link that ``record_robustness`` watches.

    Returns:
        RobustnessReport: One ``LayerReport`` for each layer that has been estimated since.

    Raises:
        RuntimeError: ``record_robustness`` was not called for the model.

    Example:
        >>> import numpy as np, chainrob
        >>> import chainer
        >>> layer = chainrob.links.Linear(2, 1, robustifier=chainrob.TrimmedMean(count=1))
        >>> x = np.array([[1, 2], [2, 1], [3, 3], [1e4, 1e4]], np.float32)
        >>> with chainrob.training.record_robustness(layer):
        ...     chainer.functions.mean(layer(x)).backward()
        ...     report = chainrob.training.robustness_report(layer)
        >>> report.layers[0].n_samples, int(report.layers[0].weights.argmin())
        (4, 3)
    """
    if model not in _records:
        raise RuntimeError(
            "this model is not recorded: call chainrob.training.record_robustness(model) before "
            "the backward pass"
        )
    record = _records[model]
    names = ["/", *(name for name, _ in model.namedlinks(skipself=True))]
    return RobustnessReport(tuple(record[name] for name in names if name in record))
