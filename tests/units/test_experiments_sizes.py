"""The table of sizes: what it counts from shapes is what a really quantized and written model takes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers_codes import tiny_model

import binllm
from binllm.binarization import Planes
from binllm.packing.accounting import checkpoint_bits
from binllm.packing.checkpoint import save_checkpoint
from experiments.sizes import table

CHOICES = (
    ["binarization=row", "binarization.block_size=16"],
    ["binarization=row_column_groups_64", "binarization.block_size=16", "binarization.salient_columns=3"],
)


@pytest.mark.parametrize("overrides", CHOICES, ids=lambda overrides: overrides[0])
@pytest.mark.parametrize("tied", [True, False])
def test_sizes_from_shapes_are_the_bytes_in_the_file(tied: bool, overrides: list[str], tmp_path: Path) -> None:
    source = torch.Generator().manual_seed(0)
    model = tiny_model("llama", source, tied=tied).requires_grad_(False)
    planes = table.build(table.compose_run(["method=null", *overrides])).binarization
    assert isinstance(planes, Planes)
    size = table.size_of(model, planes, item_bytes=4)
    tokens = torch.randint(0, 61, (2, 8), generator=source)
    binllm.quantize(model, tokens=tokens, overrides=["method=null", *overrides], progress=False)
    account = checkpoint_bits(save_checkpoint(model, None, tmp_path / "c"))
    assert (size.layers.payload_bits, size.layers.linear_bits) == (8 * account.payload_bytes, 8 * account.linear_bytes)
    assert (size.model_bytes, size.parameters) == (account.model_bytes, account.parameters)


def test_a_sign_plane_of_llama_2_7b_by_hand() -> None:
    # 32 blocks of 4 x 4096² + 3 x 4096 x 11008 weights, a bit each and a float16 for 128 of them
    weights = 32 * (4 * 4096**2 + 3 * 4096 * 11008)
    others = 2 * 32000 * 4096 + (2 * 32 + 1) * 4096
    with torch.device("meta"):
        model = table.LlamaForCausalLM(table.LlamaConfig(**table.MODELS["LLaMA-2-7B"]))
    size = table.size_of(model, Planes(column_scale=False))
    assert size.model_bytes == weights // 8 + 2 * weights // 128 + 2 * others
