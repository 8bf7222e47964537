"""All variants that a reproduction trains, by question and by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chainrob.experiments.iris import IrisSettings, iris_settings
from chainrob.experiments.reproduce.extent import ReproduceSettings
from chainrob.experiments.reproduce.variants import (
    ClippedMean,
    SlowMean,
    Variant,
    released_truncation,
)
from chainrob.robustifiers import (
    ClipNorm,
    Mean,
    Robustifier,
    SoftTruncation,
    TrimmedMean,
    default,
    names,
)
from chainrob.robustifiers.sample_facts import AsksForFacts

__all__ = [
    "DIFFERENCES",
    "PUSHES",
    "RATES",
    "SHARES",
    "Plan",
    "at_best_rates",
    "finalists",
    "make_plan",
    "robustifiers_tried",
]

Plan = dict[str, dict[Any, Variant]]

RATES = (0.05, 0.1, 0.2, 0.35, 0.5, 1.0, 2.0)
SHARES = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2)
PUSHES = (1.0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6)

DIFFERENCES = (
    "estimate_scale", "variance_ddof", "variance_floor", "small_batches",
    "components_from", "scaling_from",
)  # fmt: skip
"""Fields of IrisSettings in which text and released program differ."""

TRIMMED = (TrimmedMean(fraction=0.05, nonfinite="propagate"),) * 3

# Rough time of a trial with the robustifier on all layers, as a multiple of the plain mean's time.
# It serves to order the jobs and to count the progress. Above _SLOW there are fewer trials.
_SLOW = 40.0
_TIMES = {
    "minimum_diameter_averaging": 310.0, "caf": 62.0, "m_estimator": 25.0,
    "centered_clipping": 19.0, "nearest_neighbor_mixing": 17.0, "median_of_means": 16.0,
    "multi_krum": 15.0, "geometric_median": 8.0, "krum": 8.0, "adaptive_robust_clipping": 3.0,
}  # fmt: skip


def make_plan(settings: ReproduceSettings) -> Plan:
    """All variants of a reproduction.

    Args:
        settings: Numbers of trials and iterations.

    Returns:
        dict: Variants by question, then by name. Questions may share variants.

    Example:
        >>> from chainrob.experiments.reproduce.plan import make_plan
        >>> from chainrob.experiments.reproduce.extent import ReproduceSettings
        >>> sorted(make_plan(ReproduceSettings())["ablation"])
        ['deep', 'deep-rob', 'plain mean, first layer at 1/100']
    """
    base: dict[str, Any] = {
        "iterations": settings.iterations,
        "record_every": settings.record_every,
        "seed": settings.seed,
    }
    main = {name: iris_settings(name, trials=settings.trials, **base) for name in _BOTH}
    sweep = {name: iris_settings(name, trials=settings.sweep_trials, **base) for name in _BOTH}
    released, text = main["released"], main["text"]
    everything: Plan = {
        "figure4": {
            (name, method): Variant.of(main[name], method) for name in _BOTH for method in _METHODS
        },
        "differences": _differences(main),
        "ablation": {
            "deep": Variant.of(released, "deep"),
            "deep-rob": Variant.of(released),
            "plain mean, first layer at 1/100": Variant(released, _slow_first(), settings.trials),
        },
        "baselines": _baselines(released),
        "rates": {
            (method, rate): Variant(
                replace(sweep["released"], learning_rate=rate), layers, settings.sweep_trials
            )
            for method, layers in _rivals().items()
            for rate in RATES
        },
        "shares": _swept(sweep["released"], "contamination", SHARES),
        "pushes": _swept(sweep["released"], "push", PUSHES),
        "clean": {
            (method, share): Variant(
                replace(released, contamination=share), _rivals()[method], settings.trials
            )
            for share in (0.0, released.contamination)
            for method in ("deep", "deep-rob (released)", "trimmed mean 5%, all layers")
        },
        "robustifiers": _robustifiers(text, settings),
    }
    ablation = everything["ablation"]
    for name, variant in ablation.items():
        ablation[name] = replace(variant, trials=settings.ablation_trials)
    asked = {name for one in settings.questions for name in _PARTS.get(one, (one,))}
    return {name: variants for name, variants in everything.items() if name in asked}


_PARTS = {"sweeps": ("shares", "pushes")}
_FINALISTS = 3
_PUBLISHED_RATE = 0.5


def finalists(plan: Plan, errors: Mapping[Variant, NDArray[np.float64]], trials: int) -> Plan:
    """Each method at its three best learning rates of the sweep, with more trials.

    A mean over the sweep's 40 bimodal trials cannot tell neighboring rates apart. So it only
    chooses the rates that get more trials.

    Args:
        plan: A plan with the question ``rates``.
        errors: Errors (trials, recorded times, 2) at least of the variants of this question.
        trials: Number of trials of the new variants; the sweep's trials are the first of them.

    Returns:
        dict: The question ``finalists``: variants by (method, rate).
    """
    chosen = {}
    for method in dict.fromkeys(method for method, _ in plan["rates"]):
        rates = sorted(RATES, key=lambda rate: _order(errors[plan["rates"][method, rate]], rate))
        for rate in sorted(rates[:_FINALISTS]):
            chosen[method, rate] = replace(plan["rates"][method, rate], trials=trials)
    return {"finalists": chosen}


def _order(errors: NDArray[np.float64], rate: float) -> tuple[float, float]:
    """Sort key: mean test error at the end; if equal, the distance from the published rate."""
    return float(errors[:, -1, 1].mean()), abs(float(np.log(rate / _PUBLISHED_RATE)))


def at_best_rates(
    plan: Plan, errors: Mapping[Variant, NDArray[np.float64]], trials: int
) -> dict[Any, Variant]:
    """Each method at its best finalist: least mean test error over the first ``trials`` trials.

    Args:
        plan: A plan with the question ``finalists``.
        errors: Errors (trials, recorded times, 2) at least of the variants of this question.
        trials: Number of the first trials, which choose. The others remain to measure the error.

    Returns:
        dict: Variants by method.
    """
    chosen: dict[Any, Variant] = {}
    for method in dict.fromkeys(method for method, _ in plan["finalists"]):
        tried = {rate: v for (name, rate), v in plan["finalists"].items() if name == method}
        best = min(tried, key=lambda rate: _order(errors[tried[rate]][:trials], rate))
        chosen[method] = tried[best]
    return chosen


_BOTH = ("released", "text")
_METHODS = ("deep", "deep-rob")


def _baselines(released: IrisSettings) -> dict[Any, Variant]:
    """One-line baselines and the oracle, with and without contamination."""
    plain = (None, None, None)
    clipped = (ClippedMean(0.1, nonfinite="propagate"),) * 3
    rivals: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
        "deep": (plain, {}),
        "deep-rob (released)": (_rivals()["deep-rob (released)"], {}),
        "trimmed mean 5%, all layers": (TRIMMED, {}),
        "batch gradient of each layer clipped to 0.1": (clipped, {}),
        "inputs clipped at median ± 3 MAD": (plain, {"inputs": "clipped"}),
        "oracle: without the pushed points": (plain, {"inputs": "good"}),
    }
    return {
        (name, share): Variant(
            replace(released, contamination=share, **change), layers, released.trials
        )
        for share in (released.contamination, 0.0)
        for name, (layers, change) in rivals.items()
        if share or not name.startswith("oracle")
    }


def _slow_first() -> tuple[Any, ...]:
    return (SlowMean(0.01, nonfinite="propagate"), None, None)


def _rivals() -> dict[str, tuple[Any, ...]]:
    return {
        "deep": (None, None, None),
        "deep-rob (released)": (released_truncation(), None, None),
        "deep-rob, scale of the text": (released_truncation("sample"), None, None),
        "plain mean, first layer at 1/100": _slow_first(),
        "trimmed mean 5%, all layers": TRIMMED,
    }


def _differences(settings: dict[str, IrisSettings]) -> dict[Any, Variant]:
    """Each setting unchanged, and with one field of the other setting, for both methods."""
    variants = {}
    for start in _BOTH:
        other = settings["text" if start == "released" else "released"]
        changes: dict[str, dict[str, Any]] = {"nothing": {}}
        changes |= {name: {name: getattr(other, name)} for name in DIFFERENCES}
        changes["initial_weights"] = {"initial_weights": "lecun_normal"}
        for name, change in changes.items():
            for method in _METHODS:
                variants[start, name, method] = Variant.of(
                    replace(settings[start], **change), method
                )
    return variants


def _swept(base: IrisSettings, field: str, values: tuple[float, ...]) -> dict[Any, Variant]:
    changes: list[tuple[float, dict[str, Any]]] = [(value, {field: value}) for value in values]
    return {
        (method, value): Variant(replace(base, **change), layers, base.trials)
        for method, layers in _rivals().items()
        if "scale of the text" not in method
        for value, change in changes
    }


def robustifiers_tried() -> dict[str, Robustifier | str]:
    """Every robustifier with its default for 5% bad of 100, or the reason why it cannot run.

    Example:
        >>> from chainrob.experiments.reproduce.plan import robustifiers_tried
        >>> robustifiers_tried()["trimmed_mean"]
        TrimmedMean(nonfinite='propagate', count=5)
    """
    tried: dict[str, Robustifier | str] = {
        "soft_truncation, pilot mean": SoftTruncation(0.005, nonfinite="propagate")
    }
    for name in names():
        try:
            one = ClipNorm(1.0) if name == "clip_norm" else default(name, 100, 0.05)
        except ValueError as error:
            tried[name] = str(error)
            continue
        if isinstance(one, AsksForFacts):
            tried[name] = "it also needs the samples' losses, or their groups"
            continue
        if not isinstance(one, Robustifier):  # a pre-aggregation, followed by the mean
            tried[f"{name}, then mean"] = one >> Mean(nonfinite="propagate")
            continue
        policy = {item.name for item in fields(one)} & {"nonfinite"}
        tried[name] = replace(one, nonfinite="propagate") if policy else one
    return tried


def _robustifiers(text: IrisSettings, settings: ReproduceSettings) -> dict[Any, Variant]:
    """Each robustifier at the scale of a sample's gradient, on the first and on all layers."""
    variants: dict[Any, Variant] = {}
    for name, robustifier in robustifiers_tried().items():
        if isinstance(robustifier, str):
            continue
        slow = _TIMES.get(name.split(",")[0], 1.5)
        trials = settings.slow_trials if slow > _SLOW else settings.robustifier_trials
        for where, layers in (
            ("first layer", (robustifier, None, None)),
            ("all layers", (robustifier,) * 3),
        ):
            cost = slow if where == "all layers" else max(slow / 3, 1.0)
            variants[name, where] = Variant(text, layers, trials, cost)
    return variants
