"""The notebooks run from top to bottom on small settings, and are stored without outputs."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
GROUPS = {"flow": ["01"], "layer": ["02"], "runs": ["03", "04"]}  # the last one draws what the one before it has run


def code_cells(path: Path) -> list[dict]:
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_not_stored(path: Path):
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code_cells(path))


def test_every_notebook_is_run_below():
    assert sorted(number for group in GROUPS.values() for number in group) == [path.name[:2] for path in NOTEBOOKS]


@pytest.mark.parametrize("group", GROUPS)
def test_notebooks_run_and_show_something(group: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import nbformat
    from nbclient import NotebookClient

    settings = {
        "BINLLM_NOTEBOOK_MODEL": "stories260k",
        "BINLLM_NOTEBOOK_RUNS": str(tmp_path / "results" / "stories260k-*"),
        "BINLLM_NOTEBOOK_OUT": str(tmp_path / "figures"),
        "BINLLM_RESULTS": str(tmp_path / "results"),
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "OMP_NUM_THREADS": "1",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    for number in GROUPS[group]:
        (path,) = (path for path in NOTEBOOKS if path.name.startswith(number))
        notebook = nbformat.read(path, as_version=4)
        NotebookClient(notebook, timeout=240, resources={"metadata": {"path": str(tmp_path)}}).execute()
        assert sum(len(cell.outputs) for cell in notebook.cells if cell.cell_type == "code") >= 3
    if group == "runs":
        assert {path.stem for path in (tmp_path / "figures").glob("*.svg")} >= {
            "drift",
            "attention",
            "similarity",
            "shape",
        }
