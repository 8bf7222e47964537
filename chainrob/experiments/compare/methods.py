"""The methods of the comparison. Each of them is one line."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from chainrob.robustifiers import Mean, Robustifier, default

__all__ = [
    "METHODS",
    "Candidate",
    "Method",
    "candidates",
    "default_methods",
    "make_robustifier",
    "method_of",
]

Family = Literal["plain", "one line", "robust gradients", "both", "linear fit"]


@dataclass(frozen=True, kw_only=True)
class Method:
    """A way of training. ``{}`` in a text stands for the value of its parameter.

    Args:
        family: ``'plain'``, ``'one line'`` (no robust gradients), ``'robust gradients'``,
            ``'both'``, or ``'linear fit'`` (an estimator of scikit-learn in place of a network).
        robustifier: A text in the grammar of ``chainrob.robustifiers``. A name alone has its
            defaults for 10% bad samples. None is the plain mean.
        scope: Whose gradients form one row: ``'layer'`` or ``'model'``.
        loss: A loss, as ``loss_of`` reads it.
        inputs: A scaling of the inputs, as ``scaled`` reads it.
        clip: Norm that each layer's batch gradient is clipped to; empty means no clipping.
        early: Whether the time of stopping is also chosen, on the validation points.
        values: Values of the parameter to try. Each value gets its share of the learning rates.
        classification: Whether the method is for classification.
        regression: Whether the method is for regression.
    """

    family: Family = "one line"
    robustifier: str | None = None
    scope: Literal["layer", "model"] = "layer"
    loss: str = "plain"
    inputs: str = "robust"
    clip: str = ""
    early: bool = False
    values: tuple[float, ...] = ()
    classification: bool = True
    regression: bool = True


class Candidate(NamedTuple):
    """A method with a value of its parameter, and a learning rate."""

    method: Method
    rate: float
    value: float


def _robust(robustifier: str, *values: float, **more: object) -> Method:
    family: Family = "robust gradients" if not more.keys() - {"scope"} else "both"
    return Method(family=family, robustifier=robustifier, values=values, **more)  # type: ignore[arg-type]


_CLASSES: dict[str, bool] = {"regression": False}
_RESPONSES: dict[str, bool] = {"classification": False}

METHODS: dict[str, Method] = {
    "plain mean": Method(family="plain"),
    "standard scaling": Method(inputs="standard"),
    "inputs clipped": Method(inputs="clipped={}", values=(2.0, 4.0)),
    "batch gradient clipped": Method(clip="{}", values=(0.1, 1.0)),
    "early stopping": Method(early=True),
    "highest losses dropped": Method(loss="dropped={}", values=(0.1, 0.3)),
    "label smoothing": Method(loss="smoothing={}", values=(0.1, 0.3), regression=False),
    "generalized cross entropy": Method(loss="generalized={}", values=(0.3, 0.7), regression=False),
    "Huber loss": Method(loss="huber={}", values=(0.3, 1.0), classification=False),
    "absolute loss": Method(loss="absolute", classification=False),
    "HuberRegressor": Method(family="linear fit", classification=False),
    "RANSACRegressor": Method(family="linear fit", classification=False),
    "TheilSenRegressor": Method(family="linear fit", classification=False),
    "adaptive mean (the default)": _robust("adaptive_mean"),
    "adaptive mean, bounded": replace(_robust("adaptive_mean(bounded=True)"), regression=False),
    "soft truncation": _robust("soft_truncation:delta={}", 0.005, 0.2),
    "M-estimator": _robust("m_estimator:pilot=mean"),
    "trimmed mean": _robust("trimmed_mean:fraction={}", 0.05, 0.2),
    "geometric median": _robust("geometric_median", scope="model"),
    "centered clipping": _robust("centered_clipping", scope="model"),
    "multi-Krum": _robust("multi_krum", scope="model"),
    "sample gradients clipped": _robust("clip_norm({}) >> mean", 0.1, 1.0, scope="model"),
    "relative clipping": _robust(
        "relative_clipping(2, quantile=0.8, reference='winsorized') >> mean", scope="model"
    ),
    "adaptive mean, inputs clipped": _robust("adaptive_mean", inputs="clipped=3"),
    "adaptive mean, label smoothing": replace(
        _robust("adaptive_mean", loss="smoothing=0.2"), regression=False
    ),
    "trimmed mean, inputs clipped": _robust(
        "trimmed_mean:fraction={}", 0.05, 0.2, inputs="clipped=3"
    ),
    "M-estimator, label smoothing": replace(
        _robust("m_estimator:pilot=mean", loss="smoothing=0.2"), regression=False
    ),
    "trimmed mean, Huber loss": replace(
        _robust("trimmed_mean:fraction={}", 0.05, 0.2, loss="huber=0.5"), classification=False
    ),
}
"""All methods by name. One more line adds a method."""


def method_of(text: str) -> Method:
    """The method of that name, or the robustifier that a text in the grammar names.

    Raises:
        ValueError: If there is neither.

    Example:
        >>> from chainrob.experiments.compare.methods import method_of
        >>> method_of("krum:f=3").family
        'robust gradients'
    """
    if text in METHODS:
        return METHODS[text]
    try:
        make_robustifier(text, 100)
    except ValueError as error:
        raise ValueError(
            f"unknown method {text!r}; known methods are {', '.join(METHODS)}, and robustifiers: "
            f"{error}"
        ) from error
    return Method(family="robust gradients", robustifier=text)


def default_methods(classification: bool) -> tuple[str, ...]:
    """Names of the methods for a task."""
    task = "classification" if classification else "regression"
    return tuple(name for name, method in METHODS.items() if getattr(method, task))


def candidates(method: Method, rates: tuple[float, ...]) -> list[Candidate]:
    """All candidates of a method. Every method has as many as there are rates.

    If the parameter has k values, each value gets every k-th rate: the middle one of each k rates.

    Example:
        >>> from chainrob.experiments.compare.methods import METHODS, candidates
        >>> rates = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
        >>> [(c.value, c.rate) for c in candidates(METHODS["trimmed mean"], rates)][:3]
        [(0.05, 0.003), (0.05, 0.03), (0.05, 0.3)]
    """
    values = method.values or (0.0,)
    chosen = rates[len(values) // 2 :: len(values)] or rates[-1:]
    found = []
    for value in values:
        texts = {
            name: text.replace("{}", f"{value:g}")
            for name in ("robustifier", "loss", "inputs", "clip")
            if (text := getattr(method, name))
        }
        made = replace(method, **texts)
        found += [Candidate(made, rate, value) for rate in chosen]
    return found


def make_robustifier(text: str | None, n_samples: int) -> Robustifier:
    """The robustifier that a text names, for batches of ``n_samples``.

    Non-finite rows are propagated. So a run that diverges shows it.

    Raises:
        ValueError: If the text names no robustifier, or one that cannot work for such batches.

    Example:
        >>> from chainrob.experiments.compare.methods import make_robustifier
        >>> make_robustifier("multi_krum", 50)
        MultiKrum(nonfinite='propagate', f=5)
    """
    if text is None:
        return Mean(nonfinite="propagate")
    made = default(text, n_samples, 0.1, nonfinite="propagate")
    result: Robustifier = (
        made if isinstance(made, Robustifier) else made >> Mean(nonfinite="propagate")
    )
    result.check(n_samples)
    return result
