"""What all have that are told how many rows are bad."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from chainrob.robustifiers.parameters import require_integer, require_minority


@dataclass(frozen=True, repr=False)
class BadRows:
    """Comes before ``Robustifier`` or ``PreAggregation`` among the bases of what takes ``f``.

    Args:
        f: number of rows assumed bad, an integer of at least 0 with 2f < N.
    """

    f: int

    counts_bad_rows: ClassVar[tuple[str, ...]] = ("f",)

    def __post_init__(self) -> None:
        super().__post_init__()  # type: ignore[misc]
        require_integer(self, "f")

    def check(self, n_samples: int) -> None:
        """Raise ValueError unless 2f < N."""
        require_minority(self, n_samples)
