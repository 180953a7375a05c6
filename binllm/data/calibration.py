"""The calibration tokens of a run."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerBase

from binllm.data.config import DatasetConfig
from binllm.data.tokens import token_stream
from binllm.errors import bad_value


@dataclass(frozen=True)
class CalibrationTokens:
    """Token sequences and what they are.

    Attributes:
        ids: (sequences, length) int64.
        hash: SHA-256 of `ids` as little-endian int64 in row order, hexadecimal.
        description: Corpus, split, shape, policy and seed in one line.
    """

    ids: torch.Tensor
    hash: str
    description: str


def calibration_tokens(config: DatasetConfig, tokenizer: PreTrainedTokenizerBase, seed: int = 0) -> CalibrationTokens:
    """Draw calibration sequences from the grid of consecutive, non-overlapping windows of a text.

    Seed 0 takes the first windows, in order. Any other seed draws distinct windows of the whole text by an
    own generator, in the order drawn.

    Args:
        config: Text, number and length of the sequences, policy.
        tokenizer: Tokenizer of the model.
        seed: At least 0.

    Returns:
        The tokens.

    Raises:
        BinllmError: The text is shorter than one sequence (`dataset.length`), or has fewer windows than asked
            for (`dataset.sequences`); or as `token_stream`.
    """
    stream = token_stream(config, "dataset", tokenizer)
    size = stream.text_length(config.length)
    windows = len(stream.ids) // size
    found = f"{stream.label} has only {len(stream.ids)} tokens"
    if windows < 1:
        raise bad_value("dataset.length", config.length, f"at most the length of the text; {found}")
    if windows < config.sequences:
        wanted = f"at most {windows} with dataset.length = {config.length}; {found}"
        raise bad_value("dataset.sequences", config.sequences, wanted)
    chosen = list(range(config.sequences))
    if seed != 0:
        generator = torch.Generator().manual_seed(seed)
        chosen = torch.randperm(windows, generator=generator)[: config.sequences].tolist()
    ids = stream.sequences([window * size for window in chosen], config.length)
    digest = hashlib.sha256(ids.numpy().astype("<i8").tobytes()).hexdigest()
    shape = f"{config.sequences}x{config.length}"
    return CalibrationTokens(ids, digest, f"{stream.label}/{shape}/bos={config.bos.value}/seed={seed}")
