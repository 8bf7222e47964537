"""Every block of Python in the manual runs, page by page, and every example script."""

from __future__ import annotations

import contextlib
import re
import runpy
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from chainrob.robustifiers import registry

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
BLOCK = re.compile(r"^(% not run: .+\n)?```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
GENERATED = ("reference/chainrob", "results", "contributing/changes", "_")


def name(path: Path) -> str:
    return path.relative_to(DOCS).with_suffix("").as_posix()


PAGES = [
    page
    for page in sorted(DOCS.rglob("*.md"))
    if not name(page).startswith(GENERATED) and "```python" in page.read_text()
]
EXAMPLES = sorted((DOCS / "examples").glob("*.py"))


def test_blocks_are_found():
    assert len(PAGES) > 10
    assert len(EXAMPLES) == 3


@pytest.mark.parametrize("page", [*PAGES, *EXAMPLES], ids=name)
def test_chainrob_is_imported_before_chainer(page):
    """As a reader needs it; here everything is imported already."""
    imports = re.findall(r"^(?:import|from) (\w+)", page.read_text(), re.MULTILINE)
    if "chainer" in imports:
        assert imports.index("chainrob") < imports.index("chainer")


@contextlib.contextmanager
def as_a_reader(monkeypatch):
    """What runs here leaves nothing behind, and may warn."""
    # What a page registers is its own: other tests ask for all that is registered.
    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))
    state = np.random.get_state()  # noqa: NPY002
    torch = sys.modules.get("torch")
    with warnings.catch_warnings(), torch.random.fork_rng() if torch else contextlib.nullcontext():
        # Matplotlib and Chainer may warn of what is theirs.
        warnings.simplefilter("default")
        yield
    np.random.set_state(state)  # noqa: NPY002


@pytest.mark.timeout(300)  # kernels are compiled at their first call
@pytest.mark.parametrize("page", PAGES, ids=name)
def test_blocks_of_a_page_run_from_top_to_bottom(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = page.read_text()
    namespace = {"__name__": "__main__"}
    for block in BLOCK.finditer(text):
        reason, code = block.groups()
        if reason:
            continue
        if "torch" in code:
            pytest.importorskip("torch")
        # An error names the line of the page.
        lines = "\n" * text[: block.start(2)].count("\n")
        with as_a_reader(monkeypatch):
            exec(compile(lines + code, str(page), "exec"), namespace)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("script", EXAMPLES, ids=name)
def test_example_prints_what_the_manual_shows(script, monkeypatch, capsys):
    if "torch" in script.name:
        pytest.importorskip("torch")
    with as_a_reader(monkeypatch):
        runpy.run_path(str(script), run_name="__main__")
    printed = capsys.readouterr().out
    shown = script.with_suffix(".txt").read_text()
    number = re.compile(r"\d+\.\d+")
    assert number.sub("", printed) == number.sub("", shown)
    for found, expected in zip(number.findall(printed), number.findall(shown), strict=True):
        # Another processor rounds differently, and twenty epochs magnify that.
        assert float(found) == pytest.approx(float(expected), abs=0.06)
