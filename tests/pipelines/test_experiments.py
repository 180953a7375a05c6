"""Every experiment of the paper's tables and ablations runs: each setting of its sweep, on a tiny random model."""

from __future__ import annotations

from pathlib import Path

import pytest

from binllm.configuration import compose_run
from binllm.pipeline import run
from binllm.tables.claims import Claim, claims
from binllm.tables.sweeps import sweep
from binllm.tracking.records import RunStatus

CLAIMS = {claim.experiment: claim for claim in claims()}
TINY = ("debug=tiny", "dataset.length=16", "evaluation.window=16", "calibration.batch=64", "kernel=dense")
MODELS = {"phi3": "tiny_phi3", "ablation/roles_fused": "tiny_phi3", "table1": "tiny_opt"}


def overrides(claim: Claim, value: str) -> list[str]:
    """One job of a sweep on a tiny model."""
    narrow = ["binarization.most=40"] if value.startswith(("billm", "arb")) else []
    corpus = [] if claim.varies == "dataset" else ["dataset=tinystories"]
    model = MODELS.get(claim.experiment, "tiny_llama")
    chosen = [f"{claim.varies}={value}"]
    return [f"experiment={claim.experiment}", *TINY, f"model={model}", *corpus, *chosen, *narrow]


JOBS = [(claim.experiment, value) for claim in CLAIMS.values() for value in sweep(claim)]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all jobs, so that a run which two experiments share is done once."""
    return tmp_path_factory.mktemp("results")


@pytest.mark.parametrize(("experiment", "value"), JOBS)
def test_a_setting_of_an_experiment_runs(experiment: str, value: str, results: Path):
    folder = run(compose_run([*overrides(CLAIMS[experiment], value), f"paths.results={results}"]))
    record = folder.read_record()
    assert record is not None and record.status is RunStatus.complete
