"""What a user types, and what is there afterwards."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from helpers_command import Preloaded

from pipelines.runs import TINY, checkpoint_bytes, only_run, record, runs


def test_a_run_leaves_its_record_and_prints_its_table(command: Preloaded, tmp_path: Path):
    done = command(tmp_path, *TINY)
    assert done.code == 0, done.err
    run = only_run(tmp_path / "results")
    assert {entry.name for entry in run.path.iterdir()} == {
        ".lock", "config.yaml", "run.json", "layers.jsonl", "checkpoint", "evaluations"
    }  # fmt: skip
    told = record(run)
    assert told["status"] == "complete"
    for results in (told["results"]["full_precision"], told["results"]["quantized"]):
        assert results["perplexity"] > 1
        assert results["definition"].startswith("tinystories/heldout/window=64/")
    for value in (told["results"]["full_precision"]["perplexity"], told["results"]["quantized"]["perplexity"]):
        assert f"{value:,.2f}" in done.out
    assert done.out.splitlines()[-1] == f"run folder: {run.path}"
    assert len(run.read_layers()) == 3 * 7
    assert yaml.safe_load(run.config.read_text())["dataset"]["length"] == 64


@pytest.mark.parametrize("model", ["tiny_opt", "tiny_phi3"])
def test_the_other_families_run_too(command: Preloaded, tmp_path: Path, model: str):
    done = command(tmp_path, *TINY, f"model={model}", "objective=proposed")
    assert done.code == 0, done.err
    layers = only_run(tmp_path / "results").read_layers()
    last = {layer.layer for layer in layers if layer.objective == "proposed"}
    assert last == {"fc2" if model == "tiny_opt" else "mlp.down_proj"}


def test_the_same_command_finds_the_run_done(command: Preloaded, tmp_path: Path):
    first = command(tmp_path, *TINY, f"paths.results={tmp_path}/r")
    run = only_run(tmp_path / "r")
    before = {file: file.stat().st_mtime_ns for file in run.path.rglob("*") if file.is_file() and file != run.lock}
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    again = command(elsewhere, *TINY, "paths.results=../r")
    assert (again.code, again.err) == (0, "")
    assert again.out.splitlines()[:-1] == first.out.splitlines()[:-1]
    assert {file: file.stat().st_mtime_ns for file in before} == before
    assert list(elsewhere.iterdir()) == []


def test_the_same_configuration_twice_gives_the_same_checkpoint(command: Preloaded, tmp_path: Path):
    for name in ("a", "b"):
        assert command(tmp_path, *TINY, f"paths.results={name}", "solver=coordinate_descent").code == 0
    first, second = only_run(tmp_path / "a"), only_run(tmp_path / "b")
    assert first.path.name == second.path.name
    assert checkpoint_bytes(first) == checkpoint_bytes(second)
    hashes = {record(run)["provenance"]["checkpoint_hash"] for run in (first, second)}
    assert len(hashes) == 1


def test_a_sweep_makes_one_run_folder_a_job_and_nothing_else(command: Preloaded, tmp_path: Path):
    words = ("-m", *TINY, "objective=weight_align,output_align", "seed=0,1")
    done = command(tmp_path, *words)
    assert done.code == 0, done.err
    found = {
        (record(run)["provenance"]["seeds"]["seed"], run.path.name.split("-")[1]) for run in runs(tmp_path / "results")
    }
    assert found == {(seed, objective) for seed in (0, 1) for objective in ("weight_align", "output_align")}
    assert [entry.name for entry in tmp_path.iterdir()] == ["results"]
    again = command(tmp_path, *words)
    assert (again.code, again.err) == (0, "")
    assert again.out.count("run folder: ") == 4


def test_a_failing_job_does_not_stop_the_others(command: Preloaded, tmp_path: Path):
    done = command(tmp_path, "-m", *TINY, "objective.alpha=0.5,2,0")
    assert done.code == 2
    assert len(runs(tmp_path / "results")) == 2
    errors = [line for line in done.err.splitlines() if line.startswith("binllm: ")]
    assert len(errors) == 2
    assert "objective.alpha=2" in errors[0]
    assert errors[0].endswith("objective.alpha = 2.0: allowed is 0 <= alpha <= 1")
    assert errors[1] == "binllm: 1 of 3 runs failed"
    assert "Traceback" not in done.err
    assert "Error executing job" not in done.err


def test_a_sweep_with_a_misspelt_option_starts_nothing(command: Preloaded, tmp_path: Path):
    done = command(tmp_path, "-m", *TINY, "objective=weight_align,ouput_align")
    assert done.code == 2
    assert done.error.startswith("binllm: error: objective = ouput_align: ")
    assert done.error.endswith("did you mean 'output_align'?")
    assert list(tmp_path.iterdir()) == []


def test_an_experiment_is_a_sweep_by_itself(command: Preloaded, tmp_path: Path):
    done = command(tmp_path, *TINY, "experiment=objectives")
    assert done.code == 0, done.err
    assert len(runs(tmp_path / "results")) >= 5


def test_a_local_folder_and_a_local_text(command: Preloaded, tmp_path: Path, saved_model: Path):
    text = tmp_path / "my text.jsonl"
    text.write_text('{"text": "Once upon a time there was a bird."}\n' * 60)
    done = command(tmp_path, *TINY, f"model={saved_model}", f"dataset={text}", "dataset.length=32")
    assert done.code == 0, done.err
    run = only_run(tmp_path / "results")
    assert run.path.name.startswith("model-interpolated-")
    assert record(run)["results"]["quantized"]["definition"].startswith("wikitext2/test/")
    named = command(
        tmp_path, *TINY, f"model.path={saved_model}", "model.source=folder", "model.family=null",
        "dataset=text", f"dataset.path='{text}'", "dataset.length=32", "evaluation.corpus=text",
        f"evaluation.path='{text}'", "paths.results=b",
    )  # fmt: skip
    assert named.code == 0, named.err
    assert record(only_run(tmp_path / "b"))["results"]["quantized"]["definition"].startswith("text:my text.jsonl:")


def test_a_hub_id_replaces_the_default_model(command: Preloaded, tmp_path: Path):
    """No network here: the id must reach the hub's reader, and its refusal the user."""
    done = command(tmp_path, "model.id=nobody/nothing", "tracker=files", "model.local_files_only=true")
    assert done.code == 2
    assert done.error.startswith(
        "binllm: error: model.id = nobody/nothing: allowed is the id of a causal language model"
    )


