"""Every notebook runs from top to bottom, and is committed with its outputs."""

import importlib.util
import os
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
SECONDS_A_CELL = 120


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]


def test_there_are_notebooks():
    assert NOTEBOOKS, f"no notebooks in {FOLDER}"


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path, tmp_path, monkeypatch):
    # The kernel is a process of its own: what it warns of is its own affair, that it fails is ours.
    monkeypatch.setenv("PYTHONWARNINGS", "default")
    monkeypatch.setenv("IPYTHONDIR", os.fspath(tmp_path / "ipython"))
    notebook = nbformat.read(path, as_version=4)
    of_torch = any("import torch" in cell.source for cell in code_cells(notebook))
    if of_torch and importlib.util.find_spec("torch") is None:
        pytest.skip("needs PyTorch")
    client = nbclient.NotebookClient(
        notebook, timeout=SECONDS_A_CELL, resources={"metadata": {"path": os.fspath(tmp_path)}}
    )
    client.execute()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_committed_with_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    cells = code_cells(notebook)
    assert all(cell.execution_count for cell in cells), "a cell was not executed"
    assert any(cell.outputs for cell in cells), "no cell has an output"
    errors = [out for cell in cells for out in cell.outputs if out.output_type == "error"]
    assert not errors, f"an output is an error: {errors[0]['ename']}"
