"""What packed models take: bits and bytes from shapes, by the formulas that count a written checkpoint.

``python -m experiments.sizes.table`` prints the table; ``--document docs/packing.md`` writes it between its markers there.
Layers come from transformers' own models on the meta device, so nothing is loaded; all other tensors (embeddings, norms,
output layer) count 16 bits, as they are published. Every number is of the tensors; a file has a header of some kB besides.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from binllm.binarization import Planes
from binllm.configuration import compose_run
from binllm.models import decoder_blocks, layer_roles
from binllm.packing import LayerSpec
from binllm.packing.protocol import LayerBits
from binllm.schema import build
from binllm.tables.grid import grid
from experiments.common.markdown import replace_between

MARKERS = ("<!-- sizes -->", "<!-- /sizes -->")
BINARIZATIONS = ("row", "row_column", "row_column_groups", "row_column_groups_64")
MODELS: dict[str, dict[str, Any]] = {
    "SmolLM2-135M": {
        "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
        "num_attention_heads": 9, "num_key_value_heads": 3, "tie_word_embeddings": True,
    },
    "LLaMA-2-7B": {
        "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 32, "tie_word_embeddings": False,
    },
    "LLaMA-3-8B": {
        "vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 8, "tie_word_embeddings": False,
    },
}  # fmt: skip


@dataclass(frozen=True)
class Size:
    """What a model takes.

    Attributes:
        parameters: All of them, tied ones once.
        layers: Bits of the packed layers together.
        other_bytes: Of all other tensors, biases included.
    """

    parameters: int
    layers: LayerBits
    other_bytes: int

    @property
    def model_bytes(self) -> int:
        """Of all tensors."""
        return self.layers.linear_bits // 8 + self.other_bytes


def spec_of(planes: Planes, n_out: int, n_in: int) -> LayerSpec:
    """The layer that a binarization makes of a matrix."""
    block = planes.block_size or n_in
    widths = [min(block, n_in - start) for start in range(0, n_in, block)]
    return LayerSpec(
        n_out,
        n_in,
        block,
        groups=planes.groups,
        salient=sum(planes.salient_count(width) for width in widths),
        column_scale=planes.column_scale,
        row_mean=planes.row_mean,
    )


def size_of(model: PreTrainedModel, planes: Planes, item_bytes: int = 2) -> Size:
    """Count a model with its linear layers in decoder blocks packed; may be on the meta device.

    Args:
        model: In full precision.
        planes: What its layers become.
        item_bytes: Of a number in all other tensors.
    """
    _, blocks = decoder_blocks(model)
    linears = [block.get_submodule(name) for block in blocks for name in layer_roles(block)]
    shapes = [(one.out_features, one.in_features) for one in linears if isinstance(one, nn.Linear)]
    bits = [spec_of(planes, *shape).bits() for shape in shapes]
    layers = sum(bits[1:], bits[0])
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return Size(parameters, layers, item_bytes * (parameters - layers.weights))


def table() -> str:
    """The table in Markdown."""
    headings = ("model", "binarization", "fp16, MB", "payload, MB", "linear layers, MB", "whole model, MB")
    headings += ("bits: payload", "linear layers", "whole model", "smaller by")
    lines = []
    for name, shape in MODELS.items():
        with torch.device("meta"):
            model = LlamaForCausalLM(LlamaConfig(**shape))
        for binarization in BINARIZATIONS:
            planes: Planes = build(compose_run(["method=null", f"binarization={binarization}"])).binarization
            lines.append([name, f"`{binarization}`", *_numbers(size_of(model, planes))])
    return grid(headings, lines, headings[2:])


def _numbers(size: Size) -> list[str]:
    full, layers = 2 * size.parameters, size.layers
    sizes = (full, layers.payload_bits // 8, layers.linear_bits // 8, size.model_bytes)
    bits = (layers.payload, layers.linear, 8 * size.model_bytes / size.parameters)
    return [f"{n / 1e6:,.1f}" for n in sizes] + [f"{n:.3f}" for n in bits] + [f"{full / size.model_bytes:.2f}"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table or write it into a document; returns the exit code."""
    parser = argparse.ArgumentParser(description="Sizes of packed models from their shapes.")
    parser.add_argument("--document", type=Path, help=f"a Markdown file with the lines {' and '.join(MARKERS)}")
    options = parser.parse_args(arguments)
    if options.document is None:
        print(table())
    else:
        options.document.write_text(replace_between(options.document, MARKERS, table() + "\n"), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
