"""A packed model as a GGUF file that llama.cpp runs: take apart, fold, pad, write."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from gguf import GGUFWriter, LlamaFileType
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from binllm.errors import BinllmError, bad_value
from binllm.llamacpp.architecture import check_exportable, write_metadata
from binllm.llamacpp.geometry import Geometry
from binllm.llamacpp.options import ExportOptions
from binllm.llamacpp.tensors import linear_weights, tensors
from binllm.llamacpp.vocabulary import write_vocabulary
from binllm.tracking.atomic import replacing


@dataclass(frozen=True)
class Written:
    """One tensor of the file.

    Attributes:
        name: In the file.
        type: Of GGUF.
        nbytes: Its bytes, alignment left out.
        entries: Its entries, padding included.
        linear: Whether it is a linear layer of a decoder block, or a packed output layer.
        reason: Why a packed layer is not `Q1_0`.
    """

    name: str
    type: str
    nbytes: int
    entries: int
    linear: bool
    reason: str


@dataclass
class Export:
    """What was written.

    Attributes:
        path: The file.
        weights: Entries of the model's own linear layers, without padding.
        tensors: In the order of the file.
        file_bytes: All of it.
    """

    path: Path
    weights: int
    tensors: list[Written] = field(default_factory=list)
    file_bytes: int = 0

    @property
    def bits_per_stored_weight(self) -> float:
        """Of the linear layers, padding counted as weights."""
        return 8 * self._linear_bytes / sum(t.entries for t in self.tensors if t.linear)

    @property
    def bits_per_weight(self) -> float:
        """Of the linear layers, over the model's own weights."""
        return 8 * self._linear_bytes / self.weights

    @property
    def _linear_bytes(self) -> int:
        return sum(t.nbytes for t in self.tensors if t.linear)


@torch.no_grad()
def export_gguf(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None,
    path: str | Path,
    options: ExportOptions | None = None,
) -> Export:
    """Write a model as one GGUF file.

    Args:
        model: A LLaMA or Phi-3 with `BinaryLinear` layers (others are written dense).
        tokenizer: Its tokenizer, whose chat template is written too.
        path: The file, which must not exist yet.
        options: See `ExportOptions`.

    Returns:
        What was written.

    Raises:
        BinllmError: llama.cpp does not know the model or its tokenizer, a layer cannot be written as asked, the file
            exists or cannot be written; no file is left then.
    """
    path, options = Path(path), options or ExportOptions()
    if path.exists():
        raise bad_value("GGUF", path, "a file that does not exist yet")
    check_exportable(model)
    export = Export(path, linear_weights(model))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            _write(temporary, model, tokenizer, options, export)
        export.file_bytes = path.stat().st_size
    except OSError as error:
        raise BinllmError(f"GGUF = {path}: cannot be written ({error})") from error
    return export


def _write(
    file: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None,
    options: ExportOptions,
    export: Export,
) -> None:
    config: Any = model.config
    own = Geometry.of(config)
    padded = own.padded() if options.pad and options.one_bit else own
    writer = GGUFWriter(file, config.model_type)
    try:
        write_metadata(writer, config, padded, config.rms_norm_eps * own.hidden / padded.hidden)
        writer.add_file_type(LlamaFileType.MOSTLY_Q1_0 if options.one_bit else LlamaFileType.MOSTLY_F16)
        write_vocabulary(writer, tokenizer, config.vocab_size)
        for one in tensors(model, (own, padded), options):
            writer.add_tensor(one.name, one.data, raw_dtype=one.type)
            export.tensors.append(
                Written(one.name, one.type.name, one.data.nbytes, one.entries, one.linear, one.reason)
            )
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()
