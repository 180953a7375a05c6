"""Attention of the quantized against the full-precision model, head by head, from the model's own queries and keys."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

UNSEEN = -1e30  # a logit whose probability is exactly 0, and whose difference to another one is not NaN
NAMES = ("kl", "total_variation", "probability_cosine", "logit_cosine")


class Attended(NamedTuple):
    """What a model hands to its attention function, after rotary embeddings.

    Attributes:
        query: (sequences, heads, length, head size).
        key: (sequences, key heads, length, head size); every key head serves heads / key heads queries.
        mask: Broadcast to (sequences, heads, length, length): boolean (True is seen), additive, or None for causal.
        scaling: Factor of the logits.
    """

    query: Tensor
    key: Tensor
    mask: Tensor | None
    scaling: float


@dataclass(frozen=True)
class AttentionDrift:
    """Sums over queries that see at least two keys.

    Attributes:
        sums: (heads, 4) float64, columns as `NAMES`.
        queries: Number of queries.
    """

    sums: Tensor
    queries: int

    def __add__(self, other: AttentionDrift) -> AttentionDrift:
        return AttentionDrift(self.sums + other.sums, self.queries + other.queries)

    def numbers(self) -> dict[str, list[float]]:
        """Means over queries, one entry a head; see `row_drift`."""
        means = self.sums / max(self.queries, 1)
        return {name: means[:, column].tolist() for column, name in enumerate(NAMES)}


def row_drift(logits: Tensor, logits_hat: Tensor, seen: Tensor) -> Tensor:
    """Four measures of every row of an attention matrix, P = softmax of the logits.

    Args:
        logits: Of the full-precision model (..., queries, keys), float32 at least.
        logits_hat: Of the quantized model, same shape.
        seen: Which keys a query sees, boolean, broadcast to that shape.

    Returns:
        (4, ..., queries): ``KL(P || P̂)`` in nats; total variation ``Σ|P - P̂|/2``, 0 to 1; cosine of P and P̂; cosine of
        the logits after each row's mean is taken off, because a constant in a row changes no probability.
    """
    both = [one.masked_fill(~seen, UNSEEN) for one in (logits, logits_hat)]
    p, q = (one.softmax(-1) for one in both)
    log_p, log_q = (one.log_softmax(-1) for one in both)
    cosine = torch.nn.functional.cosine_similarity
    centred = [_centred(one, seen) for one in (logits, logits_hat)]
    kl, variation = (p * (log_p - log_q)).sum(-1), (p - q).abs().sum(-1) / 2
    return torch.stack((kl, variation, cosine(p, q, dim=-1), cosine(*centred, dim=-1)))


def _centred(logits: Tensor, seen: Tensor) -> Tensor:
    kept = logits.masked_fill(~seen, 0.0)
    mean = kept.sum(-1, keepdim=True) / seen.sum(-1, keepdim=True).clamp_min(1)
    return (kept - mean).masked_fill_(~seen, 0.0)


def attention_drift(full: Attended, quantized: Attended) -> AttentionDrift:
    """Compare two passes of one block over the same tokens; one head of one sequence at a time, so memory is small."""
    sequences, heads = full.query.shape[:2]
    sums, queries = torch.zeros(heads, len(NAMES), dtype=torch.float64, device=full.query.device), 0
    for sequence in range(sequences):
        for head in range(heads):
            bias, seen = _mask(full, sequence, head)
            rows = seen.sum(-1) > 1
            logits, logits_hat = (_logits(one, sequence, head) + bias for one in (full, quantized))
            sums[head] += row_drift(logits, logits_hat, seen)[:, rows].double().sum(-1)
        queries += int(rows.sum())
    return AttentionDrift(sums, queries)


def _logits(attended: Attended, sequence: int, head: int) -> Tensor:
    shared = attended.query.shape[1] // attended.key.shape[1]
    query, key = attended.query[sequence, head], attended.key[sequence, head // shared]
    wide = torch.promote_types(query.dtype, torch.float32)
    return (query.to(wide) @ key.to(wide).T) * attended.scaling


def _mask(full: Attended, sequence: int, head: int) -> tuple[Tensor, Tensor]:
    """What is added to the logits of a head, and which keys it sees: each (length, length)."""
    length, zero = full.query.shape[2], torch.zeros((), device=full.query.device)
    if full.mask is None:
        return zero, torch.ones(length, length, dtype=torch.bool, device=zero.device).tril()
    mask = full.mask[min(sequence, len(full.mask) - 1), min(head, full.mask.shape[1] - 1), :, :length]
    if mask.dtype == torch.bool:
        return zero, mask
    seen = mask > torch.finfo(mask.dtype).min / 2
    return torch.where(seen, mask, 0.0), seen


@contextmanager
def attention_seen(block: nn.Module) -> Iterator[list[Attended]]:
    """Collect what attention gets while a block runs; what the block computes stays what it was.

    The observer stands in the attention interface of transformers, under the name that the block's configuration chooses,
    so no model's name matters. Where that name is ``eager`` the model's own function is not in the interface, and the output
    comes from ``sdpa``: equal but for rounding.

    Args:
        block: A decoder block.

    Yields:
        A list that grows by one entry an attention call; empty for a model that does not use the interface.
    """
    configured = (getattr(module, "config", None) for module in block.modules())
    name = next((config._attn_implementation for config in configured if config is not None), "sdpa")
    original: Callable[..., Any] = ALL_ATTENTION_FUNCTIONS.get(name) or ALL_ATTENTION_FUNCTIONS["sdpa"]
    calls: list[Attended] = []

    def observe(module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **more: Any) -> Any:
        scaling = more.get("scaling")
        calls.append(Attended(query, key, mask, query.shape[-1] ** -0.5 if scaling is None else scaling))
        return original(module, query, key, value, mask, **more)

    ALL_ATTENTION_FUNCTIONS[name] = observe
    try:
        yield calls
    finally:
        del ALL_ATTENTION_FUNCTIONS[name]
