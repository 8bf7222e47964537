"""The settings of a comparison, from options or a TOML file."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from chainrob.experiments.compare.corruption import CORRUPTIONS, parse_contamination
from chainrob.experiments.compare.data_sources import DATA, parse_data
from chainrob.experiments.compare.losses import loss_of
from chainrob.experiments.compare.methods import (
    candidates,
    default_methods,
    make_robustifier,
    method_of,
)
from chainrob.experiments.usage import UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["QUICK", "CompareSettings", "read_settings"]


@dataclass(frozen=True, kw_only=True)
class CompareSettings:
    """Settings of a comparison.

    Args:
        data: Data sets by name (iris, wine, breast_cancer, digits, clusters, strokes, diabetes,
            plane, friedman) or files FILE.csv, FILE.npz; options follow after colons, as in
            mine.csv:target=price:network=mlp32:batch=64.
        methods: Methods by name, or robustifiers such as krum:f=3, in the grammar of
            ``chainrob.robustifiers``; empty means all methods that suit the task.
        contaminations: None, or KIND:SHARE with KIND one of labels, classes, push, noise, outliers,
            heavy, asymmetric, leverage; each data set gets those that suit its task.
        learning_rates: The rates that each method chooses from, together with its parameter.
        seeds: Number of seeds; each has its own split, contamination, batches and initial weights.
        updates: Number of updates of the parameters.
        seed: The first seed.

    Raises:
        ValueError: If a name or a number cannot work.
    """

    data: tuple[str, ...] = tuple(DATA)
    methods: tuple[str, ...] = ()
    contaminations: tuple[str, ...] = (
        "none",
        "labels:0.1",
        "labels:0.2",
        "labels:0.3",
        "labels:0.4",
        "classes:0.2",
        "classes:0.4",
        "push:0.02",
        "push:0.1",
        "push:0.3",
        "noise:0.1",
        "noise:0.3",
        "outliers:0.1",
        "outliers:0.4",
        "heavy:0.1",
        "heavy:0.2",
        "heavy:0.4",
        "asymmetric:0.1",
        "asymmetric:0.3",
        "leverage:0.02",
        "leverage:0.1",
        "leverage:0.3",
    )
    learning_rates: tuple[float, ...] = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
    seeds: int = 10
    updates: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("data", "methods", "contaminations", "learning_rates"):
            value = getattr(self, name)
            if isinstance(value, str) or (not value and name != "methods"):
                raise ValueError(f"{name} must be a list with at least one entry, found {value!r}")
            object.__setattr__(self, name, tuple(value))
            if len(set(value)) < len(value):
                raise ValueError(f"{name} must not repeat an entry, found {value!r}")
        for name, least in (("seeds", 1), ("updates", 1), ("seed", 0)):
            number = getattr(self, name)
            if not isinstance(number, int) or number < least:
                raise ValueError(f"{name} must be an integer of at least {least}, found {number!r}")
        for rate in self.learning_rates:
            if not isinstance(rate, (int, float)) or not 0 < rate < float("inf"):
                raise ValueError(f"learning_rates must be positive numbers, found {rate!r}")
        for text in self.contaminations:
            parse_contamination(text)
        for text in self.methods:
            method_of(text)
        for data in self.data:
            source = parse_data(data)
            if not self.contaminations_of(data):
                raise ValueError(
                    f"contaminations must hold one that suits {data}, found "
                    f"{', '.join(self.contaminations)}"
                )
            if not self.methods_of(data):
                raise ValueError(
                    f"methods must hold one that suits {data}, found {', '.join(self.methods)}"
                )
            for text in self.methods_of(data):
                for one in candidates(method_of(text), self.learning_rates):
                    make_robustifier(one.method.robustifier, source.batch)
                    if one.method.family != "linear fit":
                        loss_of(one.method.loss, source.classification)

    def methods_of(self, data: str) -> tuple[str, ...]:
        """Names of the methods that suit a data set."""
        classification = parse_data(data).classification
        task = "classification" if classification else "regression"
        named = self.methods or default_methods(classification)
        return tuple(text for text in named if getattr(method_of(text), task))

    def contaminations_of(self, data: str) -> tuple[str, ...]:
        """Contaminations that suit a data set."""
        task = "classification" if parse_data(data).classification else "regression"
        return tuple(
            text
            for text in self.contaminations
            if text == "none" or getattr(CORRUPTIONS[parse_contamination(text)[0]], task)
        )

    def as_dict(self) -> dict[str, Any]:
        """The settings, in values that JSON can hold."""
        return asdict(self)


QUICK: dict[str, Any] = {
    "data": ("iris", "strokes", "plane"),
    "methods": (
        "plain mean",
        "inputs clipped",
        "label smoothing",
        "Huber loss",
        "M-estimator",
        "trimmed mean",
    ),
    "contaminations": ("none", "labels:0.2", "push:0.1", "heavy:0.2"),
    "seeds": 5,
    "updates": 60,
}
"""A comparison of about a minute."""


def read_settings(path: str | os.PathLike[str]) -> dict[str, Any]:
    r"""The settings in a TOML file. Its keys are the fields of ``CompareSettings``.

    Raises:
        UsageError: If the file cannot be read, is not TOML or has an unknown key.

    Example:
        >>> import pathlib, tempfile
        >>> from chainrob.experiments.compare.comparison_settings import read_settings
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "small.toml"
        >>> _ = path.write_text('data = ["iris"]\nseeds = 2\n')
        >>> read_settings(path)
        {'data': ['iris'], 'seeds': 2}
    """
    try:
        content: dict[str, Any] = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{os.fspath(path)} cannot be read: {error}") from error
    known = [field.name for field in fields(CompareSettings)]
    unknown = sorted(set(content) - set(known))
    if unknown:
        raise UsageError(
            f"{os.fspath(path)}: unknown settings {', '.join(unknown)}; known settings are "
            f"{', '.join(known)}"
        )
    return content
