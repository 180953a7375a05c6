"""The groups of metrics: what each takes from one batch of one block."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, Self

from binllm.diagnostics.anisotropy import anisotropy
from binllm.diagnostics.attention import attention_drift
from binllm.diagnostics.passes import Batch
from binllm.diagnostics.stream import Accumulation, StreamDrift, compare
from binllm.diagnostics.tokens import Proxy, similarity, token_drift
from binllm.errors import BinllmError


class Sums(Protocol):
    """What a group of metrics takes from one batch: sums that add up over batches, and numbers at the end."""

    def __add__(self, other: Any, /) -> Self: ...
    def numbers(self) -> dict[str, list[float]]:
        """Series by the name of the metric; a scalar is a series of one."""
        ...


def _stream(batch: Batch) -> dict[str, Sums]:
    return {
        layer: StreamDrift(
            compare(view.conditioned, view.found), compare(view.target, view.found), compare(view.x, view.x_hat)
        )
        for layer, view in batch.views.items()
    }


def _tokens(batch: Batch) -> dict[str, Sums]:
    return {layer: token_drift(v.target, v.conditioned, v.found) for layer, v in batch.views.items()}


def _attention(batch: Batch) -> dict[str, Sums]:
    full, quantized = batch.full.attention, batch.quantized.attention
    if full is None or quantized is None:
        raise BinllmError(
            "diagnostics.metrics = attention: this model does not use the attention interface of transformers; "
            "choose metrics without attention"
        )
    return {"": attention_drift(full, quantized)}


def _proxy(batch: Batch) -> dict[str, Sums]:
    return {"": Proxy(compare(similarity(batch.x), similarity(batch.x_hat)))}


def _anisotropy(batch: Batch) -> dict[str, Sums]:
    return {"": anisotropy(batch.full.output, batch.quantized.output)}


def _accumulation(batch: Batch) -> dict[str, Sums]:
    y, y_hat, conditioned = batch.full.output, batch.quantized.output, batch.conditioned
    return {"": Accumulation(compare(y, y_hat), compare(y, conditioned), compare(conditioned, y_hat))}


# In the order in which rows are written. Each returns sums by layer name, under the empty name for the whole block.
GROUPS: tuple[tuple[str, Callable[[Batch], dict[str, Sums]]], ...] = (
    ("stream", _stream),
    ("tokens", _tokens),
    ("attention", _attention),
    ("attention", _proxy),
    ("anisotropy", _anisotropy),
    ("accumulation", _accumulation),
)
