"""README leads to files that exist, and its scripts are what they say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_it_is_short():
    assert len(README.splitlines()) <= 130


def test_every_link_leads_to_a_file():
    links = re.findall(r"\]\(([^)]+)\)", README)
    files = [link.partition("#")[0] for link in links if not link.startswith(("http", "#"))]
    assert len(files) > 10
    assert [name for name in files if not (ROOT / name).exists()] == []


def test_pictures_have_texts():
    texts = re.findall(r"!\[([^]]*)\]", README)
    assert len(texts) == 2
    assert all(len(text) > 20 for text in texts)


@pytest.mark.parametrize("number", [0, 1])
def test_script_after_the_change_runs(number):
    """The lines of the diffs that are there afterwards."""
    diff = re.findall(r"```diff\n(.*?)```", README, re.DOTALL)[number]
    if "torch" in diff:
        pytest.importorskip("torch")
    code = "\n".join(line[1:] for line in diff.splitlines() if not line.startswith("-"))
    namespace = {"__name__": "__main__"}
    exec(code, namespace)
    if "Net" in namespace:
        assert namespace["Net"]().l1.robustifier is not None
    else:
        assert "TrimmedMean" in repr(namespace["net"])
