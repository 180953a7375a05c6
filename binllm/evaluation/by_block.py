"""Evaluation of a streamed model: many windows pass one block before the next one is read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from binllm.models import decoder_blocks, resident
from binllm.streams import DualStream, Storage
from binllm.streams.head import after_blocks
from binllm.streams.storage import Activations

TOKENS_AT_ONCE = 2**14  # their hidden states are in memory; the model is read once for all of them


def logits_by_block(model: PreTrainedModel, batches: Sequence[Tensor]) -> Iterator[Tensor]:
    """The logits of batches of windows, equal to the model's own to the bit.

    Args:
        model: Any model; a streamed one is read once for every `TOKENS_AT_ONCE` tokens.
        batches: Tokens (windows, length) int64, all of one shape.

    Yields:
        Logits (windows, length, vocabulary) of each batch.
    """
    _, blocks = decoder_blocks(model)
    rows, step = len(batches[0]), max(1, TOKENS_AT_ONCE // batches[0].numel())
    for start in range(0, len(batches), step):
        ids = torch.cat(list(batches[start : start + step]))
        stream = DualStream(model, blocks, ids, rows, Activations(Storage.memory))
        for block in blocks:
            with resident(block):
                stream.advance_reference(block, [])
        with after_blocks(model, blocks) as run:
            for span in stream.spans:
                yield run(stream.x[span].to(stream.device)).logits
