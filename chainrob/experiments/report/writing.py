"""The files of a report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from chainrob.experiments.files import prepare_folder, save_figure, write_bytes
from chainrob.experiments.report.document import Image, Section
from chainrob.experiments.report.html import to_html
from chainrob.experiments.report.markdown import to_markdown

__all__ = ["write_report"]


def write_report(title: str, sections: Sequence[Section], folder: Path) -> None:
    """Write ``report.html``, ``report.md`` and ``figures/`` (PNG and PDF) into a folder."""
    figures = prepare_folder(folder / "figures")
    pictures = {}
    for section in sections:
        for block in section.blocks:
            if isinstance(block, Image):
                save_figure(block.figure, figures / block.name)
                pictures[block.name] = (figures / f"{block.name}.png").read_bytes()
    write_bytes(folder / "report.md", to_markdown(title, sections).encode())
    write_bytes(folder / "report.html", to_html(title, sections, pictures).encode())
