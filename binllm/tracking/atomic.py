"""Files that are whole or absent: write beside the target, fsync, rename over it, fsync the folder.

A reader, and a run resumed after ``kill -9`` or a power cut, sees the old content or the new one, never a
mixture. What a killed writer leaves is a hidden ``.*.tmp`` entry; `clean_leftovers` removes those, under the
run folder's lock.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from binllm.tracking.json_codec import encode


def sync(path: Path) -> None:
    """Force a file's content, or a folder's list of names, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def clean_leftovers(folder: Path) -> None:
    """Remove what killed writers left anywhere below a folder. Only the holder of its lock may call this."""
    for path in list(folder.rglob(".*.tmp")):
        _remove(path)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path in the same folder, and put what is written there in place of `path` at the end.

    Args:
        path: The target file; its folder exists.

    Yields:
        Where to write the new content.

    Raises:
        OSError: Writing failed; the target is as it was and nothing else is left.
    """
    temporary = path.parent / f".{path.name}.{os.getpid()}.tmp"
    try:
        yield temporary
        sync(temporary)
        os.replace(temporary, path)
    except BaseException:
        _remove(temporary)
        raise
    sync(path.parent)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Like `replacing` for a whole folder, for example a checkpoint.

    A folder cannot be renamed over another one, so an existing target is moved aside first: killed between
    the two renames, `path` is absent, never half-written.

    Args:
        path: The target folder; its parent exists.

    Yields:
        An empty folder to write into.
    """
    temporary = path.parent / f".{path.name}.{os.getpid()}.tmp"
    _remove(temporary)
    temporary.mkdir()
    try:
        yield temporary
        for entry in temporary.rglob("*"):
            sync(entry)
        sync(temporary)
        if path.exists():
            aside = path.parent / f".{path.name}.{os.getpid()}.old.tmp"
            os.replace(path, aside)
            os.replace(temporary, path)
            _remove(aside)
        else:
            os.replace(temporary, path)
    except BaseException:
        _remove(temporary)
        raise
    sync(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write a record or plain JSON values atomically, indented, fields in their own order."""
    write_text(path, json.dumps(encode(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def save_tensors(path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file atomically, the same bytes for the same content.

    CPU tensors that are contiguous and own their memory are written without a copy.

    Args:
        path: The target file; its folder exists.
        tensors: Tensors of any dtype and shape, on any device.
        metadata: Text to keep in the header.

    Raises:
        OSError: Writing failed; the target is as it was.
        safetensors.SafetensorError: The same, from inside the library.
    """
    with replacing(path) as temporary:
        save_file(_separate(tensors), temporary, metadata=dict(metadata or {}))
        _sort_metadata(temporary)


def _separate(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Copy only what safetensors refuses: strided tensors and those that share memory with an earlier one."""
    seen: set[int] = set()
    result: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        storage = tensor.untyped_storage().data_ptr()
        result[name] = tensor.clone() if storage in seen else tensor
        seen.add(storage)
    return result


def _sort_metadata(path: Path) -> None:
    """Put the header's metadata in order: safetensors writes it in a random one, of equal length."""
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        if "__metadata__" in header:
            header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        if len(text) > length:
            raise ValueError(f"{path}: the safetensors header grew from {length} to {len(text)} bytes")
        file.seek(8)
        file.write(text.ljust(length))
