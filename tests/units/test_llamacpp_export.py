"""A GGUF file holds the function of the packed model: read back into transformers, and run by llama.cpp itself."""

from __future__ import annotations

import errno
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFReader
from helpers_codes import EXTRAS, generator, random_code, tiny_model
from helpers_llamacpp import TEXT, planes_model, read_back, tokenizer
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from binllm.errors import BinllmError
from binllm.llamacpp import Export, ExportOptions, export_gguf
from binllm.llamacpp import export as export_module
from binllm.llamacpp.matrix import Dense, Plane, matrix_of
from binllm.packing import BinaryCode


def exported(model: PreTrainedModel, file: Path, **options: Any) -> Export:
    return export_gguf(model, tokenizer(), file, ExportOptions(**options))


def logits(model: PreTrainedModel) -> torch.Tensor:
    ids = torch.tensor([tokenizer()(TEXT)["input_ids"]])
    with torch.no_grad():
        return model(input_ids=ids).logits[0]


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("family", ["llama", "phi3"])
def test_folding_and_padding_preserve_the_function(family: str, shared: bool, tmp_path: Path):
    model = planes_model(family, shared)
    export = exported(model, tmp_path / "m.gguf", exact_embeddings=True)
    again = read_back(tmp_path / "m.gguf")
    assert again.config.hidden_size == 128 and model.config.hidden_size == 64
    assert (logits(again) - logits(model)).abs().max() < 2e-5
    assert {tensor.type for tensor in export.tensors if tensor.linear} == ({"Q1_0"} if shared else {"Q1_0", "F16"})
    assert export.file_bytes == (tmp_path / "m.gguf").stat().st_size
    if shared:
        assert export.bits_per_stored_weight == 1.125 < export.bits_per_weight


def test_the_dense_export_is_the_same_model_in_16_bits(tmp_path: Path):
    model = planes_model("llama", shared=False)
    export = exported(model, tmp_path / "m.gguf", one_bit=False)
    assert export.bits_per_weight == export.bits_per_stored_weight == 16
    assert (logits(read_back(tmp_path / "m.gguf")) - logits(model)).abs().max() < 1e-2


@pytest.mark.parametrize("options", [{}, {"pad": False}])
def test_layers_that_are_no_plane_are_exact_or_refused(options: dict[str, Any], tmp_path: Path):
    model = planes_model("llama", shared=bool(options))
    named = "self_attn.q_proj of block 0 cannot be written as Q1_0: "
    reason = (
        "its rows of 64 are not a multiple of 128" if options else "its column scales are not those of k, v as well"
    )
    with pytest.raises(BinllmError, match=named + reason):
        exported(model, tmp_path / "m.gguf", refuse=True, **options)
    assert not list(tmp_path.iterdir())
    export = exported(model, tmp_path / "m.gguf", **options)
    tensor = next(tensor for tensor in export.tensors if tensor.name == "blk.0.attn_q.weight")
    assert tensor.reason == reason
    assert tensor.type == "F16"  # products with powers of two


@pytest.mark.parametrize("extra", EXTRAS)
def test_codes_of_one_plane_are_planes_and_all_others_exact(extra: dict[str, Any]):
    code = random_code((6, 256), 128, generator(), **extra).stored()
    matrix = matrix_of(code)
    if set(extra) <= {"column_scale"}:
        assert isinstance(matrix, Plane)
        whole = (matrix.signs.double() * matrix.scale.repeat_interleave(128, 1)).float()
        column = 1 if matrix.column_scale is None else matrix.column_scale.float()
        assert torch.equal(whole * column, code.dense(torch.float32))
        return
    assert isinstance(matrix, Dense) and matrix.reason
    data, kind = matrix.stored(exact=True)
    stored = data.view(np.float16) if kind is GGMLQuantizationType.F16 else data
    assert np.array_equal(stored, code.dense(torch.float32).numpy())


def test_the_bytes_of_a_block():
    signs = -torch.ones(1, 128, dtype=torch.int8)
    signs[0, [0, 9, 127]] = 1
    code = BinaryCode(signs=signs, row_scale=torch.full((1, 1, 1), 0.5), block_size=128)
    data, kind = matrix_of(code).stored()  # type: ignore[call-arg]
    assert kind is GGMLQuantizationType.Q1_0
    assert data.tobytes() == bytes([0x00, 0x38, 0x01, 0x02, *[0] * 13, 0x80])  # 0.5 is 0x3800 in fp16


