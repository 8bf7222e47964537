"""The settings of the Iris experiment. Each difference between text and program is one field."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, get_args, get_type_hints

from chainrob.experiments.iris.released import ReleasedSoftTruncation
from chainrob.experiments.robustifier_texts import parse_layers

__all__ = ["SETTINGS", "IrisSettings", "iris_settings"]

Rows = Literal["train", "all"]
Robustifiers = tuple[Any, ...]

N_POINTS, N_FEATURES, N_CLASSES = 150, 4, 3


@dataclass(frozen=True, kw_only=True)
class IrisSettings:
    """Settings of the Iris experiment; the defaults are those of the tutorial's text.

    Trial t depends only on (seed, t). ``robustifier`` holds texts LAYER=ROBUSTIFIER, which
    ``chainrob.experiments.robustifier_texts.parse_layers`` reads.

    Args:
        setting: Name of these settings.
        trials: Number of trials; each has its own split, contamination and initial weights.
        iterations: Updates of the parameters.
        seed: Seed of all random numbers.
        record_every: Updates between two records of the errors; the last update is recorded too.
        n_train: Number of training points; the rest of the 150 points are for testing.
        contamination: Share of the training points that are pushed.
        push: How far they are pushed, in standard deviations: the k of section 5.
        hidden: Units of the hidden layers.
        learning_rate: Step of SGD; every batch is the whole training set.
        robustifier: LAYER=ROBUSTIFIER for ``deep-rob``; may be repeated. Empty means the tutorial's
            soft truncation in the first layer.
        scope: Which gradients form one row for a weighting robustifier.
        delta: Confidence parameter of the tutorial's soft truncation. The next four fields belong
            to this estimator too.
        estimate_scale: ``'sample'``: the estimate is at the scale of one sample's gradient, as in
            Algorithm 2. ``'batch'``: the estimate of the 1/N-scaled rows is returned unchanged, so
            its layer learns at 1/N of the rate.
        variance_ddof: The variance is divided by n - variance_ddof.
        variance_floor: The least variance, in squared units of the 1/N-scaled rows.
        small_batches: The result for fewer than three rows: the ``'estimate'``, or the plain
            ``'sum'`` of the 1/N-scaled rows, which is the mean of the rows.
        components_from: The points that the principal components are fitted to: ``'train'`` (the
            training points) or ``'all'``.
        scaling_from: The points that the min-max scaling is fitted to: ``'train'`` or ``'all'``.
        initial_weights: ``'uniform'`` (weights and biases uniform within +-half_width) or
            ``'lecun_normal'`` (Chainer's default: normal with variance 1 / inputs, biases 0). The
            text does not say; the released program draws ``'uniform'`` weights.
        half_width: Half-width of the uniform distribution of the initial weights.
        dtype: ``'float32'`` (Chainer's default) or ``'float64'``.
        inputs: ``'all'``: all points, unchanged. ``'clipped'``: each feature is clipped at 3 median
            absolute deviations from the median of the contaminated training points. ``'good'``: an
            oracle leaves out the pushed points.

    Raises:
        ValueError: If a value is out of range; the message names it.

    Example:
        >>> from chainrob.experiments.iris import iris_settings
        >>> iris_settings("text").components_from, iris_settings("released").components_from
        ('train', 'all')
    """

    setting: str = "text"
    trials: int = 20
    iterations: int = 1000
    seed: int = 0
    record_every: int = 10
    n_train: int = 100
    contamination: float = 0.02
    push: float = 1e4
    hidden: tuple[int, ...] = (10, 10)
    learning_rate: float = 0.5
    robustifier: tuple[str, ...] = ()
    scope: Literal["unit", "parameter", "layer"] = "layer"
    delta: float = 0.005
    estimate_scale: Literal["sample", "batch"] = "sample"
    variance_ddof: int = 1
    variance_floor: float = 0.0
    small_batches: Literal["estimate", "sum"] = "estimate"
    components_from: Rows = "train"
    scaling_from: Rows = "train"
    initial_weights: Literal["uniform", "lecun_normal"] = "uniform"
    half_width: float = 0.05
    dtype: Literal["float32", "float64"] = "float32"
    inputs: Literal["all", "clipped", "good"] = "all"

    def __post_init__(self) -> None:
        for name in ("trials", "record_every"):
            self._require(name, getattr(self, name) >= 1, "be at least 1")
        self._require("iterations", self.iterations >= 0, "not be negative")
        self._require("seed", self.seed >= 0, "not be negative")
        self._require("n_train", 3 <= self.n_train < N_POINTS, f"be between 3 and {N_POINTS - 1}")
        self._require("contamination", 0 <= self.contamination <= 1, "be between 0 and 1")
        self._require("push", 0 <= self.push < float("inf"), "be finite and not negative")
        self._require("hidden", all(units >= 1 for units in self.hidden), "be positive")
        self._require(
            "learning_rate", 0 < self.learning_rate < float("inf"), "be finite and positive"
        )
        self._require("half_width", 0 <= self.half_width < float("inf"), "be finite, not negative")
        for name, hint in get_type_hints(type(self)).items():
            choices = [choice for choice in get_args(hint) if isinstance(choice, str)]
            if choices:
                found = getattr(self, name)
                self._require(name, found in choices, f"be one of {', '.join(choices)}")
        for robustifier in self.methods()["deep-rob"]:
            if robustifier is not None:
                robustifier.check(self.n_train)  # every batch is the whole training set

    def _require(self, name: str, holds: bool, rule: str) -> None:
        if not holds:
            raise ValueError(f"{name} must {rule}, found {getattr(self, name)!r}")

    @property
    def dims(self) -> tuple[int, ...]:
        """Units of each layer, from the two principal components to the three classes."""
        return (2, *self.hidden, N_CLASSES)

    @property
    def recorded(self) -> tuple[int, ...]:
        """The numbers of updates after which the errors are recorded."""
        times = range(0, self.iterations, self.record_every)
        return (*times, self.iterations)

    def methods(self) -> dict[str, Robustifiers]:
        """The methods to compare: for each layer a robustifier, or None for the plain sum."""
        n_layers = len(self.dims) - 1
        plain: Robustifiers = (None,) * n_layers
        if self.robustifier:
            robust = parse_layers(
                self.robustifier, n_layers, {"released_soft_truncation": ReleasedSoftTruncation}
            )
        else:
            first = ReleasedSoftTruncation(
                delta=self.delta,
                estimate_scale=self.estimate_scale,
                variance_ddof=self.variance_ddof,
                variance_floor=self.variance_floor,
                small_batches=self.small_batches,
                nonfinite="propagate",
            )
            robust = (first, *plain[1:])
        return {"deep": plain, "deep-rob": robust}

    def as_dict(self) -> dict[str, Any]:
        """The settings, in values that JSON can hold."""
        return asdict(self)

    def is_published(self, *, whole: bool = True) -> bool:
        """Whether these are settings of the published figure, by the text or by the program.

        The number of trials, the recorded times and the seed may differ. (The seed is not
        published.)

        Args:
            whole: Whether the number of iterations must agree too. The curves of a shorter run
                cover the beginning of the published curves.
        """
        free: dict[str, Any] = {"trials": 1, "seed": 0, "record_every": 10}
        free |= {} if whole else {"iterations": 1}
        return any(replace(self, **free) == replace(one, **free) for one in SETTINGS.values())


SETTINGS = {
    "text": IrisSettings(),
    "released": IrisSettings(
        setting="released",
        estimate_scale="batch",
        variance_ddof=0,
        variance_floor=0.001,
        small_batches="sum",
        components_from="all",
        scaling_from="all",
    ),
}


def iris_settings(setting: str = "released", **changes: Any) -> IrisSettings:
    """The settings of the published figure (``'released'``) or of the paper's words (``'text'``).

    Args:
        setting: ``'released'`` or ``'text'``.
        changes: Fields of ``IrisSettings`` to change.

    Raises:
        ValueError: If the setting or a field does not exist, or a value is out of range.

    Example:
        >>> from chainrob.experiments.iris import iris_settings
        >>> iris_settings("released", estimate_scale="sample").variance_floor
        0.001
    """
    if setting not in SETTINGS:
        raise ValueError(f"setting must be one of {', '.join(SETTINGS)}, found {setting!r}")
    unknown = sorted(set(changes) - {field.name for field in fields(IrisSettings)})
    if unknown:
        raise ValueError(f"IrisSettings has no field {', '.join(unknown)}")
    return replace(SETTINGS[setting], **changes)
