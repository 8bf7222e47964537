"""One reference page a module, made from the modules' ``__all__``: no name is listed by hand."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import sys
from itertools import pairwise
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
    """A page for every module that can be imported, and the index of all names."""
    folder = Path(app.srcdir) / "reference"
    folder.mkdir(exist_ok=True)
    described: dict[int, str] = {}
    pages = []
    for name in MODULES:
        try:
            module = importlib.import_module(name)
        except ImportError:
            continue
        names = [
            one
            for one in sorted(getattr(module, "__all__", ()), key=str.lower)
            if not inspect.ismodule(getattr(module, one)) and not one.startswith("__")
        ]
        own, others = [], []
        for one in names:
            value = getattr(module, one)
            known = described.setdefault(id(value), name) if callable(value) else name
            (own if known == name else others).append((one, known))
        if not own:
            continue
        pages.append(name)
        _write(folder / f"{name}.rst", _page(name, module, [one for one, _ in own], others))
    for left in folder.glob("chainrob.*.rst"):
        if left.stem not in pages:
            left.unlink()
    top = importlib.import_module("chainrob")
    short = [one for one in sorted(top.__all__, key=str.lower) if callable(getattr(top, one))]
    _write(folder / "modules.rst", _index(pages, short, described, top))


def _page(name: str, module: Any, own: list[str], others: list[tuple[str, str]]) -> str:
    lines = [name, "=" * len(name), "", f".. automodule:: {name}", "   :no-members:", ""]
    lines += [".. list-table::", "   :widths: 30 70", ""]
    for one in own:
        lines += [f"   * - :py:obj:`{one} <{name}.{one}>`"]
        lines += [f"     - {_first_sentence(module, one)}"]
    if others:
        lines += ["", "Also here: " + ", ".join(f":py:obj:`{m}.{one}`" for one, m in others) + "."]
    lines += ["", f".. currentmodule:: {name}", ""]
    for one in own:
        value = getattr(module, one)
        lines += [one, "-" * len(one), ""]
        if not (inspect.isclass(value) or inspect.isroutine(value)):
            text = _constant(module, one)
            lines += [f".. py:data:: {one}", f"   :type: {type(value).__name__}", ""]
            lines += [f"   {line}" for line in text.splitlines()] + [""]
            continue
        if inspect.isclass(value):
            kind = "autoexception" if issubclass(value, BaseException) else "autoclass"
        else:
            kind = "autofunction"
        lines += [f".. {kind}:: {one}", ""]
    return "\n".join(lines) + "\n"


def _constant(module: Any, name: str) -> str:
    """The string below a constant, wherever in the package it is defined; where it is not, none."""
    for other in [module, *(sys.modules[one] for one in sorted(sys.modules))]:
        if not other.__name__.startswith(module.__name__) or not hasattr(other, name):
            continue
        body = ast.parse(inspect.getsource(other)).body
        for statement, following in pairwise(body):
            targets = getattr(statement, "targets", None) or [getattr(statement, "target", None)]
            if name in [getattr(one, "id", None) for one in targets]:
                text = getattr(getattr(following, "value", None), "value", "")
                return inspect.cleandoc(text) if isinstance(text, str) else ""
    return ""


def _first_sentence(module: Any, name: str) -> str:
    """Of a docstring, as plain text."""
    value = getattr(module, name)
    named = inspect.isclass(value) or inspect.isroutine(value)
    whole = inspect.getdoc(value) if named else _constant(module, name)
    text = " ".join((whole or "").split("\n\n")[0].split())
    sentence = re.split(r"(?<=[a-z)`'])[.](?= [A-Z]|$)", text)[0].rstrip(".:")
    sentence = re.sub(r":[a-z]+:`([^`]*)`", r"\1", sentence)
    return re.sub(r"([*|\\]|(?<!`)`(?!`)|_\b)", r"\\\1", sentence)


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


def escape(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Let ``(*R, N)`` and ``|x|`` be text in docstrings, where reStructuredText sees markup."""
    block: int | None = None  # how far the head of a formula or a literal block is indented
    for number, line in enumerate(lines):
        indent = len(line) - len(line.lstrip())
        if block is not None and (not line.strip() or indent > block):
            continue
        block = indent if line.rstrip().endswith("::") or ".. math::" in line else None
        if block is not None or line.lstrip().startswith((">>>", "...")):
            continue
        parts = re.split(r"(``.*?``|:math:`.*?`)", line)
        for place in range(0, len(parts), 2):
            text = re.sub(r"(?<![\\*\w])\*(?=\w+[,)\]])", r"\*", parts[place])
            parts[place] = re.sub(r"(?<!\\)\|(?=\w[^|]*\|)", r"\|", text)
        lines[number] = "".join(parts)


def skip_foreign(
    app: Any, what: str, name: str, thing: Any, skip: bool, options: Any
) -> bool | None:
    """Leave out what other packages put into our classes, and what they explain."""
    if name == "check_type_forward":
        return True
    module = getattr(thing, "__module__", None) or ""
    return True if what == "class" and module.startswith(("sklearn", "chainer", "torch")) else None


def setup(app: Any) -> dict[str, bool]:
    app.setup_extension("sphinx.ext.autodoc")
    app.connect("autodoc-process-docstring", escape, priority=900)
    app.connect("autodoc-skip-member", skip_foreign)
    # Before Sphinx looks for pages.
    app.connect("config-inited", write_pages)
    return {"parallel_read_safe": True}
