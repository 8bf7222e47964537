"""Every notebook runs from top to bottom, and is committed with its outputs."""

from __future__ import annotations

import contextlib
import json
import sys
import types
import warnings
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest

from chainrob.robustifiers import registry

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))

# Trials and steps that make a figure worth looking at are no more code than a few of them.
SHORTER = {
    "argmin": {"range(60)": "range(3)", "steps=[10, 40, 160]": "steps=[10, 20]"},
    "choosing_a_robustifier": {"seeds=3": "seeds=2", "updates=60": "updates=5"},
    "deep_functions": {
        "128, 192, 256, 384, 512, 768, 1024": "16, 32, 48",
        "[0.08] * 400 + [0.008] * 200": "[0.08] * 10",
    },
    "demo": {"iterations=1000": "iterations=100", "trials=20": "trials=2"},
    "derivatives": {
        "[50, 200, 800]": "[50, 60, 80]",
        "repeats=9": "repeats=2",
        "repeats=5": "repeats=2",
        "steps=200": "steps=5",
    },
    "own_robustifier": {"trials=10": "trials=2, iterations=200", "draws=300": "draws=30"},
    "pytorch_suspects": {"epochs=15": "epochs=2"},
}

every = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code_cells(path: Path) -> list[dict[str, Any]]:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code" and "".join(cell["source"])]


def shorter_sources(path: Path) -> list[str]:
    """The code of the cells, with fewer trials and steps."""
    cells = ["".join(cell["source"]) for cell in code_cells(path)]
    for long, short in SHORTER.get(path.stem, {}).items():
        assert any(long in cell for cell in cells), f"{path.stem} no longer says {long}"
        cells = [cell.replace(long, short) for cell in cells]
    return cells


def test_there_are_notebooks():
    assert NOTEBOOKS, f"no notebooks in {FOLDER}"


@pytest.mark.slow
@pytest.mark.timeout(300)
@every
def test_notebook_runs(path, tmp_path, monkeypatch):
    """In this process: a kernel for each would import everything anew."""
    sources = shorter_sources(path)
    if any("import torch" in source for source in sources):
        torch = pytest.importorskip("torch")
        state: contextlib.AbstractContextManager[Any] = torch.random.fork_rng()
    else:
        state = contextlib.nullcontext()
    monkeypatch.chdir(tmp_path)
    # What a notebook registers is its own: other tests ask for all that is registered.
    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))
    main = types.ModuleType("__main__")  # where pickle looks for the notebook's classes
    monkeypatch.setitem(sys.modules, "__main__", main)
    with warnings.catch_warnings(), np.printoptions(), plt.rc_context(), state:
        # As a reader has it: matplotlib and Chainer may warn of what is theirs.
        warnings.simplefilter("default")
        for number, source in enumerate(sources, 1):
            exec(compile(source, f"{path.name}, code cell {number}", "exec"), vars(main))
            for figure in map(plt.figure, plt.get_fignums()):
                figure.canvas.draw()  # as the notebook shows it below the cell
            plt.close("all")


@every
def test_notebook_is_plain_python(path):
    """So that a cell can be run without Jupyter, here and by who copies it."""
    for cell in code_cells(path):
        lines = "".join(cell["source"]).splitlines()
        assert not [line for line in lines if line.lstrip().startswith(("%", "!"))]


@every
def test_notebook_is_committed_with_outputs(path):
    cells = code_cells(path)
    assert all(cell["execution_count"] for cell in cells), "a cell was not executed"
    assert any(cell["outputs"] for cell in cells), "no cell has an output"
    outputs = [out for cell in cells for out in cell["outputs"]]
    errors = [out for out in outputs if out["output_type"] == "error"]
    assert not errors, f"an output is an error: {errors[0]['ename']}"
