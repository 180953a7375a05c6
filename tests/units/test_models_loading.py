"""Models load from every kind of source, whole or not at all."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from binllm.errors import BinllmError
from binllm.models import Dtype, Family, ModelConfig, Source, check_context, load_model

IDS = torch.arange(24).view(2, 12) + 260


def folder_config(path):
    return ModelConfig(name="m", source=Source.folder, path=str(path))


def random_config(family=Family.llama, seed=0, **fields):
    return ModelConfig(name="m", source=Source.random, family=family, seed=seed, **fields)


@pytest.fixture
def folder(tmp_path):
    loaded = load_model(random_config())
    loaded.model.save_pretrained(tmp_path / "model")
    loaded.tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture(scope="module")
def stories():
    return load_model(
        ModelConfig(
            name="stories260k",
            source=Source.llama2c,
            package="binllm",
            file="models/assets/stories260K.bin",
            tokenizer="stories260K_tok512.bin",
        )
    )


@pytest.mark.parametrize("family", Family)
def test_a_saved_model_loads_again_bit_for_bit(tmp_path, family):
    first = load_model(random_config(family))
    first.model.save_pretrained(tmp_path)
    first.tokenizer.save_pretrained(tmp_path)
    again = load_model(folder_config(tmp_path))
    assert torch.equal(first.model(IDS).logits, again.model(IDS).logits)
    text = "Once upon a time é\n\nthere"
    assert first.tokenizer(text).input_ids == again.tokenizer(text).input_ids
    assert again.origin == f"folder {tmp_path}"


def test_a_loaded_model_is_ready_for_use(folder):
    model = load_model(folder_config(folder)).model
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert {parameter.device.type for parameter in model.parameters()} == {"cpu"}
    assert all(parameter.data_ptr() % 64 == 0 for parameter in model.parameters())


def test_the_type_is_the_one_asked_for(folder):
    config = ModelConfig(name="m", source=Source.folder, path=str(folder), dtype=Dtype.bfloat16)
    assert {parameter.dtype for parameter in load_model(config).model.parameters()} == {torch.bfloat16}


def test_random_models_depend_on_their_seed_alone():
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first, same, other = (load_model(random_config(seed=seed)).model.lm_head.weight for seed in (0, 0, 1))
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_loading_prints_nothing(folder, capfd):
    load_model(folder_config(folder))
    assert capfd.readouterr() == ("", "")


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(BinllmError, match="model.path = .*this one is empty"):
        load_model(folder_config(tmp_path))


def test_a_truncated_shard_is_named(folder):
    shard = folder / "model.safetensors"
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(BinllmError, match="model.path = .*model.safetensors is missing, cut or damaged") as caught:
        load_model(folder_config(folder))
    assert "\n" not in str(caught.value)


def test_a_missing_shard_is_named(folder):
    index = {"weight_map": {"lm_head.weight": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    with pytest.raises(BinllmError, match="model-00002-of-00002.safetensors is missing"):
        load_model(folder_config(folder))


def test_a_folder_with_pickles_only_is_refused(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(BinllmError, match=r"model.path = .*safetensors"):
        load_model(folder_config(folder))


def test_a_missing_tensor_is_named_and_not_made_up(folder):
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BinllmError, match="1 tensors are missing.*layers.1.mlp.up_proj.weight"):
        load_model(folder_config(folder))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_weight_that_is_not_finite_is_named(folder, value):
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.2.self_attn.k_proj.weight"][1, 2] = value
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BinllmError, match=r"layers\.2\.self_attn\.k_proj\.weight has 1 that are NaN or infinite"):
        load_model(folder_config(folder))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"architectures": ["BertForMaskedLM"], "model_type": "bert"},
            "a causal language model.*BertForMaskedLM",
        ),
        ({"model_type": None}, "no model_type"),
        ({"model_type": "never_heard_of", "architectures": None}, "a causal language model"),
    ],
)
def test_what_is_no_causal_language_model_is_refused(folder, change, message):
    config = json.loads((folder / "config.json").read_text()) | change
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(BinllmError, match=message) as caught:
        load_model(folder_config(folder))
    assert "\n" not in str(caught.value)


def test_a_model_without_a_tokenizer_is_refused(folder):
    for file in folder.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(BinllmError, match="a model with a tokenizer"):
        load_model(folder_config(folder))


def test_a_hub_id_that_cannot_be_reached_is_one_clear_line():
    config = ModelConfig(name="m", id="binllm-tests/no-such-model", local_files_only=True)
    with pytest.raises(BinllmError, match="model.id = binllm-tests/no-such-model: .* on the hub") as caught:
        load_model(config)
    assert "\n" not in str(caught.value)


def test_the_hub_reads_through_the_same_door_as_a_folder(folder):
    """transformers takes a folder where it takes an id, which exercises the hub's path without a network."""
    loaded = load_model(ModelConfig(name="m", source=Source.hub, id=str(folder)))
    assert torch.equal(loaded.model(IDS).logits, load_model(folder_config(folder)).model(IDS).logits)


def test_stories260k_tells_its_story(stories):
    out = stories.model.generate(torch.tensor([[1]]), do_sample=False, max_new_tokens=60, pad_token_id=0)
    story = stories.tokenizer.decode(out[0], skip_special_tokens=True)
    assert story.startswith("Once upon a time, there was a little girl named Lily. She loved to play outside")


def test_a_llama2c_file_that_is_cut_is_refused(tmp_path, stories):
    from binllm.models.loading import ASSETS

    whole = (ASSETS / "stories260K.bin").read_bytes()
    file = tmp_path / "cut.bin"
    file.write_bytes(whole[: len(whole) // 2])
    config = ModelConfig(name="m", source=Source.llama2c, path=str(file), tokenizer="t.bin")
    with pytest.raises(BinllmError, match="model.tokenizer"):
        load_model(config)
    (tmp_path / "t.bin").write_bytes((ASSETS / "stories260K_tok512.bin").read_bytes())
    with pytest.raises(BinllmError, match="model.file.*this one ends inside model.layers"):
        load_model(config)


def test_a_sequence_longer_than_the_context_is_refused(stories):
    check_context(stories.model, 512, "dataset.length")
    with pytest.raises(BinllmError, match="dataset.length = 513: allowed is at most 512"):
        check_context(stories.model, 513, "dataset.length")
