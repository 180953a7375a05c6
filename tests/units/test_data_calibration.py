"""Calibration sequences: which tokens, drawn how, with which first token."""

import hashlib

import pytest
import torch

from binllm.data import Bos, DatasetConfig, calibration_tokens, load_documents, token_stream
from binllm.errors import BinllmError
from binllm.models.llama2c import load_llama2c_tokenizer
from binllm.models.loading import TINY_TOKENIZER

TOKENIZER = load_llama2c_tokenizer(TINY_TOKENIZER)


def config(**fields):
    return DatasetConfig(**({"name": "t", "corpus": "tinystories", "split": "train", "length": 64} | fields))


def whole(**fields):
    return token_stream(config(**fields), "dataset", TOKENIZER)


def test_seed_0_is_the_start_of_the_joined_text():
    documents = load_documents(config(), "dataset")
    ids = TOKENIZER("\n\n".join(documents.texts)).input_ids
    tokens = calibration_tokens(config(), TOKENIZER)
    assert tokens.ids.dtype == torch.int64
    assert tokens.ids.tolist() == [ids[start : start + 64] for start in range(0, 16 * 64, 64)]
    assert tokens.description == "tinystories/train/16x64/bos=none/seed=0"


def test_other_seeds_draw_distinct_windows_of_the_whole_text():
    ids = whole().ids
    grid = {tuple(row) for row in ids[: len(ids) // 64 * 64].view(-1, 64).tolist()}
    drawn = {seed: calibration_tokens(config(), TOKENIZER, seed) for seed in (1, 2)}
    for tokens in drawn.values():
        rows = {tuple(row) for row in tokens.ids.tolist()}
        assert len(rows) == 16
        assert rows <= grid
    assert drawn[1].hash != drawn[2].hash
    everything = calibration_tokens(config(sequences=len(ids) // 64), TOKENIZER, 5)
    assert {tuple(row) for row in everything.ids.tolist()} == grid


def test_drawing_is_repeatable_and_leaves_the_global_generator_alone():
    state = torch.get_rng_state()
    first = calibration_tokens(config(), TOKENIZER, 7)
    torch.manual_seed(1)
    assert torch.equal(first.ids, calibration_tokens(config(), TOKENIZER, 7).ids)
    torch.set_rng_state(state)
    calibration_tokens(config(), TOKENIZER, 7)
    assert torch.equal(state, torch.get_rng_state())


def test_the_hash_is_of_the_ids():
    tokens = calibration_tokens(config(), TOKENIZER)
    assert tokens.hash == hashlib.sha256(tokens.ids.numpy().tobytes()).hexdigest()
    assert tokens.hash != calibration_tokens(config(sequences=15), TOKENIZER).hash


def test_bos_none_adds_nothing():
    assert not (calibration_tokens(config(), TOKENIZER).ids == 1).any()


def test_bos_document_stands_before_every_document():
    documents = load_documents(config(), "dataset")
    ids = whole(bos=Bos.document).ids
    assert int((ids == 1).sum()) == len(documents.texts)
    first = TOKENIZER(documents.texts[0]).input_ids
    assert ids[: len(first) + 2].tolist() == [1, *first, 1]


def test_bos_sequence_stands_first_and_the_text_goes_on_unbroken():
    tokens = calibration_tokens(config(bos=Bos.sequence), TOKENIZER)
    assert tokens.ids.shape == (16, 64)
    assert tokens.ids[:, 0].tolist() == [1] * 16
    assert torch.equal(tokens.ids[:, 1:].flatten(), whole().ids[: 16 * 63])


def test_a_tokenizer_without_the_token_is_refused():
    tokenizer = load_llama2c_tokenizer(TINY_TOKENIZER)
    tokenizer.bos_token = None
    with pytest.raises(BinllmError, match="dataset.bos = document: allowed is none"):
        calibration_tokens(config(bos=Bos.document), tokenizer)


def test_a_text_shorter_than_one_sequence_names_the_length(tmp_path):
    (tmp_path / "a.txt").write_text("Once upon a time")
    short = config(corpus="text", path=str(tmp_path / "a.txt"))
    with pytest.raises(BinllmError, match="dataset.length = 64: .*text:a.txt.* has only"):
        calibration_tokens(short, TOKENIZER)


def test_too_many_sequences_say_how_many_there_are():
    with pytest.raises(BinllmError, match=f"dataset.sequences = 9999: allowed is at most {len(whole().ids) // 64} "):
        calibration_tokens(config(sequences=9999), TOKENIZER)


@pytest.mark.parametrize(("field", "number"), [("sequences", 0), ("length", 1), ("documents", 0)])
def test_numbers_that_make_no_sense_are_refused(field, number):
    with pytest.raises(BinllmError, match=f"dataset.{field} = {number}"):
        config(**{field: number})
