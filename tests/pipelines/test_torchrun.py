"""A run that several processes share gives what one process gives, and files come from the first process alone.

The processes get the variables that torchrun sets; torchrun itself would import torch three times more.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from helpers_command import Finished, Preloaded
from units.test_distributed import free_port

from binllm.tracking.folder import RunPaths
from pipelines.runs import TINY, checkpoint_bytes, only_run, record

MEASURED = ("seconds", "peak_memory_bytes")
SHARED = (*TINY, "dataset.sequences=6", "calibration.batch=2")


def together(command: Preloaded, cwd: Path, *words: str, size: int = 2, die: int = 0) -> list[Finished]:
    """What every process of ``torchrun --nproc-per-node=SIZE`` does; the first may be killed in its DIE-th write."""
    common = {"WORLD_SIZE": str(size), "MASTER_ADDR": "localhost", "MASTER_PORT": str(free_port())}
    common["TORCHELASTIC_RUN_ID"] = "test"
    running = []
    for rank in range(size):
        hooks = {"environment": common | {"RANK": str(rank), "LOCAL_RANK": str(rank)}}
        running.append(command.start(cwd, *words, hooks=hooks | ({"die_in_write": die} if rank == 0 else {})))
    return [one.wait() for one in running]


def near(value: Any) -> Any:
    """What equals a number up to the rounding of sums in another order, and anything else if it is the same."""
    return pytest.approx(value, rel=1e-9, abs=1e-12) if isinstance(value, float) else value


def layers(run: RunPaths) -> list[dict]:
    rows = [json.loads(line) for line in run.layers.read_text().splitlines()]
    return [{key: value for key, value in row.items() if key not in MEASURED} for row in rows]


@pytest.mark.parametrize("method", [("solver=coordinate_descent", "objective=proposed"), ("model=tiny_opt",)])
def test_two_processes_give_the_checkpoint_of_one(command: Preloaded, tmp_path: Path, method: tuple[str, ...]) -> None:
    words = (*SHARED, *method, "diagnostics=standard", "diagnostics.sequences=2")
    alone = command(tmp_path, *words, "paths.results=alone")
    assert alone.code == 0, alone.err
    first, second = together(command, tmp_path, *words)
    assert (first.code, second.code) == (0, 0), first.err + second.err
    assert second.out == second.err == ""
    expected, found = only_run(tmp_path / "alone"), only_run(tmp_path / "results")
    assert checkpoint_bytes(found) == checkpoint_bytes(expected)
    assert record(found)["results"]["quantized"]["nll_mean"] == record(expected)["results"]["quantized"]["nll_mean"]
    assert record(found)["provenance"]["calibration_hash"] == record(expected)["provenance"]["calibration_hash"]
    for row, other in zip(layers(found), layers(expected), strict=True):
        assert row == {key: near(value) for key, value in other.items()}
    assert (found.path / "diagnostics.csv").read_bytes() == (expected.path / "diagnostics.csv").read_bytes()


def test_a_killed_run_goes_on_with_another_number_of_processes(command: Preloaded, tmp_path: Path) -> None:
    alone = command(tmp_path, *SHARED, "paths.results=alone", hooks={"writes": str(tmp_path / "writes")})
    assert alone.code == 0, alone.err
    expected = checkpoint_bytes(only_run(tmp_path / "alone"))
    writes = (tmp_path / "writes").read_text().splitlines()
    die = next(number for number, path in enumerate(writes, 1) if "streams_00001" in path)
    assert command(tmp_path, *SHARED, hooks={"die_in_write": die}).code < 0
    assert (only_run(tmp_path / "results").state / "state.json").exists()
    assert [one.code for one in together(command, tmp_path, *SHARED, size=3)] == [0, 0, 0]
    assert checkpoint_bytes(only_run(tmp_path / "results")) == expected
    assert [one.code for one in together(command, tmp_path, *SHARED)] == [0, 0]  # find the run done
    assert all(one.code != 0 for one in together(command, tmp_path, *SHARED, "paths.results=crashed", die=die))
    assert (only_run(tmp_path / "crashed").state / "state.json").exists()
    assert command(tmp_path, *SHARED, "paths.results=crashed").code == 0
    assert checkpoint_bytes(only_run(tmp_path / "crashed")) == expected


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("calibration.batch=4", "torchrun --nproc-per-node = 2: allowed is at most 1"),
        ("diagnostics=standard", "diagnostics.sequences = 4: allowed is at most 2 under torchrun"),
        ("diagnostics=full", "diagnostics.metrics = block_loss: allowed is other metrics under torchrun"),
        ("hydra.mode=MULTIRUN", "hydra.mode = MULTIRUN: allowed is RUN under torchrun"),
    ],
)
def test_what_processes_cannot_share_is_refused(command: Preloaded, tmp_path: Path, word: str, message: str) -> None:
    first, second = together(command, tmp_path, *TINY, "dataset.sequences=4", "calibration.batch=2", word)
    assert first.code == 2 and second.code != 0, first.err
    assert message in first.error
    assert not list(tmp_path.glob("results/*"))
