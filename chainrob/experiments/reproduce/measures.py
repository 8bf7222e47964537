"""The measurements of the report: final errors, paired differences, and both as text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chainrob.experiments.report import Outcome
from chainrob.experiments.reproduce.extent import ReproduceSettings
from chainrob.experiments.reproduce.plan import Plan
from chainrob.experiments.reproduce.variants import Variant
from chainrob.statistics import bootstrap_interval

__all__ = [
    "STYLE_OF",
    "Measured",
    "all_of",
    "below",
    "detectable",
    "interval_text",
    "span",
    "with_interval",
    "within",
]

Array = NDArray[np.float64]

_FEWEST = 40
"""With fewer trials there is no verdict, because trials are bimodal."""

STYLE_OF = {
    "deep": 1,
    "deep-rob": 0,
    "deep-rob (released)": 0,
    "deep-rob, scale of the text": 2,
    "plain mean, first layer at 1/100": 3,
    "trimmed mean 5%, all layers": 4,
    "batch gradient of each layer clipped to 0.1": 5,
    "inputs clipped at median ± 3 MAD": 6,
    "oracle: without the pushed points": 7,
}
"""Index of each method's style. So a method looks the same in all figures."""


@dataclass(frozen=True, eq=False)
class Measured:
    """All errors of a reproduction.

    Args:
        settings: Numbers of trials.
        plan: Variants by question, then by name.
        errors: For each variant its errors (trials, recorded times, 2).
    """

    settings: ReproduceSettings
    plan: Plan
    errors: Mapping[Variant, Array]

    def curves(self, question: str, name: Any) -> Array:
        """Training and test errors, (trials, recorded times, 2)."""
        return self.errors[self.plan[question][name]]

    def final(self, question: str, name: Any) -> Array:
        """Test errors after the last update, (trials,)."""
        last: Array = self.curves(question, name)[:, -1, 1]
        return last

    def decided(
        self, outcome: Outcome | bool, *, sweep: bool = False, robustifiers: bool = False
    ) -> Outcome | bool:
        """The outcome of a rule, or ``'cannot be said'`` if the trials are too short or too few."""
        now, least = self.settings, ReproduceSettings()
        enough = (
            now.iterations >= least.iterations
            and now.trials >= _FEWEST
            and (not sweep or now.sweep_trials >= least.sweep_trials)
            and (not robustifiers or now.robustifier_trials >= least.robustifier_trials)
        )
        return outcome if enough else "cannot be said"


def interval_text(values: Array, level: float = 0.95) -> str:
    """The bootstrap interval of a mean, as text. A level other than 95% is named."""
    low, high = bootstrap_interval(values, level=level)
    said = "" if level == 0.95 else f" ({level:.1%})"
    return f"[{_number(low)}, {_number(high)}]{said}"


def detectable(values: Array) -> float:
    """The mean that the 95% interval of such values tells from 0 in 80% of cases."""
    return float((1.96 + 0.84) * values.std(ddof=1) / np.sqrt(len(values)))


def with_interval(values: Array, level: float = 0.95) -> str:
    """Mean and interval, as text."""
    return f"{_number(values.mean())} {interval_text(values, level)}"


def _number(value: float) -> str:
    return f"{round(value, 3) + 0.0:.3f}"  # adding 0 turns -0 into 0


def span(values: Sequence[Array]) -> tuple[Array, Array]:
    """Means (n,) and intervals (2, n) of several samples."""
    ends = np.array([bootstrap_interval(one) for one in values]).T
    return np.array([one.mean() for one in values]), ends


def below(values: Array, bound: float = 0.0, level: float = 0.95) -> Outcome:
    """Whether a mean lies below a bound: yes or no if its whole interval lies on one side."""
    low, high = bootstrap_interval(values, level=level)
    return "holds" if high < bound else "does not hold" if low > bound else "not shown"


def within(values: Array, margin: float, level: float = 0.95) -> Outcome:
    """Whether a mean lies in (-margin, margin): yes if its interval does, no if it is outside."""
    low, high = bootstrap_interval(values, level=level)
    if low > margin or high < -margin:
        return "does not hold"
    return "holds" if -margin < low and high < margin else "not shown"


def all_of(outcomes: Iterable[Outcome]) -> Outcome:
    """The outcome of several claims together: the worst of them."""
    found = set(outcomes)
    worst: tuple[Outcome, ...] = ("does not hold", "not shown")
    return next((outcome for outcome in worst if outcome in found), "holds")
