"""A checkpoint for people: what ``binllm-tools inspect CHECKPOINT`` prints."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from binllm.packing.accounting import BitsAccount, checkpoint_bits
from binllm.packing.headers import TensorHeader, read_config, read_headers, tensor_files
from binllm.packing.kinds import spec_from_dict
from binllm.tracking.tables import wide


def is_checkpoint(path: Path) -> bool:
    """Whether a folder looks like a checkpoint and not like a run."""
    return (path / "config.json").is_file()


def render_checkpoint(folder: Path) -> RenderableType:
    """Render the bits of a checkpoint at three levels, and tensor by tensor, from the files' headers.

    Args:
        folder: The checkpoint.

    Raises:
        BinllmError: It is no checkpoint, or a file is missing, truncated or damaged.
    """
    account, layers = checkpoint_bits(folder), read_config(folder)["quantization_config"]["layers"]
    table = Table("tensor", "dtype", "shape", "bytes", "bits/weight", box=None, pad_edge=False)
    for column in table.columns[3:]:
        column.justify = "right"
    weights = {name: (spec := spec_from_dict(values, name)).n_out * spec.n_in for name, values in layers.items()}
    headers = read_headers(tensor_files(folder))
    for name in sorted(headers, key=_by_layer):
        layer = name.rpartition(".")[0]
        packed = layer in weights and not name.endswith(".bias")
        header = headers[name]
        table.add_row(*_row(name, header, weights[layer] if packed else header.numel))
    return Group(Text("\n".join(_levels(folder, account))), table)


def print_checkpoint(folder: Path, console: Console | None = None) -> None:
    """Print what `render_checkpoint` returns; stdout by default."""
    wide(console or Console()).print(render_checkpoint(folder))


def _by_layer(name: str) -> list[str]:
    return [part.zfill(6) if part.isdigit() else part for part in name.split(".")]


def _row(name: str, header: TensorHeader, weights: int) -> tuple[str, ...]:
    shape = " x ".join(map(str, header.shape))
    return name, header.dtype, shape, f"{header.nbytes:,}", f"{8 * header.nbytes / weights:.4f}"


def _levels(folder: Path, bits: BitsAccount) -> list[str]:
    return [
        f"{folder}: {bits.quantized_weights:,} quantized weights of {bits.parameters:,} parameters",
        f"payload  {bits.payload:8.4f} bits per quantized weight, {bits.payload_bytes:,} bytes: signs and levels",
        f"linear   {bits.linear:8.4f} bits per quantized weight, {bits.linear_bytes:,} bytes: with all scales and indices",
        f"model    {bits.model:8.4f} bits per parameter, {bits.model_bytes:,} bytes: all tensors",
        f"nominal  {bits.nominal:8.4f} bits per quantized weight, as the literature counts; files {bits.file_bytes:,} bytes",
    ]
