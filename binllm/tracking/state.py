"""Resume state: after every decoder block everything that the next one needs is on disk.

::

    state/
        block_00000.safetensors     packed codes of block 0; its layer records are in the header
        block_00001.safetensors
        streams_00001.safetensors   both streams after the newest finished block
        state.json                  the pointer: how many blocks, and size and SHA-256 of every file

Why a kill at any point costs at most the block in progress. `ResumeState.save` makes four steps, each durable
(fsync of file and folder) before the next begins: block file, streams file, pointer, removal of the older
streams. The files of the first two have names that the old pointer does not mention, and every file appears
by a rename. So up to the rename of the pointer the old state is complete, from it on the new one is: there is
no third case. Files that the pointer does not mention are remains of a killed step and are removed by
`ResumeState.load`; layers.jsonl is derived from the block headers and made again there.

Why damage is an error and never a fallback. A kill cannot make a file that disagrees with the pointer, so a
wrong size or checksum means a bad disk or an edit by hand. Going back one block needs the streams of the
block before, and those are gone by design (they are the largest files, and recomputing the full-precision
stream is not bit-identical). The only state that could still be proved consistent is the empty one, and
throwing finished work away is the user's decision: the error says which folder to delete.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

import torch
from safetensors import SafetensorError, safe_open

from binllm.errors import BinllmError
from binllm.tracking.atomic import clean_leftovers, save_tensors, sync, write_json, write_text
from binllm.tracking.records import FORMAT_VERSION, JsonRecord, LayerRecord

RECORDS_KEY = "layer_records"


@dataclass(frozen=True, kw_only=True)
class FileRecord(JsonRecord):
    """One file of the state: its name, its size in bytes, its SHA-256."""

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Pointer(JsonRecord):
    """What state.json holds: the finished blocks in order and the streams after the last of them."""

    VERSION: ClassVar[int | None] = FORMAT_VERSION

    version: int = FORMAT_VERSION
    fingerprint: str
    blocks: list[FileRecord]
    streams: FileRecord


class SavedState(NamedTuple):
    """What `ResumeState.load` returns.

    Attributes:
        blocks_done: Finished blocks; they are the first ones.
        blocks: For each of them the tensors given to `ResumeState.save`.
        streams: The streams after the last of them.
        records: Their layer records in order.
    """

    blocks_done: int
    blocks: list[dict[str, torch.Tensor]]
    streams: dict[str, torch.Tensor]
    records: list[LayerRecord]


def write_layers(path: Path, records: Iterable[LayerRecord]) -> None:
    """Write layers.jsonl atomically, one record a line."""
    write_text(path, "".join(json.dumps(record.to_json(), allow_nan=False) + "\n" for record in records))


class ResumeState:
    """The state folder of one run, used under the run folder's lock."""

    def __init__(self, folder: Path, layers_path: Path, fingerprint: str = "") -> None:
        """Open the folder and read the pointer; it is made if it is missing.

        Args:
            folder: The run folder's ``state``.
            layers_path: The run folder's ``layers.jsonl``, kept in step with the state.
            fingerprint: Says what the state depends on beyond the configuration, for example hashes of the
                model's weights and the calibration tokens. A state with another one is refused.

        Raises:
            BinllmError: The pointer cannot be read, or has another version or fingerprint.
        """
        self.folder = folder
        self.layers_path = layers_path
        self.fingerprint = fingerprint
        folder.mkdir(parents=True, exist_ok=True)
        clean_leftovers(folder)
        self._pointer = self._read_pointer()
        self._records: list[LayerRecord] | None = None if self._pointer else []

    @property
    def blocks_done(self) -> int:
        """Finished blocks."""
        return len(self._pointer.blocks) if self._pointer else 0

    def block_file(self, index: int) -> Path:
        """Where a block's packed codes are, once it is finished."""
        return self.folder / f"block_{index:05d}.safetensors"

    def save(
        self,
        index: int,
        tensors: Mapping[str, torch.Tensor],
        streams: Mapping[str, torch.Tensor],
        records: Sequence[LayerRecord],
    ) -> None:
        """Make a finished block durable. On return a kill costs none of it.

        Args:
            index: The block; must be the next one.
            tensors: Its packed codes. Contiguous CPU tensors are written without a copy.
            streams: Both streams after it, any names and shapes.
            records: Its layer records.

        Raises:
            BinllmError: The files cannot be written, for example on a full disk; what was durable stays so.
        """
        if index != self.blocks_done:
            raise ValueError(f"block {index} cannot follow {self.blocks_done} finished blocks")
        earlier = self._all_records()
        old = self._pointer
        try:
            metadata = {RECORDS_KEY: json.dumps([record.to_json() for record in records])}
            block = self._write(self.block_file(index).name, tensors, metadata)
            newest = self._write(f"streams_{index:05d}.safetensors", streams, {})
            blocks = [*(old.blocks if old else []), block]
            pointer = Pointer(fingerprint=self.fingerprint, blocks=blocks, streams=newest)
            write_json(self.folder / "state.json", pointer)
            self._pointer = pointer
            self._records = [*earlier, *records]
            if old:
                (self.folder / old.streams.name).unlink(missing_ok=True)
            write_layers(self.layers_path, self._records)
        except (OSError, SafetensorError) as error:
            raise BinllmError(f"paths.results: block {index} cannot be written to {self.folder}: {error}") from error

    def load(self) -> SavedState | None:
        """Check every file and return the state; remove what is left of killed steps.

        The tensors are views of memory-mapped files: pages are read when they are touched, and stay valid
        after the file is replaced or removed.

        Returns:
            The state, None if no block is finished.

        Raises:
            BinllmError: A file is missing, or its size, checksum or content is wrong; it is named.
        """
        self._remove_unmentioned()
        if self._pointer is None:
            return None
        for file in (*self._pointer.blocks, self._pointer.streams):
            self._verify(file)
        blocks = [self._read(file) for file in self._pointer.blocks]
        records = self._all_records()
        write_layers(self.layers_path, records)
        return SavedState(len(blocks), blocks, self._read(self._pointer.streams), records)

    def clear(self) -> None:
        """Forget everything: for a run that is complete (its checkpoint holds the codes), or to start afresh.

        The pointer goes first, so that a kill in between leaves no state rather than a damaged one.
        """
        (self.folder / "state.json").unlink(missing_ok=True)
        sync(self.folder)
        self._pointer, self._records = None, []
        self._remove_unmentioned()

    def _damaged(self, reason: str) -> BinllmError:
        return BinllmError(f"{self.folder} is damaged: {reason}; delete this folder to start from the first block")

    def _read_pointer(self) -> Pointer | None:
        path = self.folder / "state.json"
        if not path.exists():
            return None
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise self._damaged(f"state.json cannot be read ({error})") from error
        pointer = Pointer.from_json(data, str(path))
        if pointer.fingerprint != self.fingerprint:
            raise BinllmError(
                f"{self.folder} was made from other inputs ({pointer.fingerprint}, now {self.fingerprint}): "
                "the model or the calibration data changed; delete this folder to start from the first block"
            )
        return pointer

    def _write(self, name: str, tensors: Mapping[str, torch.Tensor], metadata: dict[str, str]) -> FileRecord:
        path = self.folder / name
        save_tensors(path, tensors, metadata)
        return FileRecord(name=name, bytes=path.stat().st_size, sha256=_sha256(path))

    def _verify(self, file: FileRecord) -> None:
        path = self.folder / file.name
        if not path.is_file():
            raise self._damaged(f"{file.name} is missing")
        if path.stat().st_size != file.bytes:
            raise self._damaged(f"{file.name} has {path.stat().st_size} bytes instead of {file.bytes}")
        if _sha256(path) != file.sha256:
            raise self._damaged(f"the checksum of {file.name} is wrong")

    def _read(self, file: FileRecord) -> dict[str, torch.Tensor]:
        with safe_open(self.folder / file.name, "pt") as opened:
            return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 not a dict

    def _all_records(self) -> list[LayerRecord]:
        if self._records is None and self._pointer:
            self._records = []
            for file in self._pointer.blocks:
                with safe_open(self.folder / file.name, "pt") as opened:
                    lines = json.loads(opened.metadata()[RECORDS_KEY])
                self._records += [LayerRecord.from_json(line, file.name) for line in lines]
        return self._records or []

    def _remove_unmentioned(self) -> None:
        keep = {"state.json"}
        if self._pointer:
            keep |= {file.name for file in (*self._pointer.blocks, self._pointer.streams)}
        for path in self.folder.glob("*.safetensors"):
            if path.name not in keep:
                path.unlink()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
