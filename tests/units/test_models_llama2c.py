"""The converted tokenizer encodes as llama2.c's own algorithm, written out here letter by letter."""

import random

import pytest

from binllm.data.readers import embedded_text
from binllm.errors import BinllmError
from binllm.models.llama2c import _read_tokens, load_llama2c_tokenizer
from binllm.models.loading import TINY_TOKENIZER


def encode(text: str, tokens: list[tuple[str, float]]) -> list[int]:
    """The loop of llama2.c: prefix a space, split, merge the best adjacent pair, leftmost first."""
    index = {token: number for number, (token, _) in enumerate(tokens)}
    ids = [index[" "]] if text else []
    for letter in text:
        ids += [index[letter]] if letter in index else [byte + 3 for byte in letter.encode()]
    while True:
        joined = [index.get(tokens[a][0] + tokens[b][0], -1) for a, b in zip(ids, ids[1:], strict=False)]
        best = (
            max((tokens[token][1], -place) for place, token in enumerate(joined) if token >= 0)
            if max(joined, default=-1) >= 0
            else None
        )
        if best is None:
            return ids
        place = -best[1]
        ids[place : place + 2] = [joined[place]]


def test_it_encodes_and_decodes_as_llama2c_does():
    tokenizer, tokens = load_llama2c_tokenizer(TINY_TOKENIZER), _read_tokens(TINY_TOKENIZER)
    text, draw = embedded_text("tinystories_sample.txt.xz"), random.Random(0)
    letters = [*sorted(set(text)), *"é▁😀   \n\naaaaa--"]
    for number in range(120):
        start, size = draw.randrange(len(text)), draw.randrange(1, 200)
        sample = text[start : start + size] if number % 2 else "".join(draw.choices(letters, k=size))
        ids = tokenizer(sample).input_ids
        assert ids == encode(sample, tokens)
        assert tokenizer.decode(ids) == sample
    assert tokenizer("").input_ids == []
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, len(tokenizer)) == (1, 2, 512)


def test_a_cut_tokenizer_file_is_refused(tmp_path):
    for size in (5000, 100, 5):
        (tmp_path / "t.bin").write_bytes(TINY_TOKENIZER.read_bytes()[:size])
        with pytest.raises(BinllmError, match="model.tokenizer"):
            load_llama2c_tokenizer(tmp_path / "t.bin")
