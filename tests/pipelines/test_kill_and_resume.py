"""A run that is killed at any point goes on from its last finished block, and ends with the same bytes."""

from __future__ import annotations

import json
import random
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from helpers_command import Preloaded, wait_for

from binllm.tracking.folder import RunPaths
from pipelines.runs import TINY, checkpoint_bytes, only_run

RUN = (
    "model=stories260k",
    "dataset=tinystories",
    "tracker=files",
    "dataset.sequences=4",
    "dataset.length=64",
    "evaluation.windows=2",
    "evaluation.window=64",
    "threads=1",
    "solver.iterations=1",
    "solver.passes=1",
)
BLOCKS, KILLS = 5, 20
MEASURED = ("seconds", "peak_memory_bytes")  # all that may differ between two runs of one configuration


@dataclass
class Reference:
    """An undisturbed run: its files, how long it took, how many durable writes it made."""

    checkpoint: dict[str, bytes]
    diagnostics: dict[str, bytes]
    layers: list[dict]
    seconds: float
    writes: int


def layer_lines(folder: RunPaths) -> list[dict]:
    rows = [json.loads(line) for line in folder.layers.read_text().splitlines()]
    return [{key: value for key, value in row.items() if key not in MEASURED} for row in rows]


def diagnostics(folder: RunPaths) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.path.glob("diagnostics.*")}


def arguments(results: Path) -> tuple[str, ...]:
    return (*RUN, f"paths.results={results}")


@pytest.fixture(scope="module")
def reference(command: Preloaded, tmp_path_factory: pytest.TempPathFactory) -> Reference:
    root = tmp_path_factory.mktemp("reference")
    begun = time.monotonic()
    done = command(root, *arguments(root / "results"), hooks={"writes": str(root / "writes")})
    seconds = time.monotonic() - begun
    assert done.code == 0, done.err
    folder = only_run(root / "results")
    writes = len((root / "writes").read_text().splitlines())
    return Reference(checkpoint_bytes(folder), diagnostics(folder), layer_lines(folder), seconds, writes)


def assert_resumes(command: Preloaded, root: Path, reference: Reference) -> None:
    """Run again after a kill, and compare everything that the run leaves with the undisturbed run."""
    before = (root / "layers").read_text().split("\n")[:-1] if (root / "layers").exists() else []
    done = command(root, *arguments(root / "results"), hooks={"layers": str(root / "layers_again")})
    assert done.code == 0, done.err
    after = (root / "layers_again").read_text().split("\n")[:-1] if (root / "layers_again").exists() else []
    folder = only_run(root / "results")
    assert checkpoint_bytes(folder) == reference.checkpoint
    assert diagnostics(folder) == reference.diagnostics
    assert layer_lines(folder) == reference.layers
    assert folder.status() == "done"
    assert {entry.name for entry in folder.path.iterdir()} == {
        ".lock", "config.yaml", "run.json", "layers.jsonl", "checkpoint", "diagnostics.parquet", "diagnostics.csv"
    }  # fmt: skip
    blocks_before, blocks_after = ({int(line.split()[0]) for line in lines} for lines in (before, after))
    assert len(blocks_before & blocks_after) <= 1, "more than the block in progress was done again"
    assert blocks_before | blocks_after == set(range(BLOCKS))


@pytest.mark.parametrize("kill", range(KILLS // 2))
def test_killed_at_a_random_time(command: Preloaded, tmp_path: Path, reference: Reference, kill: int):
    share = (kill + random.Random(kill).random()) / (KILLS // 2)  # spread over the run, random within each tenth
    running = command.start(tmp_path, *arguments(tmp_path / "results"), hooks={"layers": str(tmp_path / "layers")})
    time.sleep(share * reference.seconds)
    running.signal(signal.SIGKILL)
    assert running.wait().code in (-signal.SIGKILL, 0)
    assert_resumes(command, tmp_path, reference)


@pytest.mark.parametrize("kill", range(KILLS // 2))
def test_killed_during_a_random_write(command: Preloaded, tmp_path: Path, reference: Reference, kill: int):
    share = (kill + random.Random(100 + kill).random()) / (KILLS // 2)
    hooks = {"layers": str(tmp_path / "layers"), "die_in_write": 1 + int(share * reference.writes)}
    died = command(tmp_path, *arguments(tmp_path / "results"), hooks=hooks)
    assert died.code == -signal.SIGKILL, died.err
    assert_resumes(command, tmp_path, reference)


def test_biases_and_activations_on_disk_survive_too(command: Preloaded, tmp_path: Path):
    words = (*TINY, "model=tiny_opt", "calibration.correct_bias=true", "calibration.storage=disk")
    assert command(tmp_path, *words, "paths.results=undisturbed", hooks={"writes": str(tmp_path / "writes")}).code == 0
    half = len((tmp_path / "writes").read_text().splitlines()) // 2
    assert command(tmp_path, *words, hooks={"die_in_write": half}).code == -signal.SIGKILL
    assert (only_run(tmp_path / "results").state / "state.json").exists()
    assert command(tmp_path, *words).code == 0
    undisturbed, resumed = only_run(tmp_path / "undisturbed"), only_run(tmp_path / "results")
    assert checkpoint_bytes(resumed) == checkpoint_bytes(undisturbed)


def test_interrupted_by_the_user(command: Preloaded, tmp_path: Path, reference: Reference):
    hooks = {"layers": str(tmp_path / "layers"), "interrupt_in_write": reference.writes // 2}
    done = command(tmp_path, *arguments(tmp_path / "results"), hooks=hooks)
    assert done.code == 130
    folder = only_run(tmp_path / "results")
    assert (folder.state / "state.json").exists()
    assert done.err.splitlines()[-1] == "binllm: interrupted; the same command resumes after the last finished block"
    shown = command(tmp_path, "inspect", str(folder.path), program="binllm-tools")
    assert "interrupted; the same command resumes it" in shown.out
    assert_resumes(command, tmp_path, reference)


def test_the_first_run_is_not_disturbed_by_a_second_one(command: Preloaded, tmp_path: Path, reference: Reference):
    first = command.start(tmp_path, *arguments(tmp_path / "results"), hooks={"layers": str(tmp_path / "layers")})
    wait_for(tmp_path / "layers")
    second = command(tmp_path, *arguments(tmp_path / "results"))
    assert second.code == 2
    assert second.error.startswith(f"binllm: error: {only_run(tmp_path / 'results').path} is in use by process ")
    assert first.wait().code == 0
    assert checkpoint_bytes(only_run(tmp_path / "results")) == reference.checkpoint
