"""Read an offline W&B run back, with the library's own record format, without its server.

The file is a LevelDB log: after a header of 7 bytes come blocks of 32 KiB, each with chunks of checksum (4
bytes), length (2), type (1: whole, 2: first, 3: middle, 4: last) and data. A record is one
``wandb_internal_pb2.Record``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HEADER, BLOCK, CHUNK_HEADER = 7, 32768, 7
FIRST, LAST, WHOLE = 2, 4, 1


@dataclass
class OfflineRun:
    """What an offline run holds.

    Attributes:
        run_id: Its id.
        project: Its project.
        config: Its configuration.
        history: The logged rows in order.
        summary: The summary's values.
        axes: Pattern or name of a series to its x axis.
        exit_code: What it was finished with; None if it was not.
    """

    run_id: str = ""
    project: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    axes: dict[str, str] = field(default_factory=dict)
    exit_code: int | None = None


def read_offline(folder: Path) -> OfflineRun:
    """Read the one offline run below a ``wandb`` folder.

    Args:
        folder: The run folder's ``wandb``.

    Returns:
        Its content.
    """
    from wandb.proto import wandb_internal_pb2 as messages

    (file,) = folder.glob("offline-run-*/run-*.wandb")
    run = OfflineRun()
    for data in _records(file.read_bytes()):
        record = messages.Record()  # pyright: ignore[reportAttributeAccessIssue] generated
        record.ParseFromString(data)
        _take(run, record)
    return run


def _take(run: OfflineRun, record: Any) -> None:
    kind = record.WhichOneof("record_type")
    if kind == "run":
        run.run_id, run.project = record.run.run_id, record.run.project
        run.config |= _items(record.run.config.update)
    elif kind == "config":
        run.config |= _items(record.config.update)
    elif kind == "history":
        run.history.append(_items(record.history.item))
    elif kind == "summary":
        run.summary |= _items(record.summary.update)
    elif kind == "metric" and record.metric.step_metric:
        run.axes[record.metric.name or record.metric.glob_name] = record.metric.step_metric
    elif kind == "exit":
        run.exit_code = record.exit.exit_code


def _items(items: Any) -> dict[str, Any]:
    return {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items}


def _records(data: bytes) -> Iterator[bytes]:
    position, parts = HEADER, b""
    while position + CHUNK_HEADER <= len(data):
        left = BLOCK - position % BLOCK
        if left < CHUNK_HEADER:  # A block's last bytes are padding when no chunk fits.
            position += left
            continue
        length, kind = int.from_bytes(data[position + 4 : position + 6], "little"), data[position + 6]
        start = position + CHUNK_HEADER
        chunk, position = data[start : start + length], start + length
        parts = chunk if kind in (WHOLE, FIRST) else parts + chunk
        if kind in (WHOLE, LAST):
            yield parts
