"""Reports as data, and their rendering as HTML and Markdown."""

from __future__ import annotations

from chainrob.experiments.report.document import (
    Block,
    Code,
    Image,
    Outcome,
    Section,
    Table,
    Text,
    Verdict,
    p_text,
)
from chainrob.experiments.report.writing import write_report

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
    "write_report",
]
