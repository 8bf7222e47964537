"""What a comparison runs, from flags or a TOML file."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from chainrob.experiments.compare.problems import DATA, parse_contamination
from chainrob.experiments.usage import UsageError
from chainrob.robustifiers import Mean, Robustifier, default

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["CompareSettings", "make_robustifier", "read_settings"]


@dataclass(frozen=True, kw_only=True)
class CompareSettings:
    """Settings; the defaults take about ten minutes on two cores.

    Args:
        data: Names of data sets that scikit-learn ships.
        robustifiers: In the grammar of ``chainrob.robustifiers.grammar``; a name
            alone has its defaults by batch size and ``assumed``.
        contaminations: As ``parse_contamination`` reads them.
        learning_rates: Each is tried; the best for the worst contamination is
            chosen on validation data.
        seeds: Each has its own split, contamination, batches and initial weights.
        assumed: Share of bad samples that the robustifiers' defaults are made for.
        updates: Updates of the parameters.
        batch: Samples in a batch (all of them where there are fewer).
        hidden: Units of the one hidden layer.
        seed: Of everything.

    Raises:
        ValueError: If a name or a number cannot work.
    """

    data: tuple[str, ...] = tuple(DATA)
    robustifiers: tuple[str, ...] = (
        "mean",
        "soft_truncation",
        "m_estimator",
        "coordinate_median",
        "trimmed_mean",
        "median_of_means",
        "geometric_median",
        "multi_krum",
        "nearest_neighbor_mixing >> trimmed_mean",
    )
    contaminations: tuple[str, ...] = ("none", "push", "labels", "noise", "leverage")
    learning_rates: tuple[float, ...] = (0.03, 0.1, 0.3, 1.0, 3.0)
    seeds: int = 8
    assumed: float = 0.2
    updates: int = 300
    batch: int = 50
    hidden: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("data", "robustifiers", "contaminations", "learning_rates"):
            value = getattr(self, name)
            if isinstance(value, str) or not value:
                raise ValueError(f"{name} must be a list with at least one entry, found {value!r}")
            object.__setattr__(self, name, tuple(value))
            if len(set(value)) < len(value):
                raise ValueError(f"{name} must not repeat an entry, found {value!r}")
        for name, least in (("seeds", 1), ("updates", 1), ("batch", 2), ("hidden", 1), ("seed", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise ValueError(f"{name} must be an integer of at least {least}, found {value!r}")
        unknown = sorted(set(self.data) - set(DATA))
        if unknown:
            raise ValueError(f"unknown data {', '.join(unknown)}; known are {', '.join(DATA)}")
        for rate in self.learning_rates:
            if not isinstance(rate, (int, float)) or not 0 < rate < float("inf"):
                raise ValueError(f"learning_rates must be positive numbers, found {rate!r}")
        for text in self.contaminations:
            parse_contamination(text)
        for text in self.robustifiers:
            make_robustifier(text, self.batch, self.assumed)

    def as_dict(self) -> dict[str, Any]:
        """The settings as JSON can hold them."""
        return asdict(self)


def make_robustifier(text: str, n_samples: int, assumed: float) -> Robustifier:
    """The robustifier that a text names, for batches of ``n_samples``.

    Rows that are not finite are propagated, so that a run that diverges shows it.

    Raises:
        ValueError: If the text names none, or one that cannot work for such batches.

    Example:
        >>> from chainrob.experiments.compare.settings import make_robustifier
        >>> make_robustifier("multi_krum", 50, 0.1)
        MultiKrum(nonfinite='propagate', f=5)
    """
    made = default(text, n_samples, assumed, nonfinite="propagate")
    result: Robustifier = (
        made if isinstance(made, Robustifier) else made >> Mean(nonfinite="propagate")
    )
    result.check(n_samples)
    return result


def read_settings(path: str | os.PathLike[str]) -> dict[str, Any]:
    r"""The settings that a TOML file gives; its keys are the fields of ``CompareSettings``.

    Raises:
        UsageError: If the file cannot be read, is no TOML or has a key that is no setting.

    Example:
        >>> import pathlib, tempfile
        >>> from chainrob.experiments.compare.settings import read_settings
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
            f"{os.fspath(path)}: unknown settings {', '.join(unknown)}; known are "
            f"{', '.join(known)}"
        )
    return content
