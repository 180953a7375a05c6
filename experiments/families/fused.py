"""What fusing does to q, k, v, gate and up: ``python -m experiments.families.fused LLAMA_CHECKPOINT PHI3_CHECKPOINT``.

The two are one method's checkpoints of a LLaMA model and of the same weights in Phi-3's architecture. For every part the
table has the relative error of the weights, ``||W - Ŵ||² / ||W||²``, as a matrix of its own and as rows of the fused one.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from binllm.configuration import compose_run
from binllm.errors import BinllmError
from binllm.models import load_model
from binllm.packing import BinaryLinear
from binllm.packing.checkpoint import load_checkpoint
from binllm.quadratic import relative_error
from binllm.schema import build
from binllm.tables.grid import grid
from experiments.families.phi3 import FUSED

PARTS = [part for parts in FUSED.values() for part in parts]


def weights(model: PreTrainedModel) -> list[Mapping[str, Tensor]]:
    """The parts of every block of a LLaMA or Phi-3 model by LLaMA's names, packed or not."""
    config: Any = model.config
    heads: tuple[int, ...] = (config.num_attention_heads, config.num_key_value_heads, config.num_key_value_heads)
    result: list[Mapping[str, Tensor]] = []
    for block in model.get_submodule("model.layers").children():  # also where nothing in them is an nn.Linear
        modules = dict(block.named_modules())
        found = {name: _dense(modules[name]) for name in PARTS if name in modules}
        for (whole, parts), shares in zip(FUSED.items(), (heads, (1, 1)), strict=True):
            if whole in modules:
                weight = _dense(modules[whole])
                rows = [len(weight) * share // sum(shares) for share in shares]
                found |= dict(zip(parts, weight.split(rows), strict=True))
        result.append(found)
    return result


def _dense(layer: nn.Module) -> Tensor:
    return layer.dense_weight(torch.float64) if isinstance(layer, BinaryLinear) else layer.weight.double()  # type: ignore[operator,union-attr]


def table(original: PreTrainedModel, separate: PreTrainedModel, fused: PreTrainedModel) -> str:
    """Mean errors over blocks in Markdown, the three models of equal weights."""
    wanted, *others = (weights(model) for model in (original, separate, fused))
    lines = []
    for part in PARTS:
        errors = [[relative_error(w[part], q[part]) for w, q in zip(wanted, other, strict=True)] for other in others]
        means = [statistics.fmean(one) for one in errors]
        lines.append([f"`{part.rpartition('.')[2]}`", *(f"{one:.4f}" for one in means), f"{means[1] / means[0]:.3f}"])
    headings = ("part", "on its own", "fused", "fused / own")
    return grid(headings, lines, headings[1:])


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; returns the exit code."""
    parser = argparse.ArgumentParser(description="Weight errors of q, k, v, gate, up: own matrices against fused ones.")
    parser.add_argument("llama", type=Path, help="checkpoint of the LLaMA model")
    parser.add_argument("phi3", type=Path, help="checkpoint of the same weights and method as Phi-3")
    parser.add_argument("overrides", nargs="*", help="the model in full precision, such as model=stories260k")
    options = parser.parse_args(arguments)
    try:
        original = load_model(build(compose_run(options.overrides)).model).model
        print(table(original, *(load_checkpoint(folder)[0] for folder in (options.llama, options.phi3))))
    except (BinllmError, OSError) as error:
        print(f"fused: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
