"""What a model that is larger than memory costs: LLaMA-2-7B's shapes, its weights read block by block.

``python -m experiments.benchmarks.large FOLDER`` writes a random model of these shapes in float16 (13 GB, sharded as on the
hub) to FOLDER, quantizes its first two blocks with 8 x 2048 random tokens, each method in a process of its own, writes
results/benchmarks/large.json and removes the folder. Measured: wall-clock and CPU seconds of every block, seconds and peak
resident memory of every layer, beside the estimates of `plan`. The whole model's time is extrapolated from the measured
blocks, and says so.

Run it alone on a machine with 20 GB of free disk. ``--quick`` is a check of this script: its model is too small to show
anything.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from binllm.configuration import compose_run
from binllm.estimate import estimate
from binllm.inner_loop import Events, open_streams, quantize_blocks
from binllm.models import load_model
from binllm.models.geometry import geometry_of
from binllm.models.llama2c import load_llama2c_tokenizer
from binllm.models.loading import TINY_TOKENIZER
from binllm.pipeline import plan_of
from binllm.resume import save_progress
from binllm.schema import RunConfig, build
from binllm.streams import DualStream
from binllm.tracking import provenance
from binllm.tracking.memory import process_peak
from binllm.tracking.records import LayerRecord
from binllm.tracking.state import ResumeState
from experiments.benchmarks.cost import write

METHODS = ("paper", "arb_rc")
SETTINGS = ("streaming=true", "calibration.storage=disk", "calibration.batch=1", "diagnostics=none")


@dataclass(frozen=True)
class Sizes:
    """What is measured.

    Attributes:
        hidden: Width of the model.
        intermediate: Width of its feed-forward part.
        layers: Decoder blocks.
        heads: Of attention.
        vocabulary: Tokens.
        sequences: Of calibration.
        length: Tokens of a sequence.
        blocks: How many are quantized.
    """

    hidden: int = 4096
    intermediate: int = 11008
    layers: int = 32
    heads: int = 32
    vocabulary: int = 32000
    sequences: int = 8
    length: int = 2048
    blocks: int = 2

    def model(self) -> LlamaConfig:
        """The model's configuration."""
        return LlamaConfig(
            vocab_size=self.vocabulary,
            hidden_size=self.hidden,
            intermediate_size=self.intermediate,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.heads,
            max_position_embeddings=2048,
            tie_word_embeddings=False,
            architectures=["LlamaForCausalLM"],
            dtype="float16",
        )


QUICK = Sizes(hidden=64, intermediate=192, layers=3, heads=4, vocabulary=512, sequences=2, length=64)


def write_model(folder: Path, sizes: Sizes) -> None:
    """Write the random model, one shard for each block and one for all else; a tensor's seed is its place in the model.

    Matrices have entries of variance 1/n_in, norms are ones.
    """
    folder.mkdir(parents=True)
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in LlamaForCausalLM(sizes.model()).state_dict().items()}
    parts: dict[str, list[tuple[int, str]]] = {}
    for seed, name in enumerate(shapes):
        steps = name.split(".")
        parts.setdefault(steps[2] if steps[1] == "layers" else "rest", []).append((seed, name))
    files = {part: f"model-{number + 1:05d}-of-{len(parts):05d}.safetensors" for number, part in enumerate(parts)}
    for part, members in parts.items():
        tensors = {name: _random(shapes[name], seed) for seed, name in members}
        save_file(tensors, folder / files[part], metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: files[part] for part, own in parts.items() for _, name in own}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    sizes.model().save_pretrained(folder)
    load_llama2c_tokenizer(TINY_TOKENIZER).save_pretrained(folder)


def _random(shape: torch.Size, seed: int) -> torch.Tensor:
    if len(shape) == 1:
        return torch.ones(shape, dtype=torch.float16)
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return matrix.mul_(shape[-1] ** -0.5).half()


def configuration(folder: Path, method: str, sizes: Sizes, threads: int) -> RunConfig:
    """The built configuration of a measurement."""
    tokens = (f"dataset.sequences={sizes.sequences}", f"dataset.length={sizes.length}")
    return build(compose_run([f"model={folder}", f"method={method}", f"threads={threads}", *SETTINGS, *tokens]))


class Clock:
    """Wall-clock and CPU seconds between two readings."""

    def __init__(self) -> None:
        self._last = (time.perf_counter(), time.process_time())

    def read(self) -> dict[str, float]:
        """Seconds since it was made or last read."""
        (wall, cpu), self._last = self._last, (time.perf_counter(), time.process_time())
        return {"seconds": self._last[0] - wall, "cpu_seconds": self._last[1] - cpu}


