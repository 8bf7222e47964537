"""What a run of the Iris experiment depends on, every difference between text and program named."""

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

    Args:
        setting: What these settings are called.
        trials: Number of trials; each has its own split, contamination and initial weights.
        iterations: Updates of the parameters.
        seed: Trial t depends on (seed, t) alone.
        record_every: Errors are recorded after 0, record_every, 2 record_every, ... updates
            and after the last.
        n_train: Training points; the others of the 150 are for testing.
        contamination: Share of the training points that are pushed.
        push: How far, in standard deviations (the k of section 5).
        hidden: Units of the hidden layers.
        learning_rate: Step of SGD; every batch is the whole training set.
        robustifier: Robustifiers of the method ``deep-rob``, read by
            ``chainrob.experiments.robustifier_texts.parse_layers``. Empty means soft truncation in
            the first layer, with delta and the four fields after it.
        scope: What makes up one row for a weighting robustifier.
        delta: Confidence parameter of the soft truncation.
        estimate_scale: ``'sample'``: the estimate is returned at the scale of a sample's
            gradient, as Algorithm 2 has it. ``'batch'``: the estimate of the 1/N-scaled rows is
            returned as it is, so that its layer learns at 1/N of the rate.
        variance_ddof: The variance is divided by n - variance_ddof.
        variance_floor: The least variance, in squared units of the 1/N-scaled rows.
        small_batches: What becomes of fewer than three rows: the ``'estimate'`` or the plain
            ``'sum'`` (of the 1/N-scaled rows, which is the mean).
        components_from: Whether the principal components are fitted to the training points
            or to all.
        scaling_from: The same for the min-max scaling.
        initial_weights: ``'uniform'`` (weights and biases uniform within +-half_width) or
            ``'lecun_normal'`` (Chainer's default: normal with variance 1 / inputs, biases 0). The
            text does not say; ``'uniform'`` is what the released program draws.
        half_width: Of the uniform initial weights.
        dtype: ``'float32'`` (Chainer's default) or ``'float64'``.
        inputs: ``'all'`` as they are; ``'clipped'``: each feature cut off at 3 median absolute
            deviations from the median of the contaminated training points; ``'good'``: the oracle
            that leaves out the points that were pushed.

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
        """Numbers of units from the input, two principal components, to the three classes."""
        return (2, *self.hidden, N_CLASSES)

    @property
    def recorded(self) -> tuple[int, ...]:
        """After how many updates the errors are recorded."""
        times = range(0, self.iterations, self.record_every)
        return (*times, self.iterations)

    def methods(self) -> dict[str, Robustifiers]:
        """The methods to compare: their robustifiers, or None for the plain sum, layer by layer."""
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
        """The settings as JSON can hold them."""
        return asdict(self)

    def is_published(self, *, whole: bool = True) -> bool:
        """Whether these are settings of the published figure, by the text or by the program.

        How many trials there are and when errors are recorded makes no difference, nor does the
        seed, which is not published.

        Args:
            whole: Whether the number of iterations counts too; a shorter run passes through the
                beginning of the published curves.
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
