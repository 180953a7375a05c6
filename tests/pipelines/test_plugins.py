"""A user's own objective, from a file outside the package."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers_command import Preloaded

from pipelines.runs import TINY, checkpoint_bytes, only_run, record, runs

OBJECTIVE = '''
from __future__ import annotations

from dataclasses import dataclass, field

from binllm.objectives import family
from binllm.objectives.base import check_interval
from binllm.registry import register
from binllm.statistics import TokenWeights


@register("objective", "my_objective")
@dataclass(frozen=True)
class MyObjective:
    """Between output and weight alignment."""

    name: str = "my_objective"
    roles: list[str] = field(default_factory=lambda: ["all"])
    token_weights: TokenWeights = TokenWeights.uniform
    share: float = 0.5
    aligns_outputs = True

    def __post_init__(self):
        check_interval("objective.share", self.share, 0.0, 1.0)

    def quadratic(self, weight, statistics):
        return family.shrink(family.output_error(weight, statistics, 0.0), weight, self.share)

    def amp(self, weight, statistics):
        return None
'''


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    file = tmp_path / "my objective.py"
    file.write_text(OBJECTIVE)
    return file


def test_it_runs_like_one_of_the_package(command: Preloaded, tmp_path: Path, plugin: Path):
    words = (f"plugins=['{plugin.name}']", "objective=my_objective", "objective.share=0.25")
    done = command(tmp_path, *TINY, *words)
    assert done.code == 0, done.err
    run = only_run(tmp_path / "results")
    assert record(run)["status"] == "complete"
    assert {layer.objective for layer in run.read_layers()} == {"my_objective"}
    same = command(tmp_path, *TINY, "objective=output_align", "objective.shrinkage=0.25", "paths.results=own")
    assert same.code == 0, same.err
    mine, own = checkpoint_bytes(run), checkpoint_bytes(only_run(tmp_path / "own"))
    assert mine["model.safetensors"] == own["model.safetensors"], "its options reach it, and its quadratic the solver"


def test_it_sweeps_beside_those_of_the_package(command: Preloaded, tmp_path: Path, plugin: Path):
    done = command(tmp_path, "-m", *TINY, f"plugins=['{plugin}']", "objective=my_objective,weight_align")
    assert done.code == 0, done.err
    assert [run.path.name.split("-")[1] for run in runs(tmp_path / "results")] == ["my_objective", "weight_align"]


def test_a_changed_file_is_another_run(command: Preloaded, tmp_path: Path, plugin: Path):
    words = (*TINY, f"plugins=['{plugin}']", "objective=my_objective")
    assert command(tmp_path, *words).code == 0
    plugin.write_text(OBJECTIVE.replace("statistics, 0.0)", "statistics, 0.5)"))
    assert command(tmp_path, *words).code == 0
    assert len(runs(tmp_path / "results")) == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["objective=my_objctive"], "did you mean 'my_objective'?"),
        (["objective=my_objective", "objective.shar=1"], "did you mean 'objective.share'?"),
        (["objective=my_objective", "objective.share=much"], "objective.share = much: allowed is a number"),
        (["objective=my_objective", "objective.share=2"], "objective.share = 2.0: allowed is 0 <= share <= 1"),
    ],
)
def test_its_options_are_checked(command: Preloaded, tmp_path: Path, plugin: Path, words: list[str], message: str):
    done = command(tmp_path, *TINY, f"plugins=['{plugin}']", *words)
    assert (done.code, done.out) == (2, "")
    assert message in done.error


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import no_such_module", "the file does not import (ModuleNotFoundError: No module named 'no_such_module')"),
        ("def f(:", "the file does not import (SyntaxError: "),
        (
            OBJECTIVE.replace('"my_objective")', '"weight_align")'),
            "objective=weight_align is registered twice: WeightAlign, MyObjective",
        ),
    ],
)
def test_a_file_that_does_not_import_is_one_line(
    command: Preloaded, tmp_path: Path, plugin: Path, text: str, message: str
):
    plugin.write_text(text)
    done = command(tmp_path, *TINY, f"plugins=['{plugin}']")
    assert (done.code, done.out) == (2, "")
    assert message in done.error
