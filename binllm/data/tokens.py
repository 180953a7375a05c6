"""From documents to one stream of token ids, and from the stream to sequences of equal length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from binllm.data.config import Bos, TextConfig
from binllm.data.corpora import load_documents
from binllm.errors import bad_value


@dataclass(frozen=True)
class TokenStream:
    """A tokenised text.

    Attributes:
        ids: (tokens,) int64.
        first: Id put at the start of every sequence, or None; only with `Bos.sequence`.
        label: Exactly which text it is, for keys and records.
        bos: The policy that made it.
    """

    ids: torch.Tensor
    first: int | None
    label: str
    bos: Bos

    def text_length(self, length: int) -> int:
        """Tokens of the text in a sequence of `length` tokens."""
        return length - (self.first is not None)

    def sequences(self, starts: Sequence[int], length: int) -> torch.Tensor:
        """Cut sequences out of the stream.

        Args:
            starts: Position in `ids` of each sequence's first token of text.
            length: Tokens of a sequence, the leading one included where there is one.

        Returns:
            (sequences, length) int64, own memory.
        """
        size = self.text_length(length)
        rows = torch.stack([self.ids[start : start + size] for start in starts])
        if self.first is None:
            return rows
        return torch.cat([torch.full((len(starts), 1), self.first), rows], dim=1)


def token_stream(config: TextConfig, key: str, tokenizer: PreTrainedTokenizerBase) -> TokenStream:
    """Read and tokenise a text as GPTQ-style code does: the documents joined to one string, tokenised whole.

    The tokenizer adds no special tokens of its own; the policy `config.bos` alone decides.

    Args:
        config: Which text, how joined, which policy.
        key: Configuration group that it belongs to, to name in errors.
        tokenizer: Tokenizer of the model.

    Returns:
        The stream.

    Raises:
        BinllmError: As `load_documents`; or a policy asks for a token that the tokenizer does not have.
    """
    first: Any = tokenizer.bos_token_id  # an int, or None
    if config.bos is not Bos.none and first is None:
        raise bad_value(f"{key}.bos", config.bos.name, "none, for this tokenizer has no such token")
    documents = load_documents(config, key)
    if config.bos is Bos.document:
        parts = _encode(documents.texts, tokenizer)
        ids = [token for part in parts for token in (first, *part)]
    else:
        ids = _encode([documents.join.join(documents.texts)], tokenizer)[0]
    leading = first if config.bos is Bos.sequence else None
    return TokenStream(torch.tensor(ids, dtype=torch.int64), leading, documents.label, config.bos)


def _encode(texts: list[str], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    # verbose=False: the text is longer than the model's context on purpose
    return tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
