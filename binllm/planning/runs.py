"""What is there of a run: the state of its folder."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import NamedTuple

from binllm.errors import BinllmError, bad_value
from binllm.tracking.folder import RunPaths
from binllm.tracking.json_codec import read_json
from binllm.tracking.records import RunStatus


class State(Enum):
    """What became of a run."""

    done = "done"
    running = "running"
    partial = "partial"
    failed = "failed"
    missing = "missing"
    unreadable = "unreadable"
    refused = "refused"  # its configuration is not allowed
    repeated = "repeated"  # the same run as an earlier one of the sweep


class Found(NamedTuple):
    """What is there of a run.

    Attributes:
        state: What became of it.
        blocks: Finished blocks that it would go on after.
        note: Who runs it, or why it failed.
    """

    state: State
    blocks: int = 0
    note: str = ""


def look_up(results: Path, name: str) -> Found:
    """What is there of a run; nothing is changed.

    Args:
        results: Folder of run folders; it need not exist.
        name: Of the run folder.
    """
    paths = RunPaths(results / name)
    try:
        record, holder = paths.read_record(), paths.holder()
        if record is not None and record.status is RunStatus.complete:
            return Found(State.done)
        pointer = paths.state / "state.json"
        blocks = len(read_json(pointer).get("blocks", [])) if pointer.exists() else 0
    except BinllmError as error:
        return Found(State.unreadable, note=str(error))
    if holder:
        return Found(State.running, blocks, holder)
    if record is not None and record.status is RunStatus.failed:
        return Found(State.failed, blocks, " ".join((record.error or "no message").split()))
    return Found(State.partial if blocks or record is not None else State.missing, blocks)


def check_results(results: Path) -> None:
    """Refuse what cannot hold run folders.

    Raises:
        BinllmError: It is a file, or a run folder itself.
    """
    if results.exists() and not results.is_dir():
        raise bad_value("paths.results", results, "a folder of run folders, or one to be made; this is a file")
    if RunPaths(results).record.exists():
        raise bad_value("paths.results", results, "a folder of run folders; this is a run folder")
