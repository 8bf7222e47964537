"""A report as data: sections of paragraphs, tables, figures and verdicts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from matplotlib.figure import Figure

__all__ = [
    "Block",
    "Code",
    "Image",
    "Outcome",
    "Section",
    "Table",
    "Text",
    "Verdict",
    "p_text",
    "verdicts_by_rule",
]

Outcome = Literal["holds", "does not hold", "not shown", "cannot be said"]
"""``'not shown'``: the data allow both answers. ``'cannot be said'``: the rule needs more data."""


@dataclass(frozen=True)
class Text:
    """A paragraph. Backticks mark `code`."""

    text: str


@dataclass(frozen=True)
class Code:
    """The output of a program, or the content of a file."""

    text: str


@dataclass(frozen=True)
class Table:
    """A table. Its cells are text, or numbers that are formatted as text."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]


@dataclass(frozen=True, eq=False)
class Image:
    """A figure, to be saved under its name.

    Attributes:
        name: File name without its ending.
        figure: The figure.
        caption: What the figure is, in a line.
        alt: What the picture shows, in sentences, for readers who cannot see it.
    """

    name: str
    figure: Figure
    caption: str
    alt: str


@dataclass(frozen=True)
class Verdict:
    """A claim, whether it holds, the rule that decides it, and the measured result."""

    claim: str
    outcome: Outcome
    rule: str
    found: str

    @classmethod
    def of(cls, claim: str, outcome: Outcome | bool, rule: str, found: str) -> Verdict:
        """A verdict from a rule's outcome; True is ``'holds'`` and False ``'does not hold'``."""
        if not isinstance(outcome, str):
            outcome = "holds" if outcome else "does not hold"
        return cls(claim, outcome, rule, found)


Block = Text | Code | Table | Image | Verdict


@dataclass
class Section:
    """A heading and the blocks below it."""

    title: str
    blocks: list[Block] = field(default_factory=list)
    level: int = 2

    def verdicts(self) -> list[Verdict]:
        """The verdicts of the section, in order."""
        return [block for block in self.blocks if isinstance(block, Verdict)]


def verdicts_by_rule(blocks: Iterable[Block]) -> list[Block | list[Verdict]]:
    """The blocks, in which consecutive verdicts by one rule are grouped into a list.

    Example:
        >>> from chainrob.experiments.report.document import Text, Verdict, verdicts_by_rule
        >>> a, b, c = (Verdict(n, "holds", r, "") for n, r in (("a", "r"), ("b", "r"), ("c", "s")))
        >>> [len(g) if isinstance(g, list) else 0 for g in verdicts_by_rule([Text("t"), a, b, c])]
        [0, 2, 1]
    """
    result: list[Block | list[Verdict]] = []
    for block in blocks:
        last = result[-1] if result else None
        if not isinstance(block, Verdict):
            result.append(block)
        elif isinstance(last, list) and last[-1].rule == block.rule:
            last.append(block)
        else:
            result.append([block])
    return result


def p_text(p: float) -> str:
    """A p-value as text. A very small one is not written as 0."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
