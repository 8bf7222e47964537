"""One way of training the Iris network, and the jobs that train many of them."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chainrob.experiments.devices import get_device
from chainrob.experiments.iris import IrisSettings, ReleasedSoftTruncation, train
from chainrob.experiments.jobs import Job
from chainrob.robustifiers import ConvergenceWarning, Mean, Robustifier
from chainrob.robustifiers.robustifier import CoordinateWise, Estimate
from chainrob.sample_gradients import SampleGradients

__all__ = ["ClippedMean", "SlowMean", "Variant", "jobs_of", "results_of", "train_variant"]

Array = NDArray[np.float64]

TRIALS_A_JOB = 20

# These fields define the robustifier of deep-rob's first layer. A variant has it in ``layers``.
_NOT_OF_THE_DATA = {
    "setting", "trials", "robustifier", "delta", "estimate_scale", "variance_ddof",
    "variance_floor", "small_batches",
}  # fmt: skip


@dataclass(frozen=True)
class Variant:
    """One way of training: data and schedule, and the robustifier of each layer.

    Args:
        settings: Data, contamination, learning rate.
        layers: For each layer a robustifier, or None.
        trials: Number of trials.
        slow: Rough time of a trial, as a multiple of the plain mean's time.
    """

    settings: IrisSettings
    layers: tuple[Any, ...]
    trials: int
    slow: float = 1.0

    @classmethod
    def of(cls, settings: IrisSettings, method: str = "deep-rob") -> Variant:
        """A method of an Iris setting, with that setting's number of trials."""
        return cls(settings, settings.methods()[method], settings.trials)

    def __hash__(self) -> int:
        return hash((self.settings, self.layers, self.trials))

    def jobs(self, device: str) -> list[Job]:
        """The jobs of all trials. Equal jobs of different variants have equal names."""
        return [
            Job(
                self._name(first, last),
                (self.settings, self.layers, range(first, last), device),
                (last - first) * self.slow,
            )
            for first, last in self._parts()
        ]

    def errors(self, results: Mapping[str, Array]) -> Array:
        """Training and test errors, (trials, recorded times, 2)."""
        return np.concatenate([results[self._name(*part)] for part in self._parts()])

    def _parts(self) -> list[tuple[int, int]]:
        starts = range(0, self.trials, TRIALS_A_JOB)
        return [(first, min(first + TRIALS_A_JOB, self.trials)) for first in starts]

    def _name(self, first: int, last: int) -> str:
        content = {
            one.name: getattr(self.settings, one.name)
            for one in fields(self.settings)
            if one.name not in _NOT_OF_THE_DATA
        }
        content["layers"] = [repr(layer) for layer in self.layers]
        text = json.dumps(content, sort_keys=True)
        return f"{hashlib.sha256(text.encode()).hexdigest()[:20]}-{first}-{last}"


def train_variant(
    settings: IrisSettings, layers: tuple[Any, ...], trials: range, device: str
) -> Array:
    """The function of a job: the errors of some trials, (trials, recorded times, 2)."""
    with warnings.catch_warnings():
        # In a diverging trial an iteration may fail to converge; the trial's error shows it.
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.simplefilter("ignore", RuntimeWarning)
        errors: Array = train(settings, [layers], trials, get_device(device))[0]
    return errors


def jobs_of(variants: Iterable[Variant], device: str) -> list[Job]:
    """All jobs, each once, long jobs first, so that no long job starts at the end."""
    jobs = {job.name: job for variant in variants for job in variant.jobs(device)}
    return sorted(jobs.values(), key=lambda job: (-job.size, job.name))


def results_of(variants: Iterable[Variant], results: Mapping[str, Array]) -> dict[Variant, Array]:
    """Errors by variant."""
    return {variant: variant.errors(results) for variant in variants}


@dataclass(frozen=True, repr=False)
class SlowMean(CoordinateWise):
    """The plain mean times a factor: a layer that learns at another rate, without robustness.

    Args:
        factor: The factor. That of the released program is 1/N, because it does not scale back.

    Example:
        >>> import numpy as np
        >>> from chainrob.experiments.reproduce.variants import SlowMean
        >>> SlowMean(0.5)(np.array([[1.0], [3.0]]))
        array([1.])
    """

    factor: float = 0.01

    def _estimate(self, gradients: SampleGradients, watch: bool = False) -> Estimate:
        return Mean(nonfinite="propagate")._estimate(gradients, watch).times(self.factor)

    def reduce(self, values: Any) -> Any:
        """Reduce the sample axis: values (*R, N, d) to (*R, d)."""
        return values.mean(axis=-2) * self.factor

    def coordinate_weights(self, values: Any) -> Any:
        """All samples have the same weight."""
        return values * 0 + 1


@dataclass(frozen=True, repr=False)
class ClippedMean(Robustifier):
    """The plain mean, clipped to a norm: clipping of the batch gradient.

    A one-line baseline. With scope ``'layer'`` the norm is that of W and b together.

    Args:
        limit: The norm.

    Example:
        >>> import numpy as np
        >>> from chainrob.experiments.reproduce.variants import ClippedMean
        >>> ClippedMean(0.5)(np.array([[0.0, 8.0], [6.0, 0.0]]))
        array([0.3, 0.4])
    """

    limit: float = 0.1

    def _estimate(self, gradients: SampleGradients, watch: bool = False) -> Estimate:
        mean, weights = Mean(nonfinite="propagate")._estimate(gradients, watch)
        parts, xp = (mean if isinstance(mean, tuple) else (mean,)), gradients.xp
        axes = len(gradients.replicas)
        squares = sum(
            xp.square(one.reshape(*one.shape[:axes], -1), dtype=np.float64).sum(axis=-1)
            for one in parts
        )
        factor = xp.minimum(1, self.limit / xp.maximum(xp.sqrt(squares), 1e-300))
        clipped = tuple(
            (one * factor.reshape(*factor.shape, *[1] * (one.ndim - axes))).astype(one.dtype)
            for one in parts
        )
        return Estimate(clipped if isinstance(mean, tuple) else clipped[0], weights)


def released_truncation(scale: Any = "batch") -> ReleasedSoftTruncation:
    """The released program's estimator, at its own scale or at that of the text."""
    return ReleasedSoftTruncation(estimate_scale=scale, nonfinite="propagate")
