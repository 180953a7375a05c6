"""Shared by the pipeline tests: the smallest run, and what lies in a results folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from binllm.tracking.folder import RunPaths

TINY = ("debug=tiny", "solver=closed_form", "threads=1")  # half a second


def runs(results: Path) -> list[RunPaths]:
    """The run folders; anything else in a results folder is a defect."""
    found = [RunPaths(path) for path in sorted(results.iterdir())] if results.exists() else []
    assert all(run.record.exists() for run in found), [run.path.name for run in found]
    return found


def only_run(results: Path) -> RunPaths:
    """The one run folder."""
    (run,) = runs(results)
    return run


def record(run: RunPaths) -> dict[str, Any]:
    """run.json, as any other program reads it."""
    return json.loads(run.record.read_text())


def checkpoint_bytes(run: RunPaths) -> dict[str, bytes]:
    """Every file of the checkpoint."""
    return {file.name: file.read_bytes() for file in sorted(run.checkpoint.iterdir())}
