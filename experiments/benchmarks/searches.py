"""What the searches for salient columns and magnitude groups cost, next to the published way to do them.

``python -m experiments.benchmarks.searches`` writes results/benchmarks/searches.json: for one layer in blocks of 128 columns
the seconds of every search and of the literal oracle of tests/oracles.py, which goes through candidates one by one as the
published code does; and the seconds of the searches on larger layers, with the line through them. Expected: both find the
same, ours many times faster, and the line explains nearly all, since a search costs the same for every block and row.

Run it alone on a machine. ``--quick`` is a check of this script, its layer is too small to show anything.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from binllm.binarization import search
from binllm.tracking import provenance
from experiments.benchmarks.cost import linear_fit, write
from tests import oracles

BLOCK = 128
MOST = 50
SEARCHES = ("columns", "plain", "by_inputs", "salient")

Found = tuple[Tensor, ...]


@dataclass(frozen=True)
class Sizes:
    """What is measured.

    Attributes:
        layer: (n_out, n_in) of the layer that the oracle searches as well.
        growth: (n_out, n_in) of the layers that only we search.
        repeats: Of every measurement.
    """

    layer: tuple[int, int]
    growth: tuple[tuple[int, int], ...]
    repeats: int


FULL = Sizes((576, 1536), ((576, 576), (576, 1536), (1536, 1536), (2048, 2048), (2048, 4096)), repeats=3)
QUICK = Sizes((16, 256), ((16, 128), (16, 256), (32, 256)), repeats=2)


class Block:
    """One searched block.

    Attributes:
        matrix: M (n_out, width).
    """

    def __init__(self, matrix: Tensor):
        self.matrix = matrix

    @cached_property
    def salient(self) -> Tensor:
        """Salient columns (width,) bool."""
        salient = torch.zeros(self.matrix.shape[1], dtype=torch.bool)
        salient[search.salient_columns(self.matrix, MOST)] = True
        return salient

    @cached_property
    def fit(self) -> Tensor:
        """What stands for the salient columns (n_out, width)."""
        return oracles.arb(self.matrix, self.salient.expand(self.matrix.shape), 2)

    @cached_property
    def metric(self) -> Tensor:
        """Second moment of random inputs (width, width)."""
        width = self.matrix.shape[1]
        tokens = torch.randn(4 * width, width, generator=torch.Generator().manual_seed(0))
        return tokens.T @ tokens


@dataclass(frozen=True)
class Timing:
    """One search of all blocks of a layer.

    Attributes:
        search: Which one.
        metric: Salience metric.
        ours: Seconds, every repeat.
        oracle: Seconds, every repeat.
        blocks: Of the layer.
        agree: Blocks where both find the same.
    """

    search: str
    metric: str
    ours: list[float]
    oracle: list[float]
    blocks: int
    agree: int


def heavy_tailed(n_out: int, n_in: int, seed: int) -> Tensor:
    """Student's t with 4 degrees of freedom times a strength for every column, float32."""
    source = torch.Generator().manual_seed(seed)
    chi = torch.randn(4, n_out, n_in, generator=source).square_().mean(0).sqrt_()
    strength = torch.randn(n_in, generator=source).mul_(0.5).exp_()
    return torch.randn(n_out, n_in, generator=source).div_(chi).mul_(0.02 * strength)


def blocks_of(n_out: int, n_in: int, metric: str) -> list[Block]:
    """The blocks of a layer: its weights are searched, or ``w² / d²`` with lognormal d."""
    searched = heavy_tailed(n_out, n_in, seed=0)
    if metric == "hessian":
        searched = searched.square() / torch.randn(n_in, generator=torch.Generator().manual_seed(1)).exp().square()
    return [Block(block.contiguous()) for block in searched.split(BLOCK, 1)]


def ours(name: str, block: Block) -> Found:
    """One of our searches."""
    if name == "columns":
        return (search.salient_columns(block.matrix, MOST),)
    if name == "plain":
        return search.split_plain(block.matrix, block.salient)[1:]
    if name == "by_inputs":
        return search.split_plain_by_inputs(block.matrix, block.salient, block.fit, block.metric)[1:]
    return search.split_salient(block.matrix, block.salient)[1:]


