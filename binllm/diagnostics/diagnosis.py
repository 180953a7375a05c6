"""Diagnosis of a run: looks at every block before and after it is quantized, and gives back rows of numbers.

It hangs on two events of the inner loop, which knows nothing of it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from binllm.diagnostics.block_loss import block_losses
from binllm.diagnostics.config import BLOCK_LOSS, DiagnosticsConfig
from binllm.diagnostics.groups import GROUPS, Sums
from binllm.diagnostics.passes import run_batch
from binllm.diagnostics.table import Row
from binllm.models import linear_layers
from binllm.packing import binary_layers
from binllm.plan import Plan
from binllm.streams import DualStream
from binllm.tracking.records import LayerRecord

Totals = dict[tuple[int, str], Sums]  # by position in GROUPS and layer


class Diagnosis:
    """What a run measures besides its result.

    Args:
        config: Which metrics, on how many sequences.
        plan: How layers are fitted, for the block loss.

    Attributes:
        seconds: Wall-clock time spent here, apart from the quantization's.
    """

    def __init__(self, config: DiagnosticsConfig, plan: Plan):
        self.config, self.plan = config, plan
        self.seconds = 0.0
        self._groups = [(number, group) for number, (name, group) in enumerate(GROUPS) if name in config.metrics]
        self._linears: dict[str, nn.Linear] = {}
        self._before: list[tuple[Tensor, Tensor]] = []
        self._losses: list[tuple[str, str, list[float]]] = []

    def begin(self, index: int, block: nn.Module, streams: DualStream) -> None:
        """Keep what is gone once the block is quantized: its layers, and the streams before it."""
        with self._timed():
            spans = self._spans(streams)
            self._linears = linear_layers(block)
            self._before = [(streams.x[span].clone(), streams.x_hat[span].clone()) for span in spans if self._groups]
            if BLOCK_LOSS in self.config.metrics:
                objectives = list(self.config.objectives.values())
                self._losses = list(block_losses(streams, block, self.plan, objectives, spans))

    def finish(self, index: int, block: nn.Module, streams: DualStream, records: Sequence[LayerRecord]) -> list[Row]:
        """Measure a finished block.

        Args:
            index: Which block.
            block: The block, quantized.
            streams: The streams, for how the block is called.
            records: Those of its layers; each one's ``diagnostics`` get the layer's numbers, a series its mean.

        Returns:
            All numbers.
        """
        with self._timed():
            totals: Totals = {}
            for x, x_hat in self._before:
                batch = run_batch(streams, block, self._linears, *(t.to(streams.device) for t in (x, x_hat)))
                for number, group in self._groups:
                    for layer, sums in group(batch).items():
                        key = (number, layer)
                        totals[key] = totals[key] + sums if key in totals else sums
            rows = list(self._rows(index, block, totals, records))
            for layer in binary_layers(block).values():
                layer.clear_cache()
            self._linears, self._before, self._losses = {}, [], []
        for record in records:
            series: dict[str, list[float]] = {}
            for row in rows:
                if row.layer in record.layers:
                    series.setdefault(row.metric, []).append(row.value)
            record.diagnostics.update({metric: sum(values) / len(values) for metric, values in series.items()})
        return rows

    def _rows(self, index: int, block: nn.Module, totals: Totals, records: Sequence[LayerRecord]) -> Iterator[Row]:
        roles = {layer: role for record in records for layer, role in record.layers.items()}
        found = [(layer, f"{BLOCK_LOSS}/{objective}", losses) for layer, objective, losses in self._losses]
        if "stream" in self.config.metrics:
            found += [(record.layer, "stream/weight_error", [record.relative_error_weight]) for record in records]
        for (number, layer), sums in totals.items():
            found += [(layer, f"{GROUPS[number][0]}/{name}", values) for name, values in sums.numbers().items()]
        for layer, metric, values in found:
            for position, value in enumerate(values):
                yield Row(index, layer, roles.get(layer, ""), metric, position, value)

    def _spans(self, streams: DualStream) -> list[slice]:
        wanted = self.config.sequences
        return [span for span in streams.spans if wanted is None or span.start < wanted]

    @contextmanager
    def _timed(self) -> Iterator[None]:
        begun = time.perf_counter()
        try:
            with torch.no_grad():
                yield
        finally:
            self.seconds += time.perf_counter() - begun
