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
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerBase
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from binllm.data.readers import embedded_text
from binllm.llamacpp import Export, ExportOptions, export_gguf
from binllm.models.llama2c import load_llama2c_tokenizer
from binllm.models.loading import TINY_TOKENIZER
from binllm.packing import BinaryCode, BinaryLinear
from binllm.packing.checkpoint import load_checkpoint
from binllm.tracking import provenance
from experiments.benchmarks.cost import write
from experiments.common.llamacpp import Engine, agreement

TOKENS = 64  # compared with torch
TIMED = 32  # decoded in each timing
BLOCK = 128
VOCABULARY = 512


def random_planes(layers: int, hidden: int, intermediate: int, heads: int) -> PreTrainedModel:
    """A LLaMA of random sign planes and a vocabulary of 512; no dense weight is ever made."""
    config = LlamaConfig(
        vocab_size=VOCABULARY,
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
    embedding = torch.randn(VOCABULARY, hidden, generator=source)
    model.model.embed_tokens.weight = model.lm_head.weight = nn.Parameter(embedding, requires_grad=False)
    model.model.rotary_emb = LlamaRotaryEmbedding(config)
    return model.eval()


def export_both(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> dict[str, Export]:
    """The same model as `Q1_0` and as F16."""
    options = {"q1_0": ExportOptions(), "f16": ExportOptions(one_bit=False)}
    return {name: export_gguf(model, tokenizer, folder / f"{name}.gguf", each) for name, each in options.items()}


def compare(exports: dict[str, Export], vocabulary: int, threads: Sequence[int], repeats: int) -> dict[str, Any]:
    """Sizes of both files, and their speed at each number of threads."""
    found: dict[str, Any] = {
        name: {key: getattr(export, key) for key in ("file_bytes", "bits_per_stored_weight", "bits_per_weight")}
        for name, export in exports.items()
    }
    found["size_ratio"] = exports["f16"].file_bytes / exports["q1_0"].file_bytes
    found["timings"] = [time_in_turns(exports, vocabulary, count, repeats) for count in threads]
    return found


def time_in_turns(exports: dict[str, Export], vocabulary: int, threads: int, repeats: int) -> dict[str, Any]:
    """Decoding speed by the clock, and the processor time of a token, which a busy machine changes less."""
    engines = {name: Engine(export.path, vocabulary, threads) for name, export in exports.items()}
    found: dict[str, Any] = {name: {"tokens_per_second": [], "cpu_seconds_per_token": []} for name in engines}
    for _ in range(repeats):
        for name, engine in engines.items():
            begun = time.process_time()
            found[name]["tokens_per_second"].append(engine.tokens_per_second([1, 5, 9], TIMED))
            found[name]["cpu_seconds_per_token"].append((time.process_time() - begun) / TIMED)
    middle = {name: {key: statistics.median(values) for key, values in each.items()} for name, each in found.items()}
    one, sixteen = middle["q1_0"], middle["f16"]
    return {
        "engine_threads": threads,
        "speedup": one["tokens_per_second"] / sixteen["tokens_per_second"],
        "cpu_time_ratio": sixteen["cpu_seconds_per_token"] / one["cpu_seconds_per_token"],
        "medians": middle,
        "repeats": found,
    }


def compare_with_torch(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, file: Path) -> dict[str, Any]:
    """Teacher-forced agreement of an exported file over real text."""
    text = embedded_text("wikitext2_raw_valid.txt.xz")[:2000].strip()
    ids: list[int] = tokenizer(text)["input_ids"][:TOKENS]  # type: ignore[index]
    with torch.no_grad():
        wanted = model(input_ids=torch.tensor([ids])).logits[0]
    error, same = agreement(wanted, Engine(file, model.config.vocab_size).log_probabilities(ids))
    return {"tokens": len(ids), "median_error_over_spread": error, "same_top_token": same}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write the file; returns the exit code."""
    parser = argparse.ArgumentParser(description="llama.cpp on exported models, beside F16.")
    parser.add_argument("--checkpoint", type=Path, help="a packed checkpoint to compare with torch as well")
    parser.add_argument(
        "--layers", type=int, default=4, help="of the model with LLaMA-2-7B's layer shapes (4); 0: none"
    )
    parser.add_argument("--threads", type=int, nargs="+", default=[2, 1], help="threads of the engine (2, then 1)")
    parser.add_argument("--repeats", type=int, default=5, help="timings of each file (5)")
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/llamacpp.json"))
    options = parser.parse_args(arguments)
    found: dict[str, Any] = {"engine": f"xllamacpp {version('xllamacpp')}", "load_before": os.getloadavg()}
    timing = (options.threads, options.repeats)
    with tempfile.TemporaryDirectory(prefix="binllm-") as scratch:
        if options.checkpoint:
            model, tokenizer = load_checkpoint(options.checkpoint)
            assert tokenizer is not None
            exports = export_both(model, tokenizer, Path(scratch) / "checkpoint")
            found["checkpoint"] = compare_with_torch(model, tokenizer, exports["q1_0"].path)
            found["checkpoint"] |= compare(exports, model.config.vocab_size, *timing)
        if options.layers:
            shapes = random_planes(options.layers, hidden=4096, intermediate=11008, heads=32)
            exports = export_both(shapes, load_llama2c_tokenizer(TINY_TOKENIZER), Path(scratch) / "shapes")
            about = {"layers": options.layers, "vocabulary": VOCABULARY}
            found["llama2_7b_shapes"] = about | compare(exports, VOCABULARY, *timing)
    machine = provenance.collect(device="cpu", seeds={"weights": 0}, calibration_hash="see the checkpoint")
    found |= {"load_after": os.getloadavg(), "machine": machine.to_json()}
    write(found, options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
