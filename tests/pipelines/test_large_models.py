"""A model that is read block by block gives what the model in memory gives, and never has more than a block in memory."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from weakref import ref

import pytest
import torch
from helpers_command import Preloaded
from helpers_tasks import write_rows
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedModel

from binllm.configuration import compose_run
from binllm.errors import BinllmError
from binllm.inner_loop import Events, open_streams, quantize_blocks
from binllm.models import Family, ModelConfig, Source, decoder_blocks, load_model
from binllm.packing import binary_layers
from binllm.pipeline import plan_of
from binllm.schema import build
from binllm.tracking.measurements import TaskMeasurement, read_measurements
from pipelines.runs import TINY, checkpoint_bytes, only_run, record

IDS = torch.randint(3, 512, (4, 24), generator=torch.Generator().manual_seed(7))


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> dict[Family, Path]:
    """Tiny models in the layout of transformers, in several shards; not to be changed."""
    folders = {}
    for family in (Family.llama, Family.opt):
        loaded = load_model(ModelConfig(name="tiny", source=Source.random, family=family))
        folders[family] = tmp_path_factory.mktemp("sharded") / family.name
        loaded.model.save_pretrained(folders[family], max_shard_size="100KB")
        loaded.tokenizer.save_pretrained(folders[family])
        assert (folders[family] / "model.safetensors.index.json").exists()
    return folders


def load(folder: Path, streaming: bool = True) -> PreTrainedModel:
    return load_model(ModelConfig(name="tiny", source=Source.folder, path=str(folder)), streaming).model


def in_memory(module: nn.Module) -> int:
    """Entries of weights and packed codes that are in memory."""
    return sum(tensor.numel() for tensor in module.state_dict().values() if not tensor.is_meta)


def numbers(folder: Path) -> list[dict]:
    measured = ("seconds", "peak_memory_bytes")
    rows = [json.loads(line) for line in (folder / "layers.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key not in measured} for row in rows]


@pytest.mark.parametrize(
    ("family", "words"),
    [
        (Family.llama, ("diagnostics=standard", "calibration.head=true", "calibration.storage=disk")),
        (Family.opt, ("calibration.correct_bias=true", "calibration.granularity=block")),
    ],
)
def test_a_streamed_run_is_the_ordinary_run_bit_for_bit(
    command: Preloaded, sharded: dict[Family, Path], tmp_path: Path, family: Family, words: tuple[str, ...]
):
    outcomes = []
    for streaming in ("false", "true"):
        results = tmp_path / streaming
        place = (f"model={sharded[family]}", f"streaming={streaming}", f"paths.results={results}")
        done = command(tmp_path, *TINY, *place, *words)
        assert done.code == 0, done.err
        folder = only_run(results)
        found = record(folder)
        perplexities = [found["results"][which]["perplexity"] for which in ("full_precision", "quantized")]
        files = checkpoint_bytes(folder)
        del files["README.md"]  # it names the command
        outcomes.append((folder.path.name, files, numbers(folder.path), perplexities))
    assert outcomes[0] == outcomes[1]  # the name too: streaming changes no number, so it is no part of the hash


def test_a_streamed_model_answers_tasks_as_the_model_in_memory_does(
    command: Preloaded, sharded: dict[Family, Path], tmp_path: Path
):
    write_rows(tmp_path, "arc_easy")
    tasks = ("zero_shot.tasks=[arc_easy]", f"zero_shot.data={tmp_path}")
    answers = []
    for streaming in ("false", "true"):
        words = (f"model={sharded[Family.llama]}", f"streaming={streaming}", f"paths.results={tmp_path / streaming}")
        done = command(tmp_path, *TINY, *words, *tasks)
        assert done.code == 0, done.err
        measured = read_measurements(only_run(tmp_path / streaming).evaluations)
        answers.append([(one.task, one.correct, one.metrics) for one in measured if isinstance(one, TaskMeasurement)])
    assert answers[0] == answers[1]
    assert [task for task, _, _ in answers[0]] == ["arc_easy"]


def test_another_file_beside_a_models_single_one_is_not_read(tmp_path: Path):
    loaded = load_model(ModelConfig(name="tiny", source=Source.random, family=Family.llama))
    loaded.model.save_pretrained(tmp_path)
    loaded.tokenizer.save_pretrained(tmp_path)
    averaged = {name: tensor + 1 for name, tensor in load_file(tmp_path / "model.safetensors").items()}
    save_file(averaged, tmp_path / "model_ema.safetensors", metadata={"format": "pt"})
    with torch.no_grad():
        assert torch.equal(load(tmp_path)(IDS).logits, load(tmp_path, streaming=False)(IDS).logits)


def test_a_streamed_run_that_is_killed_goes_on(command: Preloaded, sharded: dict[Family, Path], tmp_path: Path):
    words = (*TINY, f"model={sharded[Family.opt]}", "streaming=true", "calibration.correct_bias=true")
    undisturbed = command(tmp_path, *words, "paths.results=undisturbed", hooks={"writes": str(tmp_path / "writes")})
    assert undisturbed.code == 0, undisturbed.err
    half = len((tmp_path / "writes").read_text().splitlines()) // 2
    assert command(tmp_path, *words, hooks={"die_in_write": half}).code == -signal.SIGKILL
    assert (only_run(tmp_path / "results").state / "state.json").exists()
    again = command(tmp_path, *words)
    assert again.code == 0, again.err
    assert checkpoint_bytes(only_run(tmp_path / "results")) == checkpoint_bytes(only_run(tmp_path / "undisturbed"))


def test_only_the_block_that_is_worked_on_is_in_memory(sharded: dict[Family, Path]):
    model = load(sharded[Family.llama])
    plan = plan_of(build(compose_run(["solver=closed_form", "calibration.batch=2"])))
    _, blocks = decoder_blocks(model)
    whole = sum(tensor.numel() for tensor in blocks[0].state_dict().values())
    seen = []

    def begins(index: int, block: nn.Module, streams: object) -> None:
        seen.append(index)
        assert in_memory(block) == whole
        later = [other for position, other in enumerate(blocks) if position > index]
        assert sum(map(in_memory, later)) == 0
        assert in_memory(model.get_input_embeddings()) == 0

    assert in_memory(model) == 0
    quantize_blocks(open_streams(model, IDS, plan), plan, Events(begin=begins))
    assert seen == [0, 1, 2]
    packed = {name for name in model.state_dict() if name.rpartition(".")[0] in binary_layers(model)}
    assert {name for name, tensor in model.state_dict().items() if not tensor.is_meta} == packed


def test_a_dense_weight_leaves_memory_when_its_layer_is_packed(sharded: dict[Family, Path]):
    model = load(sharded[Family.llama])
    plan = plan_of(build(compose_run(["solver=closed_form", "calibration.batch=2"])))
    dense: dict[str, ref[nn.Parameter]] = {}

    def begins(index: int, block: nn.Module, streams: object) -> None:
        dense.update({name: ref(tensor) for name, tensor in block.named_parameters() if tensor.dim() == 2})

    def last(index: int, name: str) -> None:
        if name == "mlp.down_proj":
            assert [name for name, weight in dense.items() if weight() is not None] == ["mlp.down_proj.weight"]

    quantize_blocks(open_streams(model, IDS, plan), plan, Events(begin=begins, layer=last))
    assert len(dense) == 7 and all(weight() is None for weight in dense.values())


@pytest.mark.parametrize("family", [Family.llama, Family.opt])
def test_a_streamed_model_computes_what_the_model_in_memory_computes(sharded: dict[Family, Path], family: Family):
    streamed, whole = (load(sharded[family], streaming) for streaming in (True, False))
    with torch.no_grad():
        assert torch.equal(streamed(IDS).logits, whole(IDS).logits)
    assert in_memory(streamed) == 0


def damaged(folder: Path, name: str, value: float | None, to: Path) -> Path:
    """A copy of a model's folder in which a tensor is missing (None) or has an entry of this value."""
    to.mkdir()
    for file in folder.iterdir():
        (to / file.name).write_bytes(file.read_bytes())
    shard = to / json.loads((to / "model.safetensors.index.json").read_text())["weight_map"][name]
    tensors = load_file(shard)
    if value is None:
        del tensors[name]
    else:
        tensors[name].view(-1)[3] = value
    save_file(tensors, shard, metadata={"format": "pt"})
    return to


def test_a_missing_tensor_is_named_at_once(sharded: dict[Family, Path], tmp_path: Path):
    name = "model.layers.1.mlp.up_proj.weight"
    folder = damaged(sharded[Family.llama], name, None, tmp_path / "model")
    with pytest.raises(BinllmError, match=f"model.path = .*1 tensors are missing.*{name}"):
        load(folder)


def test_a_weight_that_is_not_finite_is_named_when_it_is_read(sharded: dict[Family, Path], tmp_path: Path):
    name = "model.layers.1.mlp.up_proj.weight"
    folder = damaged(sharded[Family.llama], name, float("nan"), tmp_path / "model")
    model = load(folder)
    with pytest.raises(BinllmError, match=f"{folder}.*{name}.*NaN or infinite"), torch.no_grad():
        model(IDS)


def test_only_folders_and_the_hub_can_be_streamed():
    config = ModelConfig(name="tiny", source=Source.random, family=Family.llama)
    with pytest.raises(BinllmError, match="streaming = True: .*false when the model is read from random"):
        load_model(config, streaming=True)
