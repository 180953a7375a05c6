"""What llama.cpp makes of an exported model: agreement with torch, file size and decoding speed beside F16.

``python -m experiments.benchmarks.llamacpp --checkpoint CHECKPOINT`` exports a checkpoint twice (`Q1_0` and F16), compares
the engine's next-token probabilities with torch's over 64 tokens of WikiText-2 valid, and times decoding of both files in
turns. It does the same timing on a random model with the layer shapes of LLaMA-2-7B, of a few layers and with a small
vocabulary, so that the decoder layers are what is timed. Writes results/benchmarks/llamacpp.json, where every repeat stands.

Decoding reads all weights once a token, so fewer bytes should be faster. Needs the extra ``llamacpp``. The machine may be
shared: its load at the beginning and the end is written down, and the files are timed in turns, so that both suffer.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerBase
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from binllm.data.readers import embedded_text
from binllm.llamacpp import ExportOptions, export_gguf
from binllm.models.llama2c import load_llama2c_tokenizer
from binllm.models.loading import TINY_TOKENIZER
from binllm.packing import BinaryCode, BinaryLinear
from binllm.packing.checkpoint import load_checkpoint
from binllm.tracking import provenance
from experiments.benchmarks.cost import write
from experiments.common.llamacpp import Engine, agreement

TOKENS = 64
BLOCK = 128


def random_planes(layers: int, hidden: int, intermediate: int, heads: int) -> PreTrainedModel:
    """A LLaMA of random sign planes and a vocabulary of 512; no dense weight is ever made."""
    config = LlamaConfig(
        vocab_size=512,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        tie_word_embeddings=True,
    )
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    source = torch.Generator().manual_seed(0)
    for name, part in list(model.model.named_modules()):
        if isinstance(part, nn.Linear):
            shape, blocks = (part.out_features, part.in_features), part.in_features // BLOCK
            signs = torch.randint(0, 2, shape, generator=source, dtype=torch.int8) * 2 - 1
            scale = (0.5 + torch.rand(shape[0], blocks, 1, generator=source)) / shape[1] ** 0.5
            code = BinaryCode(signs=signs, row_scale=scale, block_size=BLOCK)
            model.model.set_submodule(name, BinaryLinear.from_code(code))
        elif hasattr(part, "variance_epsilon"):
            part.weight = nn.Parameter(torch.ones(hidden), requires_grad=False)
    embedding = torch.randn(512, hidden, generator=source)
    model.model.embed_tokens.weight = model.lm_head.weight = nn.Parameter(embedding, requires_grad=False)
    model.model.rotary_emb = LlamaRotaryEmbedding(config)
    return model.eval()


def compare(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path, threads: int, repeats: int
) -> dict[str, Any]:
    """Export a model twice and time both files in turns."""
    found: dict[str, Any] = {}
    engines: dict[str, Engine] = {}
    for name, one_bit in (("q1_0", True), ("f16", False)):
        export = export_gguf(model, tokenizer, folder / f"{name}.gguf", ExportOptions(one_bit=one_bit))
        found[name] = {
            "file_bytes": export.file_bytes,
            "bits_per_stored_weight": export.bits_per_stored_weight,
            "bits_per_weight": export.bits_per_weight,
            "tokens_per_second": [],
        }
        engines[name] = Engine(export.path, model.config.vocab_size, threads)
    for _ in range(repeats):
        for name, engine in engines.items():
            found[name]["tokens_per_second"].append(engine.tokens_per_second([1, 5, 9], TOKENS))
    for each in found.values():
        each["median_tokens_per_second"] = statistics.median(each["tokens_per_second"])
    found["speedup"] = found["q1_0"]["median_tokens_per_second"] / found["f16"]["median_tokens_per_second"]
    found["size_ratio"] = found["f16"]["file_bytes"] / found["q1_0"]["file_bytes"]
    return found


def compare_with_torch(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, file: Path, threads: int
) -> dict[str, Any]:
    """Teacher-forced agreement of an exported file over real text."""
    text = embedded_text("wikitext2_raw_valid.txt.xz")[:2000].strip()
    ids: list[int] = tokenizer(text)["input_ids"][:TOKENS]  # type: ignore[index]
    with torch.no_grad():
        wanted = model(input_ids=torch.tensor([ids])).logits[0]
    error, same = agreement(wanted, Engine(file, model.config.vocab_size, threads).log_probabilities(ids))
    return {"tokens": len(ids), "median_error_over_spread": error, "same_top_token": same}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write the file; returns the exit code."""
    parser = argparse.ArgumentParser(description="llama.cpp on exported models, beside F16.")
    parser.add_argument("--checkpoint", type=Path, help="a packed checkpoint to compare with torch as well")
    parser.add_argument(
        "--layers", type=int, default=4, help="of the model with LLaMA-2-7B's layer shapes (4); 0: none"
    )
    parser.add_argument("--threads", type=int, default=2, help="threads of the engine (2)")
    parser.add_argument("--repeats", type=int, default=5, help="timings of each file (5)")
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/llamacpp.json"))
    options = parser.parse_args(arguments)
    found: dict[str, Any] = {"engine": f"xllamacpp {version('xllamacpp')}", "load_before": os.getloadavg()}
    timing = (options.threads, options.repeats)
    with tempfile.TemporaryDirectory(prefix="binllm-") as scratch:
        if options.checkpoint:
            model, tokenizer = load_checkpoint(options.checkpoint)
            assert tokenizer is not None
            folder = Path(scratch) / "checkpoint"
            found["checkpoint"] = compare(model, tokenizer, folder, *timing)
            found["checkpoint"] |= compare_with_torch(model, tokenizer, folder / "q1_0.gguf", options.threads)
            del model
        if options.layers:
            model = random_planes(options.layers, hidden=4096, intermediate=11008, heads=32)
            shapes = compare(model, load_llama2c_tokenizer(TINY_TOKENIZER), Path(scratch) / "shapes", *timing)
            found["llama2_7b_shapes"] = {"layers": options.layers, "vocabulary": 512} | shapes
    machine = provenance.collect(device="cpu", seeds={"weights": 0}, calibration_hash="see the checkpoint")
    found |= {"engine_threads": options.threads, "load_after": os.getloadavg(), "machine": machine.to_json()}
    for name in ("checkpoint", "llama2_7b_shapes"):
        if name in found:
            print(
                f"{name}: {found[name]['speedup']:.2f} times the speed, 1/{found[name]['size_ratio']:.2f} of the size"
            )
    write(found, options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
