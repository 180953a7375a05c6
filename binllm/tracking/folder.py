"""The run folder: found by the content of the configuration, held by one process, laid out the same
everywhere.

::

    <results>/<model>-<objective>-<hash>/
        config.yaml     the resolved configuration
        run.json        RunRecord
        layers.jsonl    one LayerRecord a line
        diagnostics.parquet, diagnostics.csv   a row per block, layer, metric
        figures/        images made from the files
        checkpoint/     the quantized model
        evaluations/    one file a measurement, window by window and example by example
        state/          what a killed run resumes from
        wandb/          W&B runs made from the files above
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from pathlib import Path
from typing import Any, Self

from binllm.errors import BinllmError, bad_value
from binllm.tracking.atomic import clean_leftovers, write_json, write_text
from binllm.tracking.records import LayerRecord, RunRecord, RunStatus


class RunPaths:
    """Where the parts of a run folder are, and readers for them. Nothing is locked or made."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    @property
    def config(self) -> Path:
        """The resolved configuration."""
        return self.path / "config.yaml"

    @property
    def record(self) -> Path:
        """The `RunRecord`."""
        return self.path / "run.json"

    @property
    def layers(self) -> Path:
        """The `LayerRecord` lines."""
        return self.path / "layers.jsonl"

    @property
    def diagnostics(self) -> Path:
        """The table of diagnostics; beside it the same as CSV."""
        return self.path / "diagnostics.parquet"

    @property
    def figures(self) -> Path:
        """Images made from the files above."""
        return self.path / "figures"

    @property
    def checkpoint(self) -> Path:
        """The quantized model."""
        return self.path / "checkpoint"

    @property
    def evaluations(self) -> Path:
        """The measurements, see `binllm.tracking.measurements`."""
        return self.path / "evaluations"

    @property
    def state(self) -> Path:
        """The resume state."""
        return self.path / "state"

    @property
    def wandb(self) -> Path:
        """The W&B run."""
        return self.path / "wandb"

    @property
    def lock(self) -> Path:
        """The lock file; it stays when the lock is released."""
        return self.path / ".lock"

    def status(self) -> str:
        """Return ``done``, ``partial`` (begun, not complete) or ``missing``.

        Raises:
            BinllmError: run.json cannot be read or has another format version.
        """
        record = self.read_record()
        if record is not None and record.status is RunStatus.complete:
            return "done"
        return "partial" if record is not None or (self.state / "state.json").exists() else "missing"

    def read_record(self) -> RunRecord | None:
        """Return the run record, None if there is none.

        Raises:
            BinllmError: It cannot be read or has another format version.
        """
        if not self.record.exists():
            return None
        return RunRecord.from_json(_read_json(self.record), str(self.record))

    def read_layers(self) -> list[LayerRecord]:
        """Return the layer records in order; an empty list if there are none.

        Raises:
            BinllmError: A line cannot be read; it is named.
        """
        if not self.layers.exists():
            return []
        lines = self.layers.read_text(encoding="utf-8").splitlines()
        return [
            LayerRecord.from_json(_parse(line, where), where)
            for where, line in ((f"{self.layers} line {number}", line) for number, line in enumerate(lines, 1))
        ]

    def holder(self) -> str | None:
        """Return who holds the lock, for example ``process 4711 on host``; None if nobody does."""
        try:
            handle = os.open(self.lock, os.O_RDWR)
        except OSError:
            return None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return _holder_text(handle)
        finally:
            os.close(handle)
        return None


class RunFolder(RunPaths):
    """A run folder that this process holds. The kernel releases the lock when the process ends, however it
    ends.

    A forked child shares the lock until it ends too; a child started as a new program does not.
    """

    def __init__(self, path: Path, handle: int) -> None:
        super().__init__(path)
        self._handle = handle

    @classmethod
    def open(cls, results_root: Path | str, name: str, config_text: str | None = None) -> Self:
        """Make or reopen a run folder and lock it.

        Args:
            results_root: The value of ``paths.results``; made if it is missing.
            name: What `naming.run_name` returned.
            config_text: The resolved configuration as YAML, written unless the run is complete.

        Returns:
            The folder, to be closed or used in a ``with`` statement.

        Raises:
            BinllmError: The root cannot be written, another process holds the folder, or the folder has
                another format version.
        """
        path = Path(results_root).expanduser().absolute() / name
        try:
            path.mkdir(parents=True, exist_ok=True)
            folder = cls(path, os.open(path / ".lock", os.O_RDWR | os.O_CREAT, 0o644))
            try:
                folder._prepare(config_text)
            except BaseException:
                folder.close()
                raise
        except OSError as error:
            reason = f"a folder that can be written ({error.strerror}: {error.filename or path})"
            raise bad_value("paths.results", results_root, reason) from error
        return folder

    def _prepare(self, config_text: str | None) -> None:
        _take_lock(self._handle, self.path)
        clean_leftovers(self.path)
        if self.status() != "done" and config_text is not None:
            write_text(self.config, config_text)

    def write_record(self, record: RunRecord) -> None:
        """Replace run.json."""
        write_json(self.record, record)

    def close(self) -> None:
        """Release the lock. A second call does nothing."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _holder_text(handle: int) -> str:
    return os.pread(handle, 200, 0).decode(errors="replace").strip() or "another process"


def _take_lock(handle: int, path: Path) -> None:
    for attempt in range(4):
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError as error:
            if attempt == 3:
                advice = "wait for it, or end it and run again to resume"
                raise BinllmError(f"{path} is in use by {_holder_text(handle)}: {advice}") from error
            time.sleep(0.05)  # `RunPaths.holder` in another process takes the lock for a moment to look.
    os.ftruncate(handle, 0)
    os.pwrite(handle, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)


def _read_json(path: Path) -> Any:
    try:
        return _parse(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise BinllmError(f"{path} cannot be read: {error}") from error


def _parse(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise BinllmError(f"{where} is not valid JSON: {error}") from error