def oracle(name: str, block: Block) -> Found:
    """The same, candidate by candidate."""
    if name == "columns":
        return (oracles.salient_columns(block.matrix, MOST),)
    if name == "plain":
        return oracles.split_plain(block.matrix, block.salient, block.fit)[1:]
    if name == "by_inputs":
        return oracles.split_plain(block.matrix, block.salient, block.fit, block.metric)[1:]
    return oracles.split_salient(block.matrix, block.salient)[1:]


def timed(function: Callable[[Block], Found], blocks: Sequence[Block]) -> tuple[float, list[Found]]:
    """Wall-clock seconds for all blocks, and what was found."""
    begun = time.perf_counter()
    found = [function(block) for block in blocks]
    return time.perf_counter() - begun, found


def compare(sizes: Sizes, metric: str) -> list[Timing]:
    """Ours and the oracle in turn, so that a slow minute of the machine falls on both."""
    blocks = blocks_of(*sizes.layer, metric)
    for block in blocks:
        ours("by_inputs", block)  # what a block remembers is made here and not counted
    timings = []
    for name in SEARCHES:
        ours(name, blocks[0])  # first calls load libraries
        pairs = [
            (timed(partial(ours, name), blocks), timed(partial(oracle, name), blocks)) for _ in range(sizes.repeats)
        ]
        (_, left), (_, right) = pairs[0]
        agree = sum(all(map(torch.equal, a, b)) for a, b in zip(left, right, strict=True))
        timing = Timing(name, metric, [a[0] for a, _ in pairs], [b[0] for _, b in pairs], len(blocks), agree)
        fast, slow = min(timing.ours) / len(blocks), min(timing.oracle) / len(blocks)
        print(f"{metric:9s} {name:9s} {1e3 * fast:7.1f} ms a block, oracle {1e3 * slow:7.1f} ms", flush=True)
        timings.append(timing)
    return timings


def growth(sizes: Sizes) -> dict[str, Any]:
    """Seconds of columns and plain split together, for layers of several sizes, and the line through them."""
    points = []
    for n_out, n_in in sizes.growth:
        blocks = blocks_of(n_out, n_in, "hessian")
        timed(partial(ours, "plain"), blocks)  # not counted, see above
        for repeat in range(sizes.repeats):
            seconds = sum(timed(partial(ours, name), blocks)[0] for name in ("columns", "plain"))
            points.append({"n_out": n_out, "n_in": n_in, "repeat": repeat, "seconds": seconds})
        print(f"{n_out:5d} x {n_in:5d} {points[-1]['seconds']:8.3f} s", flush=True)
    entries = [point["n_out"] * point["n_in"] for point in points]
    return {"seconds_per_entry": linear_fit(entries, [point["seconds"] for point in points]), "points": points}


def measure(sizes: Sizes) -> dict[str, Any]:
    """Everything, as it is written."""
    timings = [timing for metric in ("magnitude", "hessian") for timing in compare(sizes, metric)]
    machine = provenance.collect(device="cpu", seeds={"weights": 0}, calibration_hash="random weights")
    return {
        "sizes": asdict(sizes),
        "block_size": BLOCK,
        "machine": machine.to_json(),
        "searches": [asdict(timing) for timing in timings],
        "growth": growth(sizes),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write the file; returns the exit code."""
    parser = argparse.ArgumentParser(description="Cost of the searches for salient columns and magnitude groups.")
    parser.add_argument("--quick", action="store_true", help="a tiny layer, seconds; writes only with --out")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (1)")
    parser.add_argument("--out", type=Path, help="where to write (results/benchmarks/searches.json)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    found = measure(QUICK if options.quick else FULL)
    line = found["growth"]["seconds_per_entry"]
    print(f"seconds per entry {line['slope']:.3g}, intercept {line['intercept']:.3g} s, R² {line['r_squared']:.4f}")
    out = options.out or (None if options.quick else Path("results/benchmarks/searches.json"))
    write(found, out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