def measure(folder: Path, method: str, sizes: Sizes, threads: int, out: Path) -> None:
    """Quantize the first blocks as a run does, state after every block included, and write what is known after each.

    To be called in a fresh process, whose peak it reads.
    """
    torch.set_num_threads(threads)
    config, clock = configuration(folder, method, sizes, threads), Clock()
    plan = plan_of(config)
    model = load_model(config.model, config.streaming).model
    source = torch.Generator().manual_seed(sizes.layers)
    streams = open_streams(
        model, torch.randint(sizes.vocabulary, (sizes.sequences, sizes.length), generator=source), plan
    )
    streams.blocks = streams.blocks[: sizes.blocks]
    found: dict[str, Any] = {"method": method, "dtype": config.model.dtype.value, "open": clock.read(), "blocks": []}
    cost = estimate(config, geometry_of(config.model), windows=1)
    expected = cost.seconds_by_phase["quantize"] / sizes.layers
    found["estimated"] = {"seconds_per_block": expected, "peak_memory_bytes": cost.bytes_by_phase["quantize"]}
    state = ResumeState(folder / "state", folder / "layers.jsonl")

    def begins(index: int, name: str) -> None:
        print(f"{time.strftime('%X')} {method}: block {index} {name}, peak {process_peak() / 1e9:.2f} GB", flush=True)

    def finished(index: int, block: nn.Module, both: DualStream, records: list[LayerRecord]) -> None:
        save_progress(state, index, block, both, records)
        layers = {one.role: {"seconds": one.seconds, "peak_memory_bytes": one.peak_memory_bytes} for one in records}
        found["blocks"].append(clock.read() | {"fit_seconds": sum(one.seconds for one in records), "layers": layers})
        found["peak_memory_bytes"] = process_peak()
        for kind in ("seconds", "cpu_seconds"):
            mean = sum(one[kind] for one in found["blocks"]) / len(found["blocks"])
            found[f"{kind}_per_block"] = mean
            found[f"extrapolated_quantize_{kind}"] = found["open"][kind] + mean * sizes.layers
        write(found, out)

    quantize_blocks(streams, plan, Events(layer=begins, block=finished))


def in_a_child(folder: Path, method: str, sizes: Sizes, threads: int) -> dict[str, Any]:
    """`measure` in a process of its own, whose peak is its own."""
    out = folder / f"{method}.json"
    job = json.dumps({"method": method, "sizes": asdict(sizes), "threads": threads})
    subprocess.run([sys.executable, "-m", __spec__.name, str(folder), "--job", job, "--out", str(out)], check=True)
    shutil.rmtree(folder / "state", ignore_errors=True)
    return json.loads(out.read_text(encoding="utf-8"))


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the model, measure, write the file, remove the model; returns the exit code."""
    parser = argparse.ArgumentParser(description="Cost of a model that is larger than memory.")
    parser.add_argument("folder", type=Path, help="where the random model is made (13 GB); removed at the end")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), help=f"presets ({' '.join(METHODS)})")
    parser.add_argument("--sequences", type=int, help="of calibration (8)")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch (2)")
    parser.add_argument("--keep", action="store_true", help="leave the model where it is, and use one that is there")
    parser.add_argument("--quick", action="store_true", help="a tiny model, seconds; writes only with --out")
    parser.add_argument("--out", type=Path, help="where to write (results/benchmarks/large.json)")
    parser.add_argument("--job", type=json.loads, help=argparse.SUPPRESS)  # the child's part
    options = parser.parse_args(arguments)
    if options.job:
        job = options.job
        measure(options.folder, job["method"], Sizes(**job["sizes"]), job["threads"], options.out)
        return 0
    sizes = QUICK if options.quick else Sizes()
    sizes = sizes if options.sequences is None else Sizes(**asdict(sizes) | {"sequences": options.sequences})
    if not (options.keep and options.folder.exists()):
        write_model(options.folder, sizes)
    try:
        found = [in_a_child(options.folder, method, sizes, options.threads) for method in options.methods]
    finally:
        if not options.keep:
            shutil.rmtree(options.folder)
    machine = provenance.collect(device="cpu", seeds={"weights": 0}, calibration_hash="random tokens")
    note = "what is called extrapolated is not measured: opening, and the mean of the measured blocks for every block"
    out = options.out or (None if options.quick else Path("results/benchmarks/large.json"))
    settings = {"sizes": asdict(sizes), "threads": options.threads, "settings": SETTINGS}
    write(settings | {"machine": machine.to_json(), "note": note, "methods": found}, out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
