"""Read a model and its tokenizer from the files of llama2.c (version 0), such as stories260K.

The format, little-endian: seven int32 (dim, hidden_dim, n_layers, n_heads, n_kv_heads, vocab_size, seq_len; a
positive vocab_size means the output layer is tied to the embedding), then float32 arrays, each stacked over
layers. Rotary embedding there pairs neighbours (2i, 2i + 1); transformers pairs halves (i, i + head/2), so
the rows of the query and key weights are permuted within each head, which preserves the function.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, normalizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from binllm.errors import bad_value

_HEADER = struct.Struct("<7i")
_SPECIAL = ("<unk>", "<s>", "</s>")


@dataclass(frozen=True)
class _Shape:
    dim: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int
    context: int

    @property
    def head(self) -> int:
        return self.dim // self.heads

    def arrays(self) -> list[tuple[str, tuple[int, ...]]]:
        """Names and shapes in the order of the file; `{}` stands for the layer, stacked first."""
        n, d, h, kv = self.layers, self.dim, self.hidden, self.kv_heads * self.head
        block = "model.layers.{}."
        return [
            ("model.embed_tokens.weight", (abs(self.vocabulary), d)),
            (block + "input_layernorm.weight", (n, d)),
            (block + "self_attn.q_proj.weight", (n, d, d)),
            (block + "self_attn.k_proj.weight", (n, kv, d)),
            (block + "self_attn.v_proj.weight", (n, kv, d)),
            (block + "self_attn.o_proj.weight", (n, d, d)),
            (block + "post_attention_layernorm.weight", (n, d)),
            (block + "mlp.gate_proj.weight", (n, h, d)),
            (block + "mlp.down_proj.weight", (n, d, h)),
            (block + "mlp.up_proj.weight", (n, h, d)),
            ("model.norm.weight", (d,)),
        ]


def load_llama2c(file: Path) -> LlamaForCausalLM:
    """Convert a llama2.c weights file into a transformers model.

    Args:
        file: The weights, llama2.c version 0.

    Returns:
        The model in float32; weights (n_out, n_in).

    Raises:
        BinllmError: The file is not in that format, or shorter than its header promises.
    """
    data = file.read_bytes()
    shape = _Shape(*_HEADER.unpack_from(data)) if len(data) >= _HEADER.size else None
    plausible = shape is not None and all(1 <= abs(n) < 1 << 20 for n in vars(shape).values())
    if shape is None or not plausible or shape.heads < 1 or shape.dim % shape.heads:
        raise bad_value("model.file", file, "a llama2.c weights file of version 0")
    state = _read_state(file, data, shape)
    config = LlamaConfig(
        vocab_size=abs(shape.vocabulary),
        hidden_size=shape.dim,
        intermediate_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=shape.context,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        tie_word_embeddings=shape.vocabulary > 0,
        bos_token_id=1,
        eos_token_id=2,
    )
    with torch.random.fork_rng(devices=[]):  # the constructor draws weights that are replaced at once
        model = LlamaForCausalLM(config)
    model.load_state_dict(state)
    return model


def _read_state(file: Path, data: bytes, shape: _Shape) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = {}
    arrays = shape.arrays()
    if shape.vocabulary < 0:  # two rotary tables of (context, head / 2) stand before the output layer
        arrays += [("", (shape.context, shape.head)), ("lm_head.weight", arrays[0][1])]
    offset = _HEADER.size
    for name, size in arrays:
        count = int(np.prod(size))
        if offset + 4 * count > len(data):
            raise bad_value("model.file", file, f"a whole file; this one ends inside {name or 'the rotary tables'}")
        array = torch.from_numpy(np.frombuffer(data, "<f4", count, offset).copy()).view(size)
        offset += 4 * count
        if "q_proj" in name or "k_proj" in name:
            array = array.view(shape.layers, -1, shape.head // 2, 2, shape.dim).transpose(2, 3).reshape(size)
        if "{}" in name:
            state |= {name.format(layer): array[layer].clone() for layer in range(shape.layers)}
        elif name:
            state[name] = array
    state.setdefault("lm_head.weight", state["model.embed_tokens.weight"])
    return state


def load_llama2c_tokenizer(file: Path) -> PreTrainedTokenizerFast:
    """Convert a llama2.c tokenizer file into a fast tokenizer that encodes as llama2.c does.

    llama2.c prefixes a space, splits into characters (bytes ``<0xNN>`` where a character is no token) and
    merges the adjacent pair whose joined piece has the highest score. Here every pair that joins to a piece
    becomes a merge, ranked by the piece's score; the pieces keep their plain spaces.

    Args:
        file: The tokenizer: int32 longest piece, then float32 score, int32 length and bytes of each token.

    Returns:
        The tokenizer. It adds no special tokens by itself; ``<s>`` is token 1, ``</s>`` token 2.

    Raises:
        BinllmError: The file is not in that format or is cut.
    """
    tokens = _read_tokens(file)
    vocabulary = {token: index for index, (token, _) in enumerate(tokens)}
    ranked = sorted(range(len(tokens)), key=lambda index: (-tokens[index][1], index))
    merges = []
    for index in ranked:
        token = tokens[index][0]
        if index >= len(_SPECIAL) + 256:
            pairs = ((token[:cut], token[cut:]) for cut in range(1, len(token)))
            merges += [pair for pair in pairs if pair[0] in vocabulary and pair[1] in vocabulary]
    bpe = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    bpe.normalizer = normalizers.Prepend(" ")
    bpe.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    unknown, start, end = _SPECIAL
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        unk_token=unknown,
        bos_token=start,
        eos_token=end,
        clean_up_tokenization_spaces=False,
    )


def _read_tokens(file: Path) -> list[tuple[str, float]]:
    """Read (piece, score) of every token; the first three are renamed to the usual special tokens."""
    data = file.read_bytes()
    tokens: list[tuple[str, float]] = []
    offset = 4
    try:
        while offset < len(data):
            score, length = struct.unpack_from("<fi", data, offset)
            piece = data[offset + 8 : offset + 8 + length]
            if length < 0 or len(piece) < length:
                raise ValueError("cut")
            tokens.append((piece.decode("utf-8"), score))
            offset += 8 + length
    except (struct.error, ValueError) as error:
        raise bad_value("model.tokenizer", file, "a whole llama2.c tokenizer file") from error
    if len(tokens) <= len(_SPECIAL) + 256:
        raise bad_value("model.tokenizer", file, "a llama2.c tokenizer file with 3 special and 256 byte tokens")
    return [(name, 0.0) for name in _SPECIAL] + tokens[len(_SPECIAL) :]