def test_scales_of_whole_rows_and_of_wider_blocks_are_repeated():
    for block_size in (256, 512):
        code = random_code((4, 512), block_size, generator())
        matrix = matrix_of(code)
        assert isinstance(matrix, Plane) and matrix.scale.shape == (4, 4)
        assert torch.equal((matrix.signs * matrix.scale.repeat_interleave(128, 1)).float(), code.dense(torch.float32))
    assert isinstance(matrix_of(random_code((4, 512), 64, generator())), Dense)


def test_an_exact_type_is_the_smallest():
    weight = torch.randn(4, 128, generator=generator())
    for dtype, wanted in ((torch.float16, "F16"), (torch.bfloat16, "BF16"), (torch.float32, "F32")):
        rounded = weight.to(dtype).float()
        assert Dense(rounded * (2.0**60 if wanted == "BF16" else 1)).stored(exact=True)[1].name == wanted


def test_the_tokenizer_and_the_chat_template_are_in_the_file(tmp_path: Path):
    with_template = tokenizer()
    with_template.chat_template = "{{ messages[0].content }}"
    export_gguf(planes_model("llama"), with_template, tmp_path / "m.gguf")
    fields = GGUFReader(tmp_path / "m.gguf").fields
    assert fields["tokenizer.chat_template"].contents() == "{{ messages[0].content }}"
    tokens = fields["tokenizer.ggml.tokens"].contents()
    assert len(tokens) == 512 and tokens[1] == "<s>" and tokens[3] == "<0x00>"


def byte_level(*steps: Any) -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")]))
    backend.pre_tokenizer = pre_tokenizers.Sequence([*steps, pre_tokenizers.ByteLevel(add_prefix_space=False)])  # type: ignore[assignment]
    return PreTrainedTokenizerFast(tokenizer_object=backend)


def test_a_splitting_that_llama_cpp_does_not_know_is_refused(tmp_path: Path):
    known = export_gguf(planes_model("llama"), byte_level(pre_tokenizers.Digits(True)), tmp_path / "known.gguf")
    assert GGUFReader(known.path).fields["tokenizer.ggml.pre"].contents() == "smollm"
    with pytest.raises(BinllmError, match=r"pre_tokenizer = Punctuation \+ ByteLevel: allowed is the splitting of"):
        export_gguf(planes_model("llama"), byte_level(pre_tokenizers.Punctuation()), tmp_path / "unknown.gguf")
    assert [file.name for file in tmp_path.iterdir()] == ["known.gguf"]


def test_what_llama_cpp_does_not_know_is_refused(tmp_path: Path):
    with pytest.raises(BinllmError, match="CHECKPOINT = opt: allowed is an architecture with RMSNorm: llama or phi3"):
        exported(tiny_model("opt", generator()), tmp_path / "m.gguf")
    scaled = planes_model("llama")
    scaled.config.rope_parameters = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
    with pytest.raises(BinllmError, match="rope_type = dynamic: allowed is default, linear, llama3"):
        exported(scaled, tmp_path / "m.gguf")
    with pytest.raises(BinllmError, match="tokenizer = None: allowed is a checkpoint with a fast tokenizer"):
        export_gguf(planes_model("llama"), None, tmp_path / "m.gguf")
    assert not list(tmp_path.iterdir())


def test_an_existing_file_is_kept(tmp_path: Path):
    (tmp_path / "m.gguf").write_text("mine")
    with pytest.raises(BinllmError, match="a file that does not exist yet"):
        exported(planes_model("llama"), tmp_path / "m.gguf")
    assert (tmp_path / "m.gguf").read_text() == "mine"


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(writer: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(export_module.GGUFWriter, "write_tensors_to_file", full)
    with pytest.raises(BinllmError, match="m.gguf: cannot be written .*No space left on device"):
        exported(planes_model("llama"), tmp_path / "m.gguf")
    assert not list(tmp_path.iterdir())


def test_a_scale_outside_fp16_is_refused(tmp_path: Path):
    model = planes_model("llama")
    layer = model.base_model.layers[0].mlp.up_proj  # type: ignore[union-attr]
    code = layer.to_code()
    wide = replace(code, row_scale=code.row_scale.float() * 1e9).to(dtype=torch.float32)
    model.base_model.layers[0].mlp.up_proj = type(layer).from_code(wide, dtype=torch.float32)  # type: ignore[union-attr]
    with pytest.raises(BinllmError, match="a scale that torch.float16 can hold"):
        exported(model, tmp_path / "m.gguf")
    assert not list(tmp_path.iterdir())
