"""Folders of golden vectors: inputs and outputs of published code, stored as data.

A file is safetensors. Its metadata holds, as JSON, what the file is under ``_about`` (if that is missing, its name says so)
and each case under the case's own name: an object with a ``function``, in which null is a value that was not recorded.
Whatever else is there is a note. Inputs are tensors ``in.*``; a case refers to them by name, or to those of another file of
the folder as ``binarizers.safetensors:in.real.x``. Outputs are tensors ``out.<case>`` or ``out.<case>.<what>``. Everything
is in PyTorch's orientation, (n_out, n_in).
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
from binllm.golden.outcome import Unjudged

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
            BinllmError: Not a safetensors file.
        """
        with _opened(path) as opened:
            described = {name: _described(text) for name, text in (opened.metadata() or {}).items()}
            outputs = [f"{name}." for name in opened.keys() if name.startswith("out.")]  # noqa: SIM118
        kind = described.get(ABOUT, {}).get("kind")
        file = cls(path, kind if isinstance(kind, str) else path.stem, cases={})
        for name, about in sorted(described.items()):
            # Outputs whose description is not understood are a case that fails, and not a note.
            stored = any(output.startswith(f"out.{name}.") for output in outputs)
            if not name.startswith("_") and ("function" in about or stored):
                file.cases[name] = Case(file, name, about)
        return file

    def find(self, reference: str) -> Tensor | None:
        """The tensor of this name, or of ``file:name``; None if there is no such tensor.

        Raises:
            BinllmError: The other file cannot be read.
            Unjudged: There is no such file.
        """
        other, _, name = reference.rpartition(":")
        return self._tensors_of(other or self.path.name).get(name)

    @cached_property
    def _read(self) -> dict[str, dict[str, Tensor]]:
        return {}

    def _tensors_of(self, other: str) -> dict[str, Tensor]:
        """The tensors of a file of the folder; they are read once."""
        if other not in self._read:
            path = self.path.parent / Path(other).name
            if not path.exists():
                raise Unjudged(f"{path.name} is not in the folder")
            self._read[other] = _tensors(path)
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
            Unjudged: There is no such file.
        """
        found = self.file.find(reference) if isinstance(reference, str) else None
        if found is None:
            raise BinllmError(f"tensor {reference} is missing")
        return found

    def output(self, what: str = "") -> Tensor | None:
        """The output, or one of several by its name; None if it is not stored."""
        return self.file.find(f"out.{self.name}.{what}" if what else f"out.{self.name}")

    def argument(self, key: str, kind: type, default: Any = None) -> Any:
        """A value of the description.

        Args:
            key: Its key.
            kind: Its type: str, int, float, bool (an integer will do for the last two), list or dict.
            default: What the published function has as its default; None if the value has to be there.

        Raises:
            BinllmError: The value is missing or of another type.
        """
        return argument(self.about, key, kind, default)

    def scalars(self, *keys: str) -> dict[str, float]:
        """Those of these reference scalars that are recorded.

        Raises:
            BinllmError: One is not a number.
        """
        return {key: self.argument(key, float) for key in keys if self.about.get(key) is not None}


def argument(values: Mapping[str, Any], key: str, kind: type, default: Any = None) -> Any:
    """See `Case.argument`."""
    value = default if values.get(key) is None else values[key]
    if kind in (float, bool) and isinstance(value, int):
        value = kind(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        missing = "is missing" if value is None else f"= {value} is not of type {kind.__name__}"
        raise BinllmError(f"{key} {missing}")
    return value


def files_of(folder: Path) -> list[Path]:
    """All files of a folder that should be golden files, by name.

    Raises:
        BinllmError: The folder is missing or has no such files.
    """
    if not folder.is_dir():
        raise bad_value("FOLDER", folder, "an existing folder of golden vectors")
    paths = sorted(folder.glob("*.safetensors"))
    if not paths:
        raise bad_value("FOLDER", folder, "a folder of golden vectors; this one has no .safetensors file")
    return paths


def _tensors(path: Path) -> dict[str, Tensor]:
    with _opened(path) as file:
        return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dictionary)


def _opened(path: Path) -> Any:
    try:
        return safe_open(path, "pt")
    except (SafetensorError, OSError) as error:
        raise BinllmError(f"{path.name}: not a safetensors file ({error})") from error


def _described(text: str) -> dict[str, Any]:
    """What a text of the metadata describes: nothing, if it is not a JSON object."""
    try:
        described = json.loads(text)
    except json.JSONDecodeError:
        return {}
    return described if isinstance(described, dict) else {}
