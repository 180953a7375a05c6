"""Sweeps: planned, killed in the middle, and in processes of their own."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest
from helpers_command import Finished, Preloaded

from binllm import jobs
from binllm.errors import BinllmError
from binllm.tracking.folder import RunPaths
from pipelines.runs import TINY, checkpoint_bytes, record, runs

BROKEN = """
from dataclasses import dataclass
from binllm.objectives import WeightAlign
from binllm.registry import register


@register("objective", "broken")
@dataclass(frozen=True)
class Broken(WeightAlign):
    name: str = "broken"

    def quadratic(self, weight, statistics):
        raise RuntimeError("broken on purpose")
"""
SEEDS = ("-m", *TINY, "seed=0,1,2")


def plan(command: Preloaded, folder: Path, *words: str) -> Finished:
    return command(folder, "plan", *words, program="binllm-tools")


def states(planned: Finished) -> dict[str, str]:
    """State by name of the run folder."""
    assert planned.code == 0, planned.err
    return dict(re.findall(r"(tiny_llama-\S+) +([a-z]+)", planned.out))


@pytest.fixture(scope="module")
def undisturbed(command: Preloaded, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, bytes]]:
    """Checkpoints of the sweep over seeds, by name of the run folder."""
    folder = tmp_path_factory.mktemp("undisturbed")
    assert command(folder, *SEEDS).code == 0
    return {run.path.name: checkpoint_bytes(run) for run in runs(folder / "results")}


def test_a_plan_names_the_runs_that_the_command_then_makes(command: Preloaded, tmp_path: Path):
    words = ("-m", *TINY, "objective=weight_align,output_align", "seed=0,1")
    before = plan(command, tmp_path, *words)
    assert list(tmp_path.iterdir()) == [], "a plan leaves nothing"
    assert list(states(before).values()) == ["missing"] * 4
    assert "4 runs: 4 missing" in before.out
    assert before.out.count("estimated from shapes") == 4
    assert command(tmp_path, *words[:-1], "seed=0").code == 0
    assert {run.path.name for run in runs(tmp_path / "results")} < set(states(before))
    after = plan(command, tmp_path, *words)
    assert sorted(states(after).values()) == ["done", "done", "missing", "missing"]
    assert after.out.count("measured, 1 run") == 4, "runs that differ in the seed only cost the same"
    assert "left: 2 runs, " in after.out


def test_a_key_of_a_swept_option_goes_to_every_job_as_to_a_run_of_its_own(command: Preloaded, tmp_path: Path):
    """``most`` is no key of the binarization that a sweep starts from; of text values every character stays."""
    (tmp_path / "it's one.txt").write_text("Once upon a time, there was a cat. " * 40)
    words = (*TINY[:1], "binarization.most=40", "solver.ridge=0.1", "objective.roles=[all]", "dataset=./it's one.txt")
    done = command(tmp_path, "-m", *words, "method=billm,arb")
    assert done.code == 0, done.err
    names = {run.path.name for run in runs(tmp_path / "results")}
    single = [states(plan(command, tmp_path, *words, f"method={method}")) for method in ("billm", "arb")]
    assert names == {name for one in single for name in one}
    assert {state for one in single for state in one.values()} == {"done"}
    swept = plan(command, tmp_path, *words, "experiment=ablation/roles", "binarization.most=40", "method=arb")
    assert swept.code == 0, swept.err


def test_an_experiment_is_planned_as_the_sweep_that_it_is(command: Preloaded, tmp_path: Path):
    planned = plan(
        command, tmp_path, *TINY, "experiment=best_seeds", "hydra/launcher=joblib", "hydra.launcher.n_jobs=3"
    )
    assert len(states(planned)) == 3
    assert len(states(plan(command, tmp_path, *TINY))) == 1


def test_a_plan_says_which_jobs_are_not_allowed(command: Preloaded, tmp_path: Path):
    planned = plan(command, tmp_path, "-m", *TINY, "objective.alpha=0.5,2")
    assert planned.code == 2
    assert "2 runs: 1 missing, 1 refused" in planned.out
    assert "; 1 cannot be done, as said above" in planned.out
    assert "refused: objective.alpha=2: objective.alpha = 2.0: allowed is 0 <= alpha <= 1" in planned.out


def test_a_killed_sweep_does_what_is_missing_and_nothing_else(
    command: Preloaded, tmp_path: Path, undisturbed: dict[str, dict[str, bytes]]
):
    one = command(tmp_path, *TINY, "paths.results=one", hooks={"writes": str(tmp_path / "writes")})
    assert one.code == 0
    writes = len((tmp_path / "writes").read_text().splitlines())
    assert command(tmp_path, *SEEDS, hooks={"die_in_write": writes + writes // 2}).code == -signal.SIGKILL
    assert list(states(plan(command, tmp_path, *SEEDS)).values()) == ["done", "partial", "missing"]
    (finished,) = (run for run in runs(tmp_path / "results") if run.status() == "done")
    times = {file: file.stat().st_mtime_ns for file in finished.path.rglob("*") if file.name != ".lock"}
    assert command(tmp_path, *SEEDS, hooks={"layers": str(tmp_path / "again")}).code == 0
    assert {file: file.stat().st_mtime_ns for file in times} == times
    assert {run.path.name: checkpoint_bytes(run) for run in runs(tmp_path / "results")} == undisturbed
    again = (tmp_path / "again").read_text().splitlines()
    assert 3 * 7 < len(again) < 2 * 3 * 7, "the whole third run, and of the second one what was missing"


@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_jobs_in_other_processes_give_the_same_runs_and_one_exit_code(
    command: Preloaded, tmp_path: Path, launcher: str, undisturbed: dict[str, dict[str, bytes]]
):
    pytest.importorskip(f"hydra_plugins.hydra_{launcher.split('_')[0]}_launcher")
    plugin = tmp_path / "broken.py"
    plugin.write_text(BROKEN)
    words = ("-m", *TINY, f"plugins=[{plugin}]", "objective=broken,interpolated", f"hydra/launcher={launcher}")
    done = command(tmp_path, *words)
    assert done.code == 1, (done.out, done.err)
    assert len(runs(tmp_path / "results")) == 2, done.err
    broken, run = runs(tmp_path / "results")
    assert record(broken)["error"] == "RuntimeError: broken on purpose"
    assert run.path.name in undisturbed
    made, wanted = checkpoint_bytes(run), undisturbed[run.path.name]
    assert {name for name in made if made[name] != wanted[name]} <= {"README.md"}, "which names the command"
    assert f"{record(run)['results']['quantized']['perplexity']:,.2f}" in done.out
    assert f"run folder: {run.path}" in done.out
    told = [line for line in done.err.splitlines() if line.startswith("binllm: ")]
    assert len(told) == 2
    assert "objective=broken" in told[0] and told[0].endswith("stopped by the error above, a fault of the program")
    assert told[1] == "binllm: 1 of 2 runs failed"
    assert {entry.name for entry in tmp_path.iterdir()} <= {"results", "broken.py", "__pycache__"}


def test_every_process_of_a_sweep_has_a_gpu_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(jobs, "usable_gpus", lambda: ["0", "3"])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,3")
    seen = []
    for _ in range(2):
        monkeypatch.setattr(jobs, "_claimed", [])  # as in a process of its own; the earlier one's locks stay open
        jobs.claim_gpu(tmp_path)
        seen.append(jobs.os.environ["CUDA_VISIBLE_DEVICES"])
        jobs.claim_gpu(tmp_path)
        assert jobs.os.environ["CUDA_VISIBLE_DEVICES"] == seen[-1], "a process keeps its GPU for its next job"
    assert seen == ["0", "3"]
    monkeypatch.setattr(jobs, "_claimed", [])
    with pytest.raises(BinllmError, match=r"hydra\.launcher\.n_jobs: allowed is at most 2"):
        jobs.claim_gpu(tmp_path)


REFUSED = {
    ("-m", "objective.alhpa=0,1"): "did you mean 'objective.alpha'?",
    ("-m", "no_such_key=0,1"): "no_such_key: no such key",
    ("-m", "solver=coordinate_decent,gptq"): "did you mean 'coordinate_descent'?",
    ("-m", "seed=0,1", "hydra/launcher=jobblib"): "did you mean 'joblib'?",
    ("-m", "seed=0,1", "hydra/launcher=joblib", "hydra.launcher.n_job=2"): "did you mean 'hydra.launcher.n_jobs'?",
}


@pytest.mark.parametrize("words", REFUSED, ids=lambda words: words[-1])
def test_a_sweep_that_cannot_be_starts_nothing(command: Preloaded, tmp_path: Path, words: tuple[str, ...]):
    done = command(tmp_path, *TINY, *words)
    assert done.code == 2
    assert done.error.startswith("binllm: error: ")
    assert REFUSED[words] in done.error
    assert list(tmp_path.iterdir()) == []
    if "launcher" not in str(words):
        assert REFUSED[words] in plan(command, tmp_path, *TINY, *words).error.removeprefix("binllm-tools: error: ")


def test_a_plan_needs_a_folder_of_run_folders(command: Preloaded, tmp_path: Path):
    (tmp_path / "file").touch()
    RunPaths(tmp_path / "run").path.mkdir()
    (tmp_path / "run" / "run.json").write_text("{}")
    for place, what in (("file", "this is a file"), ("run", "this is a run folder")):
        done = plan(command, tmp_path, *TINY, f"paths.results={place}")
        assert done.code == 2
        assert done.error == (
            f"binllm-tools: error: paths.results = {tmp_path / place}: allowed is a folder of run folders"
            f"{', or one to be made' if place == 'file' else ''}; {what}"
        )
    wrong = plan(command, tmp_path, "--cfg", "job")
    assert wrong.error == "binllm-tools: error: OVERRIDES = --cfg: allowed is -m and overrides, as binllm takes them"
