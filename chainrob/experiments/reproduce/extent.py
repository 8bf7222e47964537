"""The size of a reproduction: its trials, iterations and questions."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["QUICK", "ReproduceSettings"]


QUESTIONS = (
    "figure4", "differences", "ablation", "baselines", "rates", "sweeps", "clean", "robustifiers",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ReproduceSettings:
    """Numbers of trials; the defaults take about a quarter of an hour on two cores.

    Trial t depends only on (seed, t), so all variants are paired by trial. The ablation looks for a
    small difference: 600 trials find one of 0.025 with a probability of 94% (its standard deviation
    over trials is 0.18). The trials of a sweep are the first ones of ``trials``. They also choose
    each method's three best learning rates. Then the first half of ``trials`` chooses one of the
    three, and the second half measures its error.

    Args:
        trials: Trials for Figure 4, the differences between text and program, the baselines and
            the clean-data bound.
        ablation_trials: Trials for the ablation.
        sweep_trials: Trials for each setting of a sweep.
        robustifier_trials: Trials for each robustifier.
        slow_trials: Trials for each robustifier that takes seconds per trial.
        iterations: Updates in every trial.
        record_every: Updates between two records of the errors.
        seed: Seed of all random numbers.
        questions: The parts to train: figure4, and any of differences, ablation, baselines, rates,
            sweeps, clean, robustifiers.

    Raises:
        ValueError: If a number is too small.
    """

    trials: int = 200
    ablation_trials: int = 600
    sweep_trials: int = 40
    robustifier_trials: int = 20
    slow_trials: int = 4
    iterations: int = 1000
    record_every: int = 10
    seed: int = 0
    questions: tuple[str, ...] = QUESTIONS

    def __post_init__(self) -> None:
        for name, least in (
            ("trials", 4),
            ("ablation_trials", 4),
            ("sweep_trials", 2),
            ("robustifier_trials", 2),
            ("slow_trials", 2),
            ("iterations", 1),
            ("record_every", 1),
            ("seed", 0),
        ):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, found {getattr(self, name)}")
        object.__setattr__(self, "questions", tuple(self.questions))
        unknown = sorted(set(self.questions) - set(QUESTIONS))
        if unknown or "figure4" not in self.questions:
            raise ValueError(
                f"questions must hold figure4 and others of {', '.join(QUESTIONS)}, found "
                f"{', '.join(self.questions) or 'none'}"
            )

    def as_dict(self) -> dict[str, Any]:
        """The settings, in values that JSON can hold."""
        return asdict(self)


QUICK = {"trials": 40, "ablation_trials": 40, "questions": ("figure4", "ablation", "baselines")}
"""About a minute on two cores: Figure 4 and the origin of its gain, with all iterations."""
