"""Mathematics as MathML, which browsers draw themselves: no script, no font, no network."""

from __future__ import annotations

import re
from typing import Any

from latex2mathml.converter import convert


def _mathml(latex: str, display: str) -> str:
    # Sphinx writes several formulas of one directive below each other, parted by an empty line.
    parts = [part for part in re.split(r"\n\s*\n", latex.strip()) if part.strip()]
    return "".join(convert(" ".join(part.split()), display=display) for part in parts)


def visit_inline(self: Any, node: Any) -> None:
    self.body.append(_mathml(node.astext(), "inline"))


def visit_block(self: Any, node: Any) -> None:
    self.body.append(f'<div class="math">{_mathml(node.astext(), "block")}</div>')


def skip(self: Any, node: Any) -> None:
    """The children are in the formula already."""


def setup(app: Any) -> dict[str, bool]:
    def inline(self: Any, node: Any) -> None:
        visit_inline(self, node)
        raise SkipNode

    def block(self: Any, node: Any) -> None:
        visit_block(self, node)
        raise SkipNode

    from docutils.nodes import SkipNode

    app.add_html_math_renderer("mathml", (inline, skip), (block, skip))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
