"""What a whole layer costs with the methods of BiLLM and ARB-LLM, next to the published way to do it.

``python -m experiments.benchmarks.layers`` writes results/benchmarks/layers.json. For one layer of 576 outputs and
1536 inputs, in one process and in turn: the seconds of this project's solver and of `PublishedLayer` of
tests/oracles.py, which goes through candidates one by one as the published code does, both with all threads asked
for, the oracle in float32, as the published code is, and ours with factors and feedback in float32, as the presets
have it, and in float64; how far ours and the oracle are from the oracle in float64; and the memory of ours beyond its
inputs. Then, ours alone and as the presets have it: the growth with the size of the layer, and the CPU seconds of all
layer shapes of SmolLM2-135M, 30 blocks, to compare with those that the authors' code spends outside its forward
passes (550 for BiLLM and 1,250 for ARB-RC with CGB, measured with that code).

Run it alone on a machine. ``--quick`` is a check of this script, its layers are too small to show anything.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from binllm.configuration import compose_run
from binllm.measuring import moments_for
from binllm.objectives import Objective
from binllm.pipeline import plan_of
from binllm.plan import Plan
from binllm.quadratic import Problem
from binllm.schema import build
from binllm.solvers import solve
from binllm.tracking import provenance
from binllm.tracking.memory import current_rss, measure_peak
from experiments.benchmarks.cost import linear_fit, write
from experiments.benchmarks.searches import heavy_tailed
from tests.oracles import PublishedLayer

METHODS = {
    "billm": PublishedLayer("billm"),
    "billm_magnitude": PublishedLayer("billm", metric="magnitude"),
    "arb": PublishedLayer("arb"),
    "arb_cgb": PublishedLayer("arb", grouped=True),
    "arb_x": PublishedLayer("arb_x"),
    "arb_x_cgb": PublishedLayer("arb_x", grouped=True),
    "arb_rc": PublishedLayer("arb_rc"),
    "arb_rc_cgb": PublishedLayer("arb_rc", grouped=True),
}
SMOLLM2 = {(576, 576): 2, (192, 576): 2, (1536, 576): 2, (576, 1536): 1}  # shapes of a block's layers and how many
BLOCKS = 30
REPEATS_OF_OURS = 5  # for each of the oracle's: it takes seconds, ours a tenth of one
M_MMAP_THRESHOLD = -3  # of the C library's mallopt: from how many bytes an allocation has pages of its own


@dataclass(frozen=True)
class Sizes:
    """What is measured.

    Attributes:
        layer: (n_out, n_in) of the layer that the oracle quantizes as well.
        growth: (n_out, n_in) of the layers that only we quantize.
        model: Whether the shapes of SmolLM2 are measured.
        tokens: Of the random inputs, for every input column.
        repeats: Of every measurement.
    """

    layer: tuple[int, int]
    growth: tuple[tuple[int, int], ...]
    model: bool
    tokens: int = 3
    repeats: int = 2


FULL = Sizes((576, 1536), ((576, 576), (576, 1536), (1536, 1536), (2048, 2048), (4096, 2048)), model=True)
QUICK = Sizes((8, 192), ((8, 128), (8, 192), (16, 192)), model=False, repeats=1)


def random_problem(plan: Plan, shape: tuple[int, int], tokens: int) -> Problem:
    """A heavy-tailed weight and inputs that are correlated and of uneven strength, explicit seeds."""
    n_out, n_in = shape
    source = torch.Generator().manual_seed(1)
    mixing = torch.eye(n_in) + torch.randn(n_in, n_in, generator=source) / n_in**0.5
    strength = torch.randn(n_in, generator=source).exp()
    inputs = torch.randn(1, tokens * n_in, n_in, generator=source) @ mixing * strength
    objective: Objective = plan.objective
    weight = heavy_tailed(n_out, n_in, seed=0)
    moments = moments_for([objective], [weight], plan, inputs.device)
    moments.add(inputs, inputs)
    return plan.problem(objective, weight, moments.statistics())


def as_run(plan: Plan, shape: tuple[int, int], tokens: int) -> Problem:
    """The random problem in the precision of the preset."""
    return random_problem(plan, shape, tokens).to(getattr(torch, plan.calibration.feedback_dtype.value))


def plan_for(method: str) -> Plan:
    """The plan of a preset."""
    return plan_of(build(compose_run([f"method={method}"])))


def ours(plan: Plan, problem: Problem) -> Tensor:
    """Ŵ (n_out, n_in)."""
    return solve(problem, plan.binarization, plan.solver).code.dense(torch.float64)


def timed(function: Callable[[], Tensor], repeats: int) -> tuple[list[float], Tensor]:
    """Wall-clock seconds of every repeat, and what came out."""
    seconds = []
    for _ in range(repeats):
        begun = time.perf_counter()
        found = function()
        seconds.append(time.perf_counter() - begun)
    return seconds, found


def peak_of(method: str, sizes: Sizes) -> int:
    """Bytes of resident memory that quantizing the layer needs besides its inputs. To be called in a fresh process.

    The C library is told to give freed tensors back at once: otherwise what it keeps for later is counted, or hides what the
    layer needs. That cannot be undone and costs time.
    """
    library, plan = ctypes.CDLL(None), plan_for(method)
    library.mallopt(M_MMAP_THRESHOLD, 2**16)
    problem = as_run(plan, sizes.layer, sizes.tokens)
    solve(problem, plan.binarization, plan.solver)  # what libraries keep from now on is not the layer's
    library.malloc_trim(0)
    before = current_rss()
    with measure_peak() as peak:
        solve(problem, plan.binarization, plan.solver)
    return peak.bytes - before


def memory(sizes: Sizes) -> list[dict[str, Any]]:
    """`peak_of` every method, each in a process of its own: what others left behind would be counted too."""
    rows, weight = [], 4 * sizes.layer[0] * sizes.layer[1]
    for method in METHODS:
        job = json.dumps({"method": method, "layer": sizes.layer, "tokens": sizes.tokens})
        threads = ["--threads", str(torch.get_num_threads())]
        call = [sys.executable, "-m", "experiments.benchmarks.layers", "--job", job, *threads]
        found = int(subprocess.run(call, check=True, capture_output=True, text=True).stdout)
        rows.append({"method": method, "bytes": found, "over_float32_weight": found / weight})
        print(f"{method:16s} peak {found / weight:.1f} float32 weights", flush=True)
    return rows


def compare(sizes: Sizes) -> list[dict[str, Any]]:
    """Ours and the oracle, method by method."""
    rows = []
    for method, oracle in METHODS.items():
        plan = plan_for(method)
        problem = random_problem(plan, sizes.layer, sizes.tokens)
        exact = oracle(problem.weight, problem.feedback)
        slow, rounded = timed(partial(oracle, problem.weight.float(), problem.feedback.float()), sizes.repeats)
        rounding = float((rounded - exact).norm() / exact.norm())
        row: dict[str, Any] = {"method": method, "oracle_seconds": slow, "oracle_difference": rounding}
        print(f"{method:16s} oracle {min(slow):6.2f} s, difference {rounding:.1e}", end="", flush=True)
        for name, one in (("float64", problem), ("float32", problem.to(torch.float32))):
            ours(plan, one)  # first calls load libraries
            fast, found = timed(partial(ours, plan, one), REPEATS_OF_OURS * sizes.repeats)
            times, difference = min(slow) / min(fast), float((found - exact).norm() / exact.norm())
            row[name] = {"seconds": fast, "times_faster": times, "difference": difference}
            print(f"; {name} {min(fast):6.3f} s, {times:5.1f} times, difference {difference:.1e}", end="", flush=True)
        rows.append(row)
        print()
    return rows


def growth(sizes: Sizes, method: str) -> dict[str, Any]:
    """Seconds for layers of several sizes, and the line over ``n_out n_in``, of which blocks and rows are searched."""
    plan, points = plan_for(method), []
    for shape in sizes.growth:
        seconds, _ = timed(partial(ours, plan, as_run(plan, shape, sizes.tokens)), sizes.repeats)
        points += [{"n_out": shape[0], "n_in": shape[1], "seconds": one} for one in seconds]
    entries = [point["n_out"] * point["n_in"] for point in points]
    return {"seconds_per_entry": linear_fit(entries, [point["seconds"] for point in points]), "points": points}


def model_seconds(method: str, sizes: Sizes) -> float:
    """CPU seconds of the layers of SmolLM2-135M, without moments and forward passes; the best of the repeats of a shape."""
    plan, total = plan_for(method), 0.0
    for shape, count in SMOLLM2.items():
        problem, spent = as_run(plan, shape, sizes.tokens), []
        for _ in range(sizes.repeats):
            begun = time.process_time()
            ours(plan, problem)
            spent.append(time.process_time() - begun)
        total += BLOCKS * count * min(spent)
    return total


def measure(sizes: Sizes) -> dict[str, Any]:
    """Everything, as it is written."""
    machine = provenance.collect(device="cpu", seeds={"weights": 0, "inputs": 1}, calibration_hash="random inputs")
    return {
        "sizes": asdict(sizes),
        "machine": machine.to_json(),
        "layers": compare(sizes),
        "growth": {method: growth(sizes, method) for method in ("billm", "arb_rc_cgb")},
        "smollm2_cpu_seconds": {method: model_seconds(method, sizes) for method in METHODS} if sizes.model else None,
        "memory": memory(sizes),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write the file; returns the exit code."""
    parser = argparse.ArgumentParser(description="Cost of whole layers with the published methods.")
    parser.add_argument("--quick", action="store_true", help="tiny layers, seconds; writes only with --out")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch (2)")
    parser.add_argument("--out", type=Path, help="where to write (results/benchmarks/layers.json)")
    parser.add_argument("--job", type=json.loads, help=argparse.SUPPRESS)  # the child's part
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    if options.job:
        job = options.job
        print(peak_of(job["method"], Sizes(tuple(job["layer"]), (), model=False, tokens=job["tokens"])))
        return 0
    found = measure(QUICK if options.quick else FULL)
    for method, fits in found["growth"].items():
        line = fits["seconds_per_entry"]
        print(f"{method}: seconds per entry {line['slope']:.3g}, R² {line['r_squared']:.4f}")
    for method, seconds in (found["smollm2_cpu_seconds"] or {}).items():
        print(f"{method}: {seconds:.0f} CPU seconds for the layers of SmolLM2-135M")
    write(found, options.out or (None if options.quick else Path("results/benchmarks/layers.json")))
    return 0


if __name__ == "__main__":
    sys.exit(main())
