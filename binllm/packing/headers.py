"""What is in a checkpoint's tensor files, read from their headers without loading a tensor."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from binllm.errors import BinllmError, bad_value
from binllm.tracking.json_codec import read_json

FORMAT_VERSION = 2
READABLE_VERSIONS = (1, 2)
"""Version 1 knew `BinaryCode` only, without cells of the salient columns; version 2 names the kind of each layer."""
METHOD = "binllm"
SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
CARD_FILE = "README.md"

ITEM_BYTES = {
    "F64": 8,
    "I64": 8,
    "F32": 4,
    "I32": 4,
    "F16": 2,
    "BF16": 2,
    "I16": 2,
    "U8": 1,
    "I8": 1,
    "BOOL": 1,
}


@dataclass(frozen=True)
class TensorHeader:
    """One saved tensor: the file's name, the dtype in safetensors' spelling, the shape."""

    file: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def numel(self) -> int:
        """Number of entries."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of data in the file."""
        return self.numel * ITEM_BYTES[self.dtype]


def read_config(folder: Path) -> dict[str, Any]:
    """Read and check a checkpoint's config.json.

    Returns:
        The whole content; `quantization_config` is of this method and of a version that can be read.

    Raises:
        BinllmError: If the folder or file is missing or unreadable, or of another method or an unknown version.
    """
    path = folder / "config.json"
    if not path.is_file():
        inside = folder / "checkpoint"
        hint = f"; that of this run is {inside}" if (inside / path.name).is_file() else ""
        raise BinllmError(f"{folder}: is not a checkpoint, it has no config.json{hint}")
    config = read_json(path)
    quantization = config.get("quantization_config")
    if not isinstance(quantization, dict) or quantization.get("quant_method") != METHOD:
        raise BinllmError(f"{path}: is not a {METHOD} checkpoint, quantization_config.quant_method is not '{METHOD}'")
    check_version(quantization.get("format_version"))
    return config


def check_version(version: object) -> int:
    """Refuse a checkpoint whose format is not one that this program reads.

    Returns:
        The version.

    Raises:
        BinllmError: Naming both versions.
    """
    if type(version) is not int or version not in READABLE_VERSIONS:
        allowed = f"{' or '.join(map(str, READABLE_VERSIONS))}, which this version reads"
        raise bad_value("quantization_config.format_version", version, allowed)
    return version


def tensor_files(folder: Path) -> list[Path]:
    """The safetensors files of a checkpoint, in order.

    Raises:
        BinllmError: If one of them is missing or the index cannot be read.
    """
    names = [SINGLE_FILE]
    if (folder / INDEX_FILE).is_file():
        names = sorted(set(read_json(folder / INDEX_FILE).get("weight_map", {}).values()))
    for name in names:
        if not (folder / name).is_file():
            raise BinllmError(f"{folder / name}: the checkpoint's tensor file is missing")
    return [folder / name for name in names]


def read_headers(files: Iterable[Path]) -> dict[str, TensorHeader]:
    """Read the headers of tensor files.

    Returns:
        Every tensor by name.

    Raises:
        BinllmError: Naming the file that is truncated or damaged.
    """
    headers: dict[str, TensorHeader] = {}
    for path in files:
        try:
            with safe_open(path, framework="pt") as opened:
                for name in opened.keys():  # noqa: SIM118 - this is not a dict
                    part = opened.get_slice(name)
                    headers[name] = TensorHeader(path.name, part.get_dtype(), tuple(part.get_shape()))
        except (SafetensorError, OSError) as error:
            raise BinllmError(f"{path}: the tensor file is truncated or damaged ({error})") from error
    return headers


def file_hash(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def check_hashes(files: Iterable[Path], hashes: Mapping[str, str]) -> None:
    """Compare tensor files with the hashes in config.json; a file without one is not checked.

    Raises:
        BinllmError: Naming the file that has changed.
    """
    for path in files:
        if path.name in hashes and file_hash(path) != hashes[path.name]:
            raise BinllmError(f"{path}: the tensor file is damaged, its SHA-256 is not the one in config.json")


def checkpoint_hash(folder: str | Path) -> str:
    """SHA-256 over the names and contents of all files of a checkpoint but its card: equal exactly when these files are.

    Args:
        folder: The checkpoint.

    Returns:
        Hexadecimal digest.
    """
    folder, digest = Path(folder), hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p != folder / CARD_FILE):
        digest.update(f"{path.relative_to(folder).as_posix()}\0{file_hash(path)}\n".encode())
    return digest.hexdigest()
