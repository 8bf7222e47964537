"""Reports as data, and their rendering as HTML and Markdown."""

from __future__ import annotations

from chainrob.experiments.report.alt_texts import lines_alt, map_alt, points_alt, rows_alt
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
    "lines_alt",
    "map_alt",
    "p_text",
    "points_alt",
    "rows_alt",
    "write_report",
]
