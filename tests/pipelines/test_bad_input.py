"""Bad input through the real command: one clear line, an exit code, and nothing half-written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from gguf import GGUFWriter
from helpers_command import Finished, Preloaded
from safetensors.torch import load_file, save_file

from pipelines.runs import TINY, only_run, record, runs


def refused(command: Preloaded, folder: Path, *words: str) -> str:
    """The error of a command that must fail and leave no run folder."""
    done = command(folder, *TINY, *words)
    assert done.code == 2, (done.out, done.err)
    assert done.out == ""
    assert done.error.startswith("binllm: error: ")
    assert runs(folder / "results") == []
    return done.error.removeprefix("binllm: error: ")


CONFIGURATION = {
    "objective=wieght_align": "did you mean 'weight_align'?",
    "objektive=weight_align": "did you mean 'objective'?",
    "objective.alhpa=1": "did you mean 'objective.alpha'?",
    "objective.alpha=2": "objective.alpha = 2.0: allowed is 0 <= alpha <= 1",
    "calibration.batch=0": "calibration.batch = 0: allowed is a whole number of at least 1",
    "model=/no/such/folder": "model = /no/such/folder: allowed is a name of the group or an existing path",
    "objective.roles=[fc1]": "objective.roles = fc1: allowed are all, down, gate, k, last, o, q, up, v",
    "model.family=gpt": "model.family = gpt: allowed are llama, opt, phi3; did you mean 'opt'?",
    "device=tpu": "device = tpu: allowed are auto, cpu, cuda",
    "kernel=triton": "kernel.name = triton: cannot run on cpu (",
    "dataset.length=100000": "dataset.length = 100000: allowed is at most ",
    "dataset.length=513": "dataset.length = 513: allowed is at most 512, the context of the model",
    "diagnostics.metrics=[stram]": "attention, block_loss, stream, tokens; did you mean 'stream'?",
    "diagnostics.metrics=[block_loss]": "diagnostics.objectives = {}: allowed is at least one objective with block_loss",
    "diagnostics.sequences=0": "diagnostics.sequences = 0: allowed is a whole number of at least 1, or null",
    "evaluation.window=0": "evaluation.window = 0: allowed is a number of at least 2",
    "method=hbllm_row solver=rounding": "down_proj cannot be quantized: binarization.most = 50: "
    "a block has 48 columns only, allowed is 2 to 48 (the authors' code cannot take this shape)",
    "binarization=whole_row binarization.salient_columns=300": "q_proj cannot be quantized: "
    "binarization.salient_columns = 300: allowed is 0 to 64, the width of the layer",
}


@pytest.mark.parametrize("words", CONFIGURATION)
def test_a_wrong_configuration(command: Preloaded, tmp_path: Path, words: str):
    assert CONFIGURATION[words] in refused(command, tmp_path, *words.split())


OWN_FILES = {  # in a folder of the user's own, as --config-dir takes it
    "solver: {feedbak: diagonal}": "method/own.yaml: solver.feedbak: no such key; solver has name, feedback, ridge; "
    "did you mean 'solver.feedback'?",
    "solver: {feedback: diagnal}": "method/own.yaml: solver.feedback = diagnal: allowed are diagonal, exact, none; "
    "did you mean 'diagonal'?",
    "solvr: {feedback: diagonal}": "did you mean 'solver'?",
    "methd: own": "did you mean 'method'?",
    "solver: rounding": "method/own.yaml: rounding: allowed are keys with values; an option is chosen in defaults",
    "defaults: [override /solvr: rounding]": "method/own.yaml: solvr: no such key; there are asymmetric, binarization, ",
    "defaults: [override /solver: roundin]": "solver = roundin: allowed are alternating, ",
    "defaults: [override /objective@elswhere: proposed]": "did you mean 'objective@elsewhere'?",
    "defaults: [/solver/schema_roundin]": "solver = schema_roundin: allowed are schema_alternating, ",
}


@pytest.mark.parametrize("mistake", OWN_FILES)
def test_a_mistake_in_a_preset_of_the_users_own(command: Preloaded, tmp_path: Path, mistake: str):
    (tmp_path / "own" / "method").mkdir(parents=True)
    text = f"# @package _global_\n{mistake}\n"
    if not mistake.startswith("defaults"):
        text = text.replace("_global_\n", "_global_\ndefaults: [override /solver: rounding]\n")
    (tmp_path / "own" / "method" / "own.yaml").write_text(text)
    done = command(tmp_path, "debug=tiny", "method=own", "--config-dir", "own")
    assert (done.code, done.out) == (2, "")
    assert OWN_FILES[mistake] in done.error
    assert not (tmp_path / "results").exists()


def empty(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()


def truncate(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def another_kind(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps(config | {"architectures": ["BertForMaskedLM"], "model_type": "bert"})
    )


def nan_in_a_weight(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.1.mlp.down_proj.weight"][3, 5] = float("nan")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def no_blocks(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 0}))


DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "empty": (empty, "allowed is a model folder; this one is empty"),
    "truncated": (truncate, "model.safetensors is missing, cut or damaged"),
    "not causal": (another_kind, "allowed is a causal language model; this one is BertForMaskedLM"),
    "NaN": (nan_in_a_weight, "tensor model.layers.1.mlp.down_proj.weight has 1 that are NaN or infinite"),
    "no blocks": (no_blocks, "model: no list of decoder blocks with linear layers found"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_model_folder_that_cannot_be_used(command: Preloaded, tmp_path: Path, model_folder: Path, damage: str):
    spoil, message = DAMAGE[damage]
    spoil(model_folder)
    assert message in refused(command, tmp_path, f"model={model_folder}")


def test_a_text_shorter_than_one_sequence(command: Preloaded, tmp_path: Path):
    (tmp_path / "short.txt").write_text("Once upon a time.")
    error = refused(command, tmp_path, f"dataset={tmp_path}/short.txt")
    assert error.startswith("dataset.length = 64: allowed is at most the length of the text; text:short.txt")


def test_a_text_with_too_few_sequences(command: Preloaded, tmp_path: Path):
    (tmp_path / "short.txt").write_text("Once upon a time. " * 40)
    assert refused(command, tmp_path, f"dataset={tmp_path}/short.txt").startswith(
        "dataset.sequences = 4: allowed is at most "
    )


def test_a_gguf_file_cut_in_half(command: Preloaded, tmp_path: Path):
    file = tmp_path / "model.gguf"
    writer = GGUFWriter(file, "llama")
    writer.add_block_count(1)
    writer.add_tensor("token_embd.weight", torch.zeros(512, 64).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    error = refused(command, tmp_path, "model=folder", f"model.path={file}")
    assert error.startswith(f"model.path = {file}: allowed is a whole GGUF file of a causal language model")


@pytest.mark.parametrize("place", ["a-file/results", "/proc/results"])
def test_results_that_cannot_be_written(command: Preloaded, tmp_path: Path, place: str):
    (tmp_path / "a-file").write_text("")
    error = refused(command, tmp_path, f"paths.results={place}")
    assert error.startswith(f"paths.results = {place}: allowed is a folder that can be written (")
    done = command(tmp_path, "-m", *TINY, f"paths.results={place}", "seed=0,1")
    assert done.code == 2
    assert done.err.count("allowed is a folder that can be written") == 2


def test_a_run_of_another_version(command: Preloaded, tmp_path: Path):
    command(tmp_path, *TINY)
    run = only_run(tmp_path / "results")
    run.record.write_text(json.dumps(record(run) | {"version": 99}))
    done = command(tmp_path, *TINY)
    assert (done.code, done.out) == (2, "")
    assert done.error.startswith(f"binllm: error: {run.record}: format version 99, this binllm reads version 1")
    assert run.checkpoint.is_dir(), "what another version wrote is not ours to delete"


def test_a_checkpoint_of_another_version(command: Preloaded, tmp_path: Path):
    command(tmp_path, *TINY, "paths.results=first")
    folder = only_run(tmp_path / "first").checkpoint
    assert "allowed is a model that is not quantized yet" in refused(command, tmp_path, f"model={folder}")
    config = json.loads((folder / "config.json").read_text())
    version = {"format_version", "version"} & set(config["quantization_config"])
    config["quantization_config"] |= dict.fromkeys(version, 99)
    (folder / "config.json").write_text(json.dumps(config))
    assert "99" in refused(command, tmp_path, f"model={folder}")


def completed(command: Preloaded, folder: Path, *words: str) -> Finished:
    done = command(folder, *TINY, "solver=coordinate_descent", *words)
    assert done.code == 0, done.err
    quantized = record(only_run(folder / "results"))["results"]["quantized"]["perplexity"]
    assert isinstance(quantized, float)
    return done


def test_a_dead_input_column_is_handled(command: Preloaded, tmp_path: Path, model_folder: Path):
    tensors = load_file(model_folder / "model.safetensors")
    for name in ("input_layernorm", "post_attention_layernorm"):
        tensors[f"model.layers.0.{name}.weight"][:7] = 0  # these inputs of q, k, v and of gate, up are always zero
    save_file(tensors, model_folder / "model.safetensors", metadata={"format": "pt"})
    completed(command, tmp_path, f"model={model_folder}", "objective=proposed")


@pytest.mark.parametrize("objective", ["output_align", "proposed", "interpolated"])
def test_a_singular_moment_matrix_is_handled(command: Preloaded, tmp_path: Path, objective: str):
    """16 tokens for 64 and 176 inputs, and no ridge asked for."""
    words = ("dataset.sequences=1", "dataset.length=16", "solver.ridge=0")
    completed(command, tmp_path, f"objective={objective}", "objective.shrinkage=0", "objective.roles=[all]", *words)
    layers = only_run(tmp_path / "results").read_layers()
    assert any(layer.recoveries > 0 for layer in layers)
