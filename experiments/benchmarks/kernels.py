"""How fast packed layers multiply, next to float16 matrices of the same shape.

``python -m experiments.benchmarks.kernels`` needs a CUDA device. For the layers of LLaMA-2-7B, LLaMA-3-8B and 70B it times
`torch.nn.functional.linear` in float16 and the kernel `triton`, and writes results/benchmarks/kernels-DEVICE.json: seconds
of a call, packed bytes a second against the measured copy bandwidth, relative error in bfloat16 against float64.
A call is timed inside a CUDA graph that goes through copies of the layer, together several times the L2 cache.

Bars (H200): 8192 x 28672 at batch 1 at least 6 times as fast as float16; 60% of the copy bandwidth for matrices of 100M
weights and over; relative error below 2e-3. The script says for each whether it holds.

``--quick`` checks this script on a CPU: tiny layers, the kernel `torch`; its times mean nothing.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from binllm.errors import BinllmError
from binllm.packing import BinaryLinear, LayerSpec, set_kernel
from binllm.packing.columns import pack_columns
from binllm.tracking import provenance
from experiments.benchmarks.cost import write

SHAPES = {  # (n_out, n_in) of the linear layers of a block
    "LLaMA-2-7B": ((4096, 4096), (11008, 4096), (4096, 11008)),
    "LLaMA-3-8B": ((1024, 4096), (4096, 4096), (14336, 4096), (4096, 14336)),
    "LLaMA-2-70B, LLaMA-3-70B": ((1024, 8192), (8192, 8192), (28672, 8192), (8192, 28672)),
}
TOKENS = (1, 4, 16, 512)
BARS = {"speed": 6.0, "bandwidth": 0.6, "error": 2e-3}
SPEED_SHAPE, LARGE = (8192, 28672), 100_000_000
CACHES, REPEATS = 4, 20  # the copies of a layer together in L2 caches; timings, the median counts


@dataclass(frozen=True)
class Timing:
    """One layer with one number of tokens.

    Attributes:
        models: Which have such a layer.
        code: `row` (a sign plane with scales by blocks of 128) or `best` (what the preset makes).
        n_out: Rows.
        n_in: Columns.
        tokens: Rows of the input.
        seconds: Of a call with packed weights.
        fp16_seconds: Of `functional.linear` in float16.
        packed_bytes: Of the stored tensors.
        bytes_per_second: packed_bytes / seconds.
        bandwidth_share: The same over the copy bandwidth.
        relative_error: ‖y - exact‖ / ‖exact‖ with bfloat16 inputs, exact in float64.
    """

    models: str
    code: str
    n_out: int
    n_in: int
    tokens: int
    seconds: float
    fp16_seconds: float
    packed_bytes: int
    bytes_per_second: float
    bandwidth_share: float
    relative_error: float

    @property
    def speed(self) -> float:
        """How many times faster than float16."""
        return self.fp16_seconds / self.seconds


def spec_of(code: str, n_out: int, n_in: int) -> LayerSpec:
    """The layer by the name of its code."""
    if code == "row":
        return LayerSpec(n_out, n_in, 128)
    return LayerSpec(n_out, n_in, 64, groups=2, salient=-(-6 * n_in // 64), column_scale=True)


def random_layer(spec: LayerSpec, kernel: str, device: torch.device, seed: int) -> BinaryLinear:
    """A layer of random bits, its scales between a half and one and a half of 0.01."""
    source = torch.Generator(device).manual_seed(seed)
    layer = BinaryLinear.empty(spec, device)
    for name, tensor in layer.stored.items():
        if name == "salient":
            evenly = torch.arange(spec.salient, device=device) * spec.n_in // spec.salient
            tensor.copy_(pack_columns(evenly, spec.n_in))
        elif tensor.dtype == torch.uint8:
            tensor.random_(0, 256, generator=source)
        else:
            around = 1.0 if "column" in name else 0.01
            tensor.uniform_(0.5 * around, 1.5 * around, generator=source)
    set_kernel(layer, kernel)
    return layer


def seconds_of(calls: Sequence[Callable[[], Any]], device: torch.device) -> float:
    """Median seconds of one call, going through all calls again and again; on a GPU inside a CUDA graph."""
    for call in calls:
        call()  # compiles and tunes
    run = _graph(calls) if device.type == "cuda" else lambda: [call() for call in calls]
    found = []
    for _ in range(REPEATS if device.type == "cuda" else 3):
        if device.type == "cuda":
            begun, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begun.record()
            run()
            ended.record()
            ended.synchronize()
            found.append(begun.elapsed_time(ended) / 1000)
        else:
            started = time.perf_counter()
            run()
            found.append(time.perf_counter() - started)
    return statistics.median(found) / len(calls)


def _graph(calls: Sequence[Callable[[], Any]]) -> Callable[[], Any]:
    """All calls as one launch."""
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    graph.replay()
    return graph.replay


def copies_of(nbytes: int, device: torch.device) -> int:
    """How many copies of a layer fill the L2 cache several times."""
    if device.type != "cuda":
        return 2
    return max(2, -(-CACHES * torch.cuda.get_device_properties(device).L2_cache_size // nbytes))


def copy_bandwidth(device: torch.device) -> float:
    """Bytes read and written a second by a large copy."""
    source = torch.empty(2**30 if device.type == "cuda" else 2**22, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * source.numel() / seconds_of([lambda: target.copy_(source)], device)


def relative_error(layer: BinaryLinear, x: Tensor) -> float:
    """‖y - exact‖ / ‖exact‖, the exact product panel by panel in float64."""
    exact = torch.cat([x.double() @ rows.T for _, rows in layer.panels(torch.float64)], -1)
    return float((layer(x).double() - exact).norm() / exact.norm())


@torch.inference_mode()
def time_layer(spec: LayerSpec, tokens: int, kernel: str, device: torch.device) -> dict[str, Any]:
    """Seconds of both products, bytes and error of one layer."""
    first = random_layer(spec, kernel, device, seed=0)
    nbytes = sum(tensor.nbytes for tensor in first.stored.values())
    copies = copies_of(nbytes, device)
    layers = [first, *(random_layer(spec, kernel, device, seed) for seed in range(1, copies))]
    x = torch.randn(tokens, spec.n_in, device=device, generator=torch.Generator(device).manual_seed(0))
    half, x = x.half(), x.bfloat16()
    packed = seconds_of([lambda one=one: one(x) for one in layers], device)
    error = relative_error(first, x)
    del layers
    weights = [first.dense_weight(torch.float16) for _ in range(copies_of(2 * spec.n_in * spec.n_out, device))]
    fp16 = seconds_of([lambda weight=weight: functional.linear(half, weight) for weight in weights], device)
    return {"seconds": packed, "fp16_seconds": fp16, "packed_bytes": nbytes, "relative_error": error}


def measure(
    shapes: dict[str, tuple[tuple[int, int], ...]], tokens: Sequence[int], kernel: str, device: torch.device
) -> tuple[list[Timing], float]:
    """All timings, and the copy bandwidth in bytes a second."""
    bandwidth = copy_bandwidth(device)
    timings = []
    by_shape = {shape: ", ".join(m for m in shapes if shape in shapes[m]) for some in shapes.values() for shape in some}
    for (n_out, n_in), models in by_shape.items():
        for code in ("row", "best"):
            for count in tokens:
                found = time_layer(spec_of(code, n_out, n_in), count, kernel, device)
                speed = found["packed_bytes"] / found["seconds"]
                rates = {"bytes_per_second": speed, "bandwidth_share": speed / bandwidth}
                timings.append(Timing(models, code, n_out, n_in, count, **found, **rates))
                print(line_of(timings[-1]), flush=True)
    return timings, bandwidth


def line_of(timing: Timing) -> str:
    """One timing as text."""
    return (
        f"{timing.n_out:6d} x {timing.n_in:6d} {timing.code:5s} {timing.tokens:4d} tokens {1e6 * timing.seconds:10.1f} µs,"
        f" fp16 {1e6 * timing.fp16_seconds:10.1f} µs ({timing.speed:.2f} times), {timing.bandwidth_share:6.1%} of the"
        f" copy bandwidth, error {timing.relative_error:.1e}"
    )


def bars(timings: Sequence[Timing]) -> dict[str, bool]:
    """Which of the bars hold; the first two for one sign plane at batch 1."""
    single = [t for t in timings if t.tokens == 1 and t.code == "row"]
    return {
        "speed": all(t.speed >= BARS["speed"] for t in single if (t.n_out, t.n_in) == SPEED_SHAPE),
        "bandwidth": all(t.bandwidth_share >= BARS["bandwidth"] for t in single if t.n_out * t.n_in >= LARGE),
        "error": all(t.relative_error < BARS["error"] for t in timings),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write; returns the exit code, 1 where a bar does not hold."""
    parser = argparse.ArgumentParser(description="Speed of packed layers against float16.")
    parser.add_argument("--quick", action="store_true", help="tiny layers on a CPU; writes only with --out")
    parser.add_argument("--out", type=Path, help="where to write (results/benchmarks/kernels-DEVICE.json)")
    options = parser.parse_args(arguments)
    if not options.quick and not torch.cuda.is_available():
        print("kernels: this machine has no CUDA device: nothing measured, the rows stay empty", file=sys.stderr)
        return 2
    device = torch.device("cpu" if options.quick else "cuda")
    shapes, tokens = ({"tiny": ((64, 192), (96, 256))}, (1, 3)) if options.quick else (SHAPES, TOKENS)
    timings, bandwidth = measure(shapes, tokens, "torch" if options.quick else "triton", device)
    held = {} if options.quick else bars(timings)
    for name, holds in held.items():
        print(f"bar {name} ({BARS[name]}): {'holds' if holds else 'DOES NOT HOLD'}")
    machine = provenance.collect(device=device, seeds={"seed": 0}, calibration_hash="random bits")
    name = "".join(letter if letter.isalnum() else "_" for letter in machine.device)
    found = {"device": machine.device, "copy_bytes_per_second": bandwidth, "bars": BARS, "held": held}
    found |= {"machine": machine.to_json(), "timings": [asdict(timing) | {"speed": timing.speed} for timing in timings]}
    write(found, options.out or (None if options.quick else Path(f"results/benchmarks/kernels-{name}.json")))
    return 0 if all(held.values()) else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BinllmError as error:
        sys.exit(f"kernels: {error}")
