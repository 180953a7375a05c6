"""Zero-shot tasks over local files: one YAML of lm-eval a task in ``tasks/``, one jsonl file a task in a user's folder.

A row has the fields of `FIELDS`; `check_files` reads every row before a model is loaded. The prompts are those of
lm-eval's own tasks, which `tests/units/test_evaluation_tasks.py` checks request by request.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from binllm.errors import BinllmError, bad_value

FOLDER = Path(__file__).parent / "tasks"
CHOICE = {"query": str, "choices": list, "gold": int}
FIELDS: dict[str, dict[str, type]] = {
    "winogrande": {"context_options": list, "continuation": str, "gold": int},
    "lambada_openai": {"context": str, "continuation": str},
}


def local_task(name: str, data: Path) -> dict[str, Any]:
    """The definition of a task for lm-eval, its file named by a full path.

    Args:
        name: Of `binllm.evaluation.TASKS`.
        data: The user's folder.
    """
    definition = yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    definition["dataset_kwargs"] = {"data_files": {"test": str(task_file(name, data))}}
    return definition


def task_file(name: str, data: Path) -> Path:
    """The jsonl file of a task."""
    definition = yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    return data.expanduser().absolute() / definition["dataset_kwargs"]["data_files"]["test"]


def check_files(tasks: Sequence[str], data: Path) -> None:
    """Read every row of the tasks' files.

    Raises:
        BinllmError: The folder or a file is missing, or a row (named by its number) is no JSON object or lacks a field.
    """
    if not data.expanduser().is_dir():
        raise bad_value("zero_shot.data", data, "an existing folder, or null for the hub")
    for name in tasks:
        file = task_file(name, data)
        if not file.is_file():
            raise bad_value("zero_shot.data", data, f"a folder with {file.name}, the data of the task {name}")
        with file.open("rb") as lines:
            rows = 0
            for rows, line in enumerate(lines, 1):
                _check_row(line, FIELDS.get(name, CHOICE), f"{file}, row {rows}")
        if not rows:
            raise BinllmError(f"{file}: is empty")


def _check_row(line: bytes, fields: dict[str, type], where: str) -> None:
    try:
        row = json.loads(line.decode("utf-8"))
    except ValueError as error:  # a UnicodeDecodeError is one too
        raise BinllmError(f"{where}: is not JSON in UTF-8 ({error})") from error
    if not isinstance(row, dict):
        raise BinllmError(f"{where}: is no JSON object")
    for field, kind in fields.items():
        if field not in row:
            raise BinllmError(f"{where}: the field '{field}' is missing; the row has {', '.join(row)}")
        if type(row[field]) is not kind or row[field] == []:
            raise BinllmError(f"{where}: the field '{field}' must be of type {kind.__name__}, not {row[field]!r}")
    options = next((row[field] for field, kind in fields.items() if kind is list), None)
    if options is not None and not 0 <= row["gold"] < len(options):
        raise BinllmError(f"{where}: gold = {row['gold']}: allowed are 0 to {len(options) - 1}, the choices of the row")
