"""An export for people: what ``binllm-tools export`` prints."""

from __future__ import annotations

from collections import Counter

from rich.console import Console

from binllm.llamacpp.export import Export

SHOWN = 5  # reasons, one for each layer that could not be Q1_0


def print_export(export: Export, console: Console | None = None) -> None:
    """Print types, sizes, and why layers are dense that could not be `Q1_0`; stdout by default."""
    out = console or Console(soft_wrap=True, highlight=False)
    types = Counter(tensor.type for tensor in export.tensors if tensor.linear)
    linear = ", ".join(f"{count} {kind}" for kind, count in sorted(types.items()))
    out.print(f"{export.path}: {export.file_bytes / 1e6:.1f} MB")
    out.print(f"linear layers: {linear}; {_bits(export)}")
    for tensor in export.tensors:
        if tensor.name in ("token_embd.weight", "output.weight") and not tensor.linear:
            out.print(f"{tensor.name}: {tensor.entries:,} weights in {tensor.type}")
    dense = [tensor for tensor in export.tensors if tensor.reason]
    for tensor in dense[:SHOWN]:
        out.print(f"{tensor.name} is {tensor.type}, which holds it exactly: {tensor.reason}")
    if len(dense) > SHOWN:
        out.print(f"... and {len(dense) - SHOWN} more")


def _bits(export: Export) -> str:
    stored, own = export.bits_per_stored_weight, export.bits_per_weight
    padding = f", {own:.3f} per weight of the model (zeros were added)" if own != stored else ""
    return f"{stored:.3f} bits per stored weight{padding}"
