"""Folders of golden vectors: inputs and outputs of published code, stored as data.

A file is safetensors. Its metadata holds, as JSON, what the file is under ``_about`` and each case under the case's own
name; further names with an underscore in front are notes. Inputs are tensors ``in.*``; a case refers to them by name, or to
those of another file of the folder as ``binarizers.safetensors:in.real.x``. Outputs are tensors ``out.<case>`` or
``out.<case>.<what>``. Everything is in PyTorch's orientation, (n_out, n_in).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from binllm.errors import BinllmError, bad_value

ABOUT = "_about"


@dataclass(frozen=True)
class GoldenFile:
    """One file of golden vectors.

    Attributes:
        path: Where it is.
        kind: What the cases are, in words: pure binarizers, structural search, whole layer.
        cases: By name, in the order of their names.
    """

    path: Path
    kind: str
    cases: dict[str, Case]

    @classmethod
    def read(cls, path: Path) -> GoldenFile:
        """Read the description of all cases; tensors are read when they are asked for.

        Raises:
            BinllmError: Not a file of golden vectors.
        """
        metadata = _metadata(path)
        kind = _described(path, ABOUT, metadata.get(ABOUT, "{}")).get("kind")
        if not isinstance(kind, str):
            raise BinllmError(f"{path.name}: not a file of golden vectors: its metadata has no {ABOUT} with a kind")
        file = cls(path, kind, cases={})
        names = sorted(name for name in metadata if not name.startswith("_"))
        file.cases.update({name: Case(file, name, _described(path, name, metadata[name])) for name in names})
        return file

    def find(self, reference: str) -> Tensor | None:
        """The tensor of this name, or of ``file:name``; None if there is no such file or tensor."""
        other, _, name = reference.rpartition(":")
        return self._tensors_of(other or self.path.name).get(name)

    @cached_property
    def _read(self) -> dict[str, dict[str, Tensor]]:
        return {}

    def _tensors_of(self, other: str) -> dict[str, Tensor]:
        """The tensors of a file of the folder; they are read once."""
        if other not in self._read:
            path = self.path.parent / Path(other).name
            self._read[other] = _tensors(path) if path.is_file() else {}
        return self._read[other]


@dataclass(frozen=True)
class Case:
    """One call of the published code.

    Attributes:
        file: Where it is from.
        name: Its name.
        about: Function, arguments and reference scalars.
    """

    file: GoldenFile
    name: str
    about: Mapping[str, Any]

    def __str__(self) -> str:
        return f"{self.file.path.name} {self.name}"

    def tensor(self, reference: object) -> Tensor:
        """An input.

        Args:
            reference: Its name, or ``file:name``.

        Raises:
            BinllmError: There is no such tensor.
        """
        found = self.file.find(reference) if isinstance(reference, str) else None
        if found is None:
            raise BinllmError(f"{self}: tensor {reference} is missing")
        return found

    def output(self, what: str = "") -> Tensor | None:
        """The output, or one of several by its name; None if it is not stored."""
        return self.file.find(f"out.{self.name}.{what}" if what else f"out.{self.name}")

    def argument(self, key: str, kind: type, default: Any = None) -> Any:
        """A value of the description.

        Args:
            key: Its key.
            kind: Its type: str, int, float, bool (an integer will do for the last two) or dict.
            default: What the published function has as its default; None if the value has to be there.

        Raises:
            BinllmError: The value is missing or of another type.
        """
        return argument(self, self.about, key, kind, default)


def argument(owner: object, values: Mapping[str, Any], key: str, kind: type, default: Any = None) -> Any:
    """See `Case.argument`; ``owner`` names the case in errors."""
    value = values.get(key, default)
    if kind in (float, bool) and isinstance(value, int):
        value = kind(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        missing = "is missing" if value is None else f"= {value} is not of type {kind.__name__}"
        raise BinllmError(f"{owner}: {key} {missing}")
    return value


def read_folder(folder: Path) -> list[GoldenFile]:
    """All golden files of a folder, by name.

    Raises:
        BinllmError: The folder is missing or has no such files, or one of them is not what it should be.
    """
    if not folder.is_dir():
        raise bad_value("FOLDER", folder, "an existing folder of golden vectors")
    files = [GoldenFile.read(path) for path in sorted(folder.glob("*.safetensors"))]
    if not any(file.cases for file in files):
        what = "cases in its .safetensors files" if files else ".safetensors file"
        raise bad_value("FOLDER", folder, f"a folder of golden vectors; this one has no {what}")
    return files


def _metadata(path: Path) -> dict[str, str]:
    with _opened(path) as file:
        return dict(file.metadata() or {})


def _tensors(path: Path) -> dict[str, Tensor]:
    with _opened(path) as file:
        return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dictionary)


def _opened(path: Path) -> Any:
    try:
        return safe_open(path, "pt")
    except (SafetensorError, OSError) as error:
        raise BinllmError(f"{path.name}: not a safetensors file ({error})") from error


def _described(path: Path, name: str, text: str) -> dict[str, Any]:
    try:
        described = json.loads(text)
    except json.JSONDecodeError:
        described = None
    if not isinstance(described, dict):
        raise BinllmError(f"{path.name}: not a file of golden vectors: the metadata of {name} is not a JSON object")
    return described
