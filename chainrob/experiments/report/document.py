"""A report as data: sections of paragraphs, tables, figures and verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from matplotlib.figure import Figure

__all__ = ["Block", "Code", "Image", "Outcome", "Section", "Table", "Text", "Verdict"]

Outcome = Literal["holds", "does not hold", "not shown", "cannot be said"]
"""``'not shown'``: the data allow both; ``'cannot be said'``: fewer data than the rule is for."""


@dataclass(frozen=True)
class Text:
    """A paragraph; `code` stands between backticks."""

    text: str


@dataclass(frozen=True)
class Code:
    """What a program printed, or a file's content."""

    text: str


@dataclass(frozen=True)
class Table:
    """A table; its cells are text or numbers that are text already."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]


@dataclass(frozen=True, eq=False)
class Image:
    """A figure, to be saved under its name."""

    name: str
    figure: Figure
    caption: str


@dataclass(frozen=True)
class Verdict:
    """A claim, whether it holds, the rule that decides it, and what was found."""

    claim: str
    outcome: Outcome
    rule: str
    found: str

    @classmethod
    def of(cls, claim: str, outcome: Outcome | bool, rule: str, found: str) -> Verdict:
        """A verdict from what a rule gave, True and False being ``'holds'`` and not."""
        if not isinstance(outcome, str):
            outcome = "holds" if outcome else "does not hold"
        return cls(claim, outcome, rule, found)


Block = Text | Code | Table | Image | Verdict


@dataclass
class Section:
    """A heading and what follows it."""

    title: str
    blocks: list[Block] = field(default_factory=list)
    level: int = 2

    def verdicts(self) -> list[Verdict]:
        """The verdicts of the section, in order."""
        return [block for block in self.blocks if isinstance(block, Verdict)]