def test_every_job_has_its_own_wandb_run(command: Preloaded, tmp_path: Path):
    done = command(tmp_path, "-m", *TINY, "tracker=wandb", "seed=0,1")
    assert done.code == 0, done.err
    for run in runs(tmp_path / "results"):
        assert len(list(run.wandb.rglob("*.wandb"))) == 1
        assert record(run)["tracker_error"] is None


def test_wandb_may_be_asked_for_when_the_run_is_done(command: Preloaded, tmp_path: Path):
    assert command(tmp_path, *TINY).code == 0
    assert not only_run(tmp_path / "results").wandb.exists()
    assert command(tmp_path, *TINY, "tracker=wandb").code == 0
    assert len(list(only_run(tmp_path / "results").wandb.rglob("*.wandb"))) == 1


def test_cfg_job_shows_the_configuration_and_does_nothing(command: Preloaded, tmp_path: Path):
    shown = command(tmp_path, "objective=proposed", "--cfg", "job", "--resolve")
    assert (shown.code, shown.err) == (0, "")
    config = yaml.safe_load(shown.out)
    assert (config["objective"]["name"], config["model"]["name"], config["seed"]) == ("proposed", "smollm2", 0)
    assert config["evaluation"]["corpus"] == "wikitext2"
    assert list(tmp_path.iterdir()) == []


def test_inspect_prints_a_finished_run(command: Preloaded, tmp_path: Path):
    command(tmp_path, *TINY)
    run = only_run(tmp_path / "results")
    shown = command(tmp_path, "inspect", f"results/{run.path.name}", program="binllm-tools")
    assert shown.code == 0, shown.err
    assert "21 layers" in shown.out
    assert record(run)["provenance"]["checkpoint_hash"] in shown.out


def test_the_installed_command_itself(tmp_path: Path):
    """Not through the preloaded process: the entry point as the shell starts it."""
    entry = Path(sys.executable).with_name("binllm")
    done = subprocess.run([entry, "objective=wieght_align"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("binllm: error: objective = wieght_align: allowed are ")
    assert done.stderr.endswith("; did you mean 'weight_align'?\n")
    assert list(tmp_path.iterdir()) == []
