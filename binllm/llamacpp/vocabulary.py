"""The tokenizer in a GGUF file: llama.cpp brings code for a few kinds and finds theirs by name.

Two kinds are written: byte-level BPE (``gpt2``: merges, and the name of a pre-tokenizer that llama.cpp knows) and BPE with
byte fallback (``llama``: a score for each piece, and the adjacent pair with the best joined piece is merged first).
Anything else is refused: a tokenizer that splits text a little differently would make the model worse without a word.
"""

from __future__ import annotations

import json
from typing import Any

from gguf import GGUFWriter, TokenType
from transformers import PreTrainedTokenizerBase

from binllm.errors import bad_value

KEY = "tokenizer"
SPACE = "\u2581"
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def write_vocabulary(writer: GGUFWriter, tokenizer: PreTrainedTokenizerBase | None, size: int) -> None:
    """Write tokens, merges or scores, special tokens and the chat template.

    Args:
        writer: Of the file.
        tokenizer: A fast one.
        size: Rows of the embedding; those without a token get an unused one.

    Raises:
        BinllmError: There is no tokenizer, or none that llama.cpp has code for.
    """
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    if tokenizer is None or backend is None:
        raise bad_value(KEY, None, "a checkpoint with a fast tokenizer")
    described: dict[str, Any] = json.loads(backend.to_str())
    model: dict[str, Any] = described["model"]
    if model["type"] != "BPE":
        raise bad_value(KEY, model["type"], "BPE in an export to GGUF")
    pieces = tokenizer.get_vocab()
    if max(pieces.values()) >= size:
        raise bad_value(KEY, f"{max(pieces.values()) + 1} tokens", f"at most {size}, the rows of the embedding")
    merges = [m if isinstance(m, list) else m.split(" ") for m in model["merges"]]
    if model.get("byte_fallback"):
        _write_sentencepiece(writer, described, pieces, merges, size)
    else:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(_name_of_splitting(described["pre_tokenizer"]))
        writer.add_token_merges([" ".join(pair) for pair in merges])
    names = {index: piece for piece, index in pieces.items()}
    tokens = [names.get(index, f"[PAD{index}]") for index in range(size)]
    spaces = model.get("byte_fallback", False)
    writer.add_token_list([token.replace(" ", SPACE) if spaces else token for token in tokens])
    writer.add_token_types(_types(described, names, size))
    _write_special(writer, tokenizer)


def _name_of_splitting(pre_tokenizer: dict[str, Any] | None) -> str:
    """llama.cpp's name for how text is split before merging."""
    whole: dict[str, Any] = pre_tokenizer or {"type": "none"}
    steps: list[dict[str, Any]] = whole.get("pretokenizers") or [whole]
    kinds = [step["type"] for step in steps]
    if kinds[-1] == "ByteLevel" and not steps[-1]["add_prefix_space"]:
        own_regex = steps[-1]["use_regex"]
        if kinds == ["ByteLevel"] and own_regex:
            return "gpt-2"
        if kinds == ["Digits", "ByteLevel"] and steps[0]["individual_digits"] and own_regex:
            return "smollm"
        if kinds == ["Split", "ByteLevel"] and steps[0]["pattern"].get("Regex") == _LLAMA3 and not own_regex:
            return "llama-bpe"
    allowed = "the splitting of GPT-2, SmolLM or Llama 3, which llama.cpp has code for"
    raise bad_value(f"{KEY}.pre_tokenizer", " + ".join(kinds), allowed)


def _write_sentencepiece(
    writer: GGUFWriter, described: dict[str, Any], pieces: dict[str, int], merges: list[list[str]], size: int
) -> None:
    """Scores from the order of the merges: the earlier a piece can be made, the better its score."""
    scores = [-1e6] * size
    for rank, pair in enumerate(merges):
        index = pieces["".join(pair)]
        scores[index] = max(scores[index], -float(rank))
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_scores(scores)
    pre = described["pre_tokenizer"] or {}
    normalizer = json.dumps(described["normalizer"])
    prefix = '"Prepend"' in normalizer or pre.get("prepend_scheme", "never") != "never"
    writer.add_add_space_prefix(prefix)


def _types(described: dict[str, Any], names: dict[int, str], size: int) -> list[int]:
    types: list[int] = [TokenType.NORMAL if index in names else TokenType.UNUSED for index in range(size)]
    if described["model"].get("byte_fallback"):
        for index, name in names.items():
            if len(name) == 6 and name.startswith("<0x") and name.endswith(">"):
                types[index] = TokenType.BYTE
    unknown = described["model"].get("unk_token")
    for added in described["added_tokens"]:
        kind = TokenType.UNKNOWN if added["content"] == unknown else TokenType.CONTROL
        types[added["id"]] = kind if added["special"] else TokenType.USER_DEFINED
    return types


def _write_special(writer: GGUFWriter, tokenizer: PreTrainedTokenizerBase) -> None:
    for name in ("bos", "eos", "unk", "pad"):
        index = getattr(tokenizer, f"{name}_token_id")
        if index is not None:
            getattr(writer, f"add_{name}_token_id")(index)
    encoded: list[int] = tokenizer("a")["input_ids"]  # type: ignore[assignment]
    writer.add_add_bos_token(bool(encoded) and encoded[0] == tokenizer.bos_token_id)
    writer.add_add_eos_token(bool(encoded) and encoded[-1] == tokenizer.eos_token_id)
    template = tokenizer.chat_template
    if isinstance(template, dict):
        template = [{"name": name, "template": text} for name, text in template.items()]
    if template is not None:
        writer.add_chat_template(template)
