"""How much of everything a reproduction trains."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["QUICK", "ReproduceSettings"]


@dataclass(frozen=True, kw_only=True)
class ReproduceSettings:
    """Numbers of trials; the defaults take about ten minutes on two cores.

    Args:
        trials: For Figure 4, the differences between text and program, the ablation and the
            clean bound.
        sweep_trials: For each setting of a sweep, the first ones of ``trials``. They also
            choose the learning rates, and the others judge them.
        robustifier_trials: For each robustifier.
        slow_trials: For each robustifier that takes seconds a trial.
        iterations: Updates in every trial.
        record_every: Errors are recorded so often.
        seed: Trial t depends on (seed, t) alone, so all variants are paired by trial.

    Raises:
        ValueError: If a number is too small.
    """

    trials: int = 200
    sweep_trials: int = 40
    robustifier_trials: int = 20
    slow_trials: int = 4
    iterations: int = 1000
    record_every: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (
            ("trials", 2),
            ("sweep_trials", 2),
            ("robustifier_trials", 2),
            ("slow_trials", 2),
            ("iterations", 1),
            ("record_every", 1),
            ("seed", 0),
        ):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, found {getattr(self, name)}")
        if self.trials < self.sweep_trials + 2:
            raise ValueError(
                f"trials must exceed sweep_trials by at least 2, found {self.trials} and "
                f"{self.sweep_trials}"
            )

    def as_dict(self) -> dict[str, Any]:
        """The settings as JSON can hold them."""
        return asdict(self)


QUICK = {
    "trials": 6,
    "sweep_trials": 4,
    "robustifier_trials": 2,
    "slow_trials": 2,
    "iterations": 20,
    "record_every": 5,
}
"""For a look at the report and for tests: every part runs, and nothing can be said."""
