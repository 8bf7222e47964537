"""Reference pages for every public name, from the modules' ``__all__``: none is listed by hand."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path
from typing import Any

MODULES = (
    "chainrob.robustifiers",
    "chainrob.links",
    "chainrob.functions",
    "chainrob.torch",
    "chainrob.torch.functional",
    "chainrob.sklearn",
    "chainrob.training",
    "chainrob.sample_gradients",
    "chainrob.aggregation",
    "chainrob.builders",
    "chainrob.characteristics",
    "chainrob.datasets",
    "chainrob.datasets.contamination",
    "chainrob.differentiation",
    "chainrob.distributed",
    "chainrob.plotting",
    "chainrob.statistics",
)
"""In the order of the pages. A name that several of them export is described at the first."""


def jupyter_anchor(title: str) -> str:
    """The anchor that Jupyter gives to a heading."""
    return title.strip().replace(" ", "-")


def write_pages(app: Any, config: Any) -> None:
    """One page a module, which lists its names, and the index of all modules."""
    folder = Path(app.srcdir) / "reference"
    folder.mkdir(exist_ok=True)
    described: dict[int, str] = {}
    pages = []
    for name in MODULES:
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError:
            continue
        names = [
            one
            for one in sorted(getattr(module, "__all__", ()), key=str.lower)
            if not inspect.ismodule(getattr(module, one))
        ]
        own, others = [], []
        for one in names:
            value = getattr(module, one)
            known = described.setdefault(id(value), name) if callable(value) else name
            (own if known == name else others).append((one, known))
        if not own:
            continue
        pages.append(name)
        _write(folder / f"{name}.rst", _page(name, [one for one, _ in own], others))
    top = importlib.import_module("chainrob")
    short = [one for one in sorted(top.__all__, key=str.lower) if callable(getattr(top, one))]
    _write(folder / "modules.rst", _index(pages, short, described, top))


def _page(name: str, own: list[str], others: list[tuple[str, str]]) -> str:
    lines = [name, "=" * len(name), "", f".. automodule:: {name}", "   :no-members:", ""]
    lines += [f".. currentmodule:: {name}", "", ".. autosummary::", "   :toctree: names", ""]
    lines += [f"   {one}" for one in own]
    if others:
        lines += ["", "Also here: " + ", ".join(f":py:obj:`{m}.{one}`" for one, m in others) + "."]
    return "\n".join(lines) + "\n"


def _index(pages: list[str], short: list[str], described: dict[int, str], top: Any) -> str:
    lines = ["Modules", "=======", "", ".. toctree::", "   :maxdepth: 1", ""]
    lines += [f"   {page}" for page in pages]
    lines += ["", "Names of the package itself", "---------------------------", ""]
    for one in short:
        home = described.get(id(getattr(top, one)))
        if home:
            lines.append(f"- ``chainrob.{one}``: :py:obj:`{home}.{one}`")
    return "\n".join(lines) + "\n"


def _write(path: Path, text: str) -> None:
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


def escape_stars(
    app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]
) -> None:
    """Let ``(*R, N)`` be a shape in docstrings, where reStructuredText sees emphasis."""
    for number, line in enumerate(lines):
        if line.lstrip().startswith((">>>", "...")):
            continue
        parts = line.split("``")
        parts[::2] = [re.sub(r"(?<![\\*\w])\*(?=\w+[,)\]])", r"\*", part) for part in parts[::2]]
        lines[number] = "``".join(parts)


def skip_foreign(
    app: Any, what: str, name: str, thing: Any, skip: bool, options: Any
) -> bool | None:
    """Leave out what other packages put into our classes."""
    module = getattr(thing, "__module__", None) or ""
    return True if what == "class" and module.startswith(("sklearn", "chainer")) else None


def setup(app: Any) -> dict[str, bool]:
    app.setup_extension("sphinx.ext.autodoc")
    app.connect("autodoc-process-docstring", escape_stars, priority=900)
    app.connect("autodoc-skip-member", skip_foreign)
    # Before Sphinx looks for pages, and autosummary reads them.
    app.connect("config-inited", write_pages)
    return {"parallel_read_safe": True}
