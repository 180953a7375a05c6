"""What is saved is what ran: the reloaded model is equal in every bit, or refused with one clear line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers_codes import EXTRAS, FAMILIES, ONE_OF_EACH_KIND, generator, logits, packed_model, random_code, tiny_model
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from torch import nn
from transformers import AutoModelForCausalLM, GenerationMixin, PreTrainedModel, PreTrainedTokenizerFast

from binllm.errors import BinllmError
from binllm.packing import BinaryLinear, binary_layers, set_kernel
from binllm.packing import checkpoint as checkpoint_module
from binllm.packing.accounting import checkpoint_bits
from binllm.packing.checkpoint import load_checkpoint, save_checkpoint
from binllm.packing.headers import checkpoint_hash


def model_head(model: PreTrainedModel) -> nn.Module:
    """The last linear layer, as the model names it."""
    head = model.get_output_embeddings()
    assert head is not None
    return head


@pytest.mark.parametrize("kernel", ["dense", "torch"])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_reloaded_logits_are_equal(family: str, tied: bool, kernel: str, tmp_path: Path) -> None:
    model = packed_model(family, generator(), tied=tied)
    set_kernel(model, kernel)
    reloaded, tokenizer = load_checkpoint(save_checkpoint(model, None, tmp_path / "c"), kernel=kernel)
    assert tokenizer is None
    assert torch.equal(logits(reloaded), logits(model))
    assert {name: layer.spec for name, layer in binary_layers(reloaded).items()} == {
        name: layer.spec for name, layer in binary_layers(model).items()
    }
    head, embedding = (m.get_parameter("weight") for m in (model_head(reloaded), reloaded.get_input_embeddings()))
    assert (head is embedding) is tied
    assert not reloaded.training


@pytest.mark.parametrize("specimen", ONE_OF_EACH_KIND)
def test_every_kind_of_code_is_reloaded_equal(specimen: str, tmp_path: Path) -> None:
    model = packed_model("opt", generator(), only=specimen)
    reloaded, _ = load_checkpoint(save_checkpoint(model, None, tmp_path / "c"))
    assert torch.equal(logits(reloaded), logits(model))
    found = {n: t for n, t in reloaded.state_dict().items() if n in dict(model.named_buffers())}
    assert found and all(torch.equal(tensor, model.get_buffer(name)) for name, tensor in found.items())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_another_dtype_changes_everything_but_the_packed_tensors(dtype: torch.dtype, tmp_path: Path) -> None:
    model = packed_model("opt", generator())
    reloaded, _ = load_checkpoint(save_checkpoint(model, None, tmp_path / "c"), dtype=dtype)
    assert {p.dtype for p in reloaded.parameters()} == {dtype}
    nn.Module.to(model, dtype)
    assert torch.equal(logits(reloaded), logits(model))


def test_equal_models_give_equal_bytes_and_different_ones_do_not(tmp_path: Path) -> None:
    first = save_checkpoint(packed_model("llama", generator()), None, tmp_path / "a", {"command": "x"})
    again = save_checkpoint(packed_model("llama", generator()), None, tmp_path / "deeper/b", {"command": "x"})
    other = save_checkpoint(packed_model("llama", generator(1)), None, tmp_path / "c", {"command": "x"})
    reloaded = save_checkpoint(load_checkpoint(first)[0], None, tmp_path / "d", {"command": "x"})
    assert checkpoint_hash(first) == checkpoint_hash(again) == checkpoint_hash(reloaded)
    assert checkpoint_hash(first) != checkpoint_hash(other)
    files = sorted(path.name for path in first.iterdir())
    assert files == ["README.md", "config.json", "generation_config.json", "model.safetensors"]
    assert str(tmp_path) not in (reloaded / "config.json").read_text()


def test_tokenizer_header_and_generation_are_kept(tmp_path: Path) -> None:
    words = Tokenizer(WordLevel({"<unk>": 0, "a": 1, "b": 2}, unk_token="<unk>"))
    words.pre_tokenizer = Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>")
    model = packed_model("llama", generator())
    folder = save_checkpoint(model, tokenizer, tmp_path / "c", {"seed": 0})
    reloaded, same = load_checkpoint(folder)
    assert same is not None and same("a b c")["input_ids"] == [1, 2, 0]
    assert json.loads((folder / "config.json").read_text())["quantization_config"]["header"] == {"seed": 0}
    prompt = torch.tensor([[5, 6, 7]])
    settings: dict[str, Any] = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 0}
    continued = [GenerationMixin.generate(m, prompt, **settings) for m in (reloaded, model)]  # pyright: ignore
    assert torch.equal(*continued)


def test_large_models_are_sharded(tmp_path: Path) -> None:
    model = packed_model("llama", generator())
    folder = save_checkpoint(model, None, tmp_path / "c", max_shard_size=4000)
    assert len(list(folder.glob("model-*-of-*.safetensors"))) > 2
    assert torch.equal(logits(load_checkpoint(folder)[0]), logits(model))
    missing = sorted(folder.glob("model-*.safetensors"))[1]
    missing.unlink()
    with pytest.raises(BinllmError, match=f"{missing.name}: the checkpoint's tensor file is missing"):
        load_checkpoint(folder)


def test_tensors_published_in_16_bits_stay_so(tmp_path: Path) -> None:
    model = packed_model("llama", generator())
    for parameter in model.parameters():  # not the rotary frequencies, which no checkpoint holds
        parameter.data = parameter.data.bfloat16().float()
    folder = save_checkpoint(model, None, tmp_path / "c")
    assert load_file(folder / "model.safetensors")["model.embed_tokens.weight"].dtype == torch.bfloat16
    reloaded, _ = load_checkpoint(folder)
    assert reloaded.dtype == torch.float32
    assert torch.equal(logits(reloaded), logits(model))


def test_a_packed_head_is_untied(tmp_path: Path) -> None:
    model = tiny_model("llama", generator())
    model.set_submodule("lm_head", BinaryLinear.from_code(random_code((61, 24), 16, generator())))
    reloaded, _ = load_checkpoint(save_checkpoint(model, None, tmp_path / "c"))
    assert torch.equal(logits(reloaded), logits(model))
    assert model.config.tie_word_embeddings, "saving must not change the model"


def test_a_tensor_shared_against_the_configuration_is_saved_twice(tmp_path: Path) -> None:
    model = packed_model("llama", generator(), tied=False)
    model_head(model).register_parameter("weight", model.get_parameter("model.embed_tokens.weight"))
    reloaded, _ = load_checkpoint(save_checkpoint(model, None, tmp_path / "c"))
    assert torch.equal(logits(reloaded), logits(model))


def test_transformers_loads_and_saves_it_by_itself(tmp_path: Path) -> None:
    model = packed_model("phi3", generator())
    folder = save_checkpoint(model, None, tmp_path / "c")
    reloaded = AutoModelForCausalLM.from_pretrained(folder)
    assert torch.equal(logits(reloaded), logits(model))
    reloaded.get_parameter("model.norm.weight").data += 1  # so that the hash in config.json is no longer right
    reloaded.save_pretrained(tmp_path / "again")
    assert torch.equal(logits(load_checkpoint(tmp_path / "again")[0]), logits(reloaded))
    with (folder / "model.safetensors").open("r+b") as file:
        file.truncate(5000)
    with pytest.raises(BinllmError, match="truncated"):
        AutoModelForCausalLM.from_pretrained(folder)


def edit_tensors(edit: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Path], None]:
    """Change the tensors of a checkpoint whose hashes have been removed."""

    def change(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        edit(tensors)
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        edit_config(lambda q: q.update(sha256={}))(folder)

    return change


def edit_config(edit: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    """Change the quantization part of config.json."""

    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        edit(config["quantization_config"])
        (folder / "config.json").write_text(json.dumps(config))

    return change


def flip_last_bit(folder: Path) -> None:
    """Change one bit of the last tensor."""
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "model.safetensors").write_bytes(data)


VERSION_1_KEYS = ("n_out", "n_in", "block_size", "groups", "salient", "column_scale", "row_mean", "bias", "scale_dtype")


@pytest.mark.parametrize("extras", [EXTRAS[0], EXTRAS[6]], ids=str)
def test_a_checkpoint_of_the_first_format_is_read_and_stays_one(extras: dict[str, Any], tmp_path: Path) -> None:
    model = packed_model("llama", generator(), only=f"binary {extras}")
    folder = save_checkpoint(model, None, tmp_path / "c")

    def downgrade(quantization: dict[str, Any]) -> None:
        quantization["format_version"] = 1
        for name, spec in quantization["layers"].items():
            quantization["layers"][name] = {key: spec[key] for key in VERSION_1_KEYS}

    edit_config(downgrade)(folder)
    account = checkpoint_bits(folder)
    reloaded, _ = load_checkpoint(folder)
    assert torch.equal(logits(reloaded), logits(model))
    reloaded.save_pretrained(tmp_path / "again")
    assert torch.equal(logits(load_checkpoint(tmp_path / "again")[0]), logits(model))
    assert checkpoint_bits(save_checkpoint(reloaded, None, tmp_path / "new")) == account


UP = "model.layers.0.mlp.up_proj"
DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing tensor": (edit_tensors(lambda t: t.pop(f"{UP}.signs")), rf"no tensor {UP}.signs$"),
    "missing norm": (edit_tensors(lambda t: t.pop("model.norm.weight")), "no tensor model.norm.weight"),
    "unexpected tensor": (
        edit_tensors(lambda t: t.update({f"{UP}.weight": torch.ones(1)})),
        rf"^model.safetensors: unexpected tensor {UP}.weight",
    ),
    "wrong shape": (
        edit_tensors(lambda t: t.update({f"{UP}.signs": t[f"{UP}.signs"][:-1].contiguous()})),
        rf"tensor {UP}.signs has shape \[39, 3\], must be \[40, 3\]",
    ),
    "wrong dtype": (
        edit_tensors(lambda t: t.update({f"{UP}.row_scale": t[f"{UP}.row_scale"].float()})),
        rf"tensor {UP}.row_scale has dtype F32, must be F16",
    ),
    "other version": (edit_config(lambda q: q.update(format_version=3)), "format_version = 3: allowed is 1 or 2"),
    "other method": (edit_config(lambda q: q.update(quant_method="gptq")), "is not a binllm checkpoint"),
    "spec of another shape": (
        edit_config(lambda q: q["layers"][UP].update(n_in=23)),
        rf"the model's layer {UP} is",
    ),
    "broken spec": (
        edit_config(lambda q: q["layers"][UP].pop("groups")),
        rf"of layer {UP} is not valid \(groups\)",
    ),
    "unknown kind": (
        edit_config(lambda q: q["layers"][UP].update(kind="unifrom")),
        f"kind of layer {UP} = unifrom: allowed are binary, haar, partial, uniform; did you mean 'uniform'",
    ),
    "layer not in the model": (
        edit_config(lambda q: q["layers"].update(nowhere=q["layers"][UP])),
        "packed layer nowhere is not in the model",
    ),
    "flipped bit": (flip_last_bit, "model.safetensors: the tensor file is damaged, its SHA-256"),
    "truncated": (
        lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:-100]),
        "model.safetensors: the tensor file is truncated",
    ),
    "empty file": (lambda f: (f / "model.safetensors").write_bytes(b""), "the tensor file is truncated"),
    "no tensors": (
        lambda f: (f / "model.safetensors").unlink(),
        "model.safetensors: the checkpoint's tensor file is",
    ),
    "no config": (lambda f: (f / "config.json").unlink(), "has no config.json"),
    "config cut in half": (
        lambda f: (f / "config.json").write_text('{"a": '),
        "config.json: cannot be read as JSON",
    ),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_checkpoint_is_refused_in_one_line(case: str, tmp_path: Path) -> None:
    folder = save_checkpoint(packed_model("llama", generator()), None, tmp_path / "c")
    damage, message = DAMAGE[case]
    damage(folder)
    with pytest.raises(BinllmError, match=message) as caught:
        load_checkpoint(folder)
    assert "\n" not in str(caught.value)


def test_a_failed_write_leaves_the_old_checkpoint_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_checkpoint(packed_model("llama", generator()), None, tmp_path / "c")
    before = checkpoint_hash(folder)
    real = checkpoint_module.save_file

    def fail(tensors: Any, path: Path, metadata: Any) -> None:
        real(tensors, path, metadata)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint_module, "save_file", fail)
    for name in ("c", "new"):
        with pytest.raises(BinllmError, match="cannot be written .*No space left"):
            save_checkpoint(packed_model("llama", generator(1)), None, tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["c"]
    assert checkpoint_hash(folder) == before


def test_whoever_names_a_run_folder_is_told_where_its_checkpoint_is(tmp_path: Path) -> None:
    save_checkpoint(packed_model("opt", generator()), None, tmp_path / "checkpoint")
    with pytest.raises(BinllmError, match=r"has no config\.json; that of this run is .*checkpoint$"):
        load_checkpoint(tmp_path)


def test_a_complete_checkpoint_replaces_the_old_one(tmp_path: Path) -> None:
    folder = save_checkpoint(packed_model("llama", generator()), None, tmp_path / "c")
    save_checkpoint(packed_model("llama", generator(1)), None, folder)
    assert [path.name for path in tmp_path.iterdir()] == ["c"]
    assert torch.equal(logits(load_checkpoint(folder)[0]), logits(packed_model("llama", generator(1))))


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BinllmError, match="the checkpoint cannot be written"):
        save_checkpoint(packed_model("llama", generator()), None, tmp_path / "file/c")
