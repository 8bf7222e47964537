"""The report in Markdown."""

from __future__ import annotations

from collections.abc import Iterable

from chainrob.experiments.report.document import (
    Block,
    Code,
    Image,
    Section,
    Table,
    Text,
    Verdict,
    verdicts_by_rule,
)

__all__ = ["to_markdown"]


def to_markdown(title: str, sections: Iterable[Section]) -> str:
    r"""The report as Markdown. Figures are links to ``figures/NAME.png``.

    Example:
        >>> from chainrob.experiments.report.document import Section, Table, Text
        >>> from chainrob.experiments.report.markdown import to_markdown
        >>> section = Section("A", [Text("Seen."), Table(["x"], [["1|2"]])])
        >>> print(to_markdown("Report", [section]))
        # Report
        <BLANKLINE>
        ## A
        <BLANKLINE>
        Seen.
        <BLANKLINE>
        | x |
        | --- |
        | 1\|2 |
        <BLANKLINE>
    """
    parts = [f"# {title}"]
    for section in sections:
        parts.append(f"{'#' * section.level} {section.title}")
        parts += [_block(block) for block in verdicts_by_rule(section.blocks)]
    return "\n\n".join(parts) + "\n"


def _block(block: Block | list[Verdict]) -> str:
    if isinstance(block, Text):
        return block.text
    if isinstance(block, Code):
        return f"```\n{block.text}\n```"
    if isinstance(block, Image):
        return f"![{_bare(block.alt)}](figures/{block.name}.png)\n\n*{block.caption}*"
    if isinstance(block, Table):
        lines = [_row(block.columns), _row(["---"] * len(block.columns))]
        return "\n".join([*lines, *(_row(row) for row in block.rows)])
    verdicts = block if isinstance(block, list) else [block]
    rule = f"> Rule: {verdicts[0].rule}"
    return "\n>\n".join(
        [rule, *(f"> **{v.outcome}**: {v.claim}. Found: {v.found}" for v in verdicts)]
    )


def _bare(text: str) -> str:
    """Text between square brackets must not hold any."""
    return text.replace("[", "(").replace("]", ")")


def _row(cells: Iterable[object]) -> str:
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"
