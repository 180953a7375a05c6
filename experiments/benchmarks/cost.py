"""How the cost of quantization grows with depth and with calibration tokens.

``python -m experiments.benchmarks.cost`` times the inner loop (``open_streams`` and ``quantize_blocks``) with the
default method on random LLaMA models and writes results/benchmarks/cost.json: every repeat, and for each of the two
series the line through all repeats with its R². Expected: both are lines. A block costs what its calibration tokens
cost and what fitting its layers costs; only the former depends on the tokens, so their line has a positive intercept.

Run it alone on a machine. ``--quick`` is a check of this script, its models are too small to show anything.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from binllm.configuration import compose_run
from binllm.inner_loop import open_streams, quantize_blocks
from binllm.pipeline import plan_of
from binllm.plan import Plan
from binllm.schema import build
from binllm.tracking import provenance
from binllm.tracking.memory import measure_peak

VOCABULARY = 512
REPEATS = 3


@dataclass(frozen=True)
class Sizes:
    """What is measured.

    Attributes:
        width: Hidden size; the feed-forward part is three times as wide.
        length: Tokens of a calibration sequence.
        depths: Numbers of blocks, at ``sequences[0]`` sequences.
        sequences: Numbers of calibration sequences, at ``depths[0]`` blocks.
    """

    width: int
    length: int
    depths: tuple[int, ...]
    sequences: tuple[int, ...]

    def points(self) -> list[tuple[int, int]]:
        """(blocks, sequences) of every point, none twice."""
        both = [(depth, self.sequences[0]) for depth in self.depths]
        return both + [(self.depths[0], count) for count in self.sequences[1:]]


FULL = Sizes(width=256, length=256, depths=(2, 4, 8, 12, 16), sequences=(8, 16, 32, 64, 96))
QUICK = Sizes(width=64, length=64, depths=(1, 2, 3), sequences=(2, 8, 16))


@dataclass(frozen=True)
class Point:
    """One timing.

    Attributes:
        blocks: Decoder blocks.
        tokens: Calibration tokens.
        repeat: Which repeat, from 0.
        seconds: Wall-clock time of the inner loop.
        fit_seconds: The part of it that fitted layers, the sum over the layer records.
        peak_memory_bytes: Highest resident memory of the process meanwhile, the model included.
    """

    blocks: int
    tokens: int
    repeat: int
    seconds: float
    fit_seconds: float
    peak_memory_bytes: int


def random_llama(width: int, blocks: int, seed: int) -> LlamaForCausalLM:
    """A LLaMA with Gaussian matrices of variance 1/n_in and norms of one; the global generator is left as it was."""
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=blocks,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng(devices=[]):  # the constructor draws weights that are replaced below
        model = LlamaForCausalLM(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / parameter.shape[-1] ** 0.5)
    return model.requires_grad_(False).eval()


def time_point(sizes: Sizes, plan: Plan, point: tuple[int, int], repeat: int) -> Point:
    """Quantize one random model and say what it cost; point is (blocks, sequences)."""
    blocks, sequences = point
    model = random_llama(sizes.width, blocks, seed=repeat)
    generator = torch.Generator().manual_seed(repeat)
    ids = torch.randint(VOCABULARY, (sequences, sizes.length), generator=generator)
    begun = time.perf_counter()
    with measure_peak() as peak:
        records = quantize_blocks(open_streams(model, ids, plan), plan)
    seconds = time.perf_counter() - begun
    fit_seconds = sum(record.seconds for record in records)
    return Point(blocks, ids.numel(), repeat, seconds, fit_seconds, peak.bytes)


def linear_fit(x: Sequence[float], y: Sequence[float]) -> dict[str, float]:
    """Least squares line ``y = intercept + slope x`` and the share of y's variance that it explains."""
    slope, intercept = np.polyfit(x, y, 1)
    rest = np.asarray(y) - (intercept + slope * np.asarray(x))
    r_squared = 1 - float(rest @ rest) / float(((np.asarray(y) - np.mean(y)) ** 2).sum())
    return {"slope": float(slope), "intercept": float(intercept), "r_squared": r_squared}


def series(points: Sequence[Point], sizes: Sizes) -> dict[str, dict[str, float]]:
    """The two lines: seconds against blocks, seconds against tokens."""
    few = sizes.sequences[0] * sizes.length
    depth = [p for p in points if p.tokens == few]
    tokens = [p for p in points if p.blocks == sizes.depths[0]]
    return {
        "seconds_per_block": linear_fit([p.blocks for p in depth], [p.seconds for p in depth]),
        "seconds_per_token": linear_fit([p.tokens for p in tokens], [p.seconds for p in tokens]),
    }


def measure(sizes: Sizes, overrides: Sequence[str]) -> dict[str, Any]:
    """All points, repeat by repeat, so that a slow minute of the machine does not fall on one point alone."""
    config = build(compose_run(overrides))
    plan = plan_of(config)
    time_point(sizes, plan, sizes.points()[0], repeat=0)  # first calls load libraries and are not counted
    points: list[Point] = []
    for repeat in range(REPEATS):
        for point in sizes.points():
            points.append(time_point(sizes, plan, point, repeat))
            print(
                f"{points[-1].blocks:3d} blocks {points[-1].tokens:6d} tokens {points[-1].seconds:8.2f} s", flush=True
            )
    machine = provenance.collect(device="cpu", seeds={"repeat": 0}, calibration_hash="random tokens")
    return {
        "sizes": asdict(sizes),
        "overrides": list(overrides),
        "machine": machine.to_json(),
        "fits": series(points, sizes),
        "points": [asdict(point) for point in points],
    }


def write(found: dict[str, Any], out: Path | None) -> None:
    """Write what was measured as JSON, if a file is named."""
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        print(f"written: {out}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the lines, write the file; returns the exit code."""
    parser = argparse.ArgumentParser(description="Cost of quantization against depth and calibration tokens.")
    parser.add_argument("--quick", action="store_true", help="tiny models, seconds; writes only with --out")
    parser.add_argument("--threads", type=int, help="threads of torch (its own choice)")
    parser.add_argument("--out", type=Path, help="where to write (results/benchmarks/cost.json)")
    parser.add_argument("overrides", nargs="*", help="as for binllm, for example solver=closed_form")
    options = parser.parse_args(arguments)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    found = measure(QUICK if options.quick else FULL, options.overrides)
    for name, fit in found["fits"].items():
        print(f"{name}: {fit['slope']:.3g}, intercept {fit['intercept']:.3g} s, R² {fit['r_squared']:.4f}")
    out = options.out or (None if options.quick else Path("results/benchmarks/cost.json"))
    write(found, out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
