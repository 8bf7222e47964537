"""Pictures that notebooks draw get a text in their place: where in the notebook they stand."""

from __future__ import annotations

from typing import Any

from docutils import nodes


def describe_pictures(app: Any, doctree: nodes.document) -> None:
    """Name the section of every picture that has no text of its own."""
    for picture in doctree.findall(nodes.image):
        if picture.get("alt"):
            continue
        section: Any = picture.parent
        while section is not None and not isinstance(section, nodes.section):
            section = section.parent
        title = section.next_node(nodes.title).astext() if section is not None else "this page"
        picture["alt"] = f"Figure drawn by the code above it, in the section: {title}"


def setup(app: Any) -> dict[str, bool]:
    app.connect("doctree-read", describe_pictures)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
