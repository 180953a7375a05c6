"""The experiment on published methods: what it sweeps, and its table, made of run folders alone."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers_runs import bits_record, perplexity, write_run
from hydra.core.hydra_config import HydraConfig
from hydra.plugins.sweeper import Sweeper
from omegaconf import DictConfig, OmegaConf

from binllm.configuration import compose_run
from binllm.launching import parsed
from binllm.schema import build
from binllm.tracking.records import RunStatus
from binllm.yaml_folder import CONF
from experiments.baselines.methods import ASYMMETRIC, METHODS
from experiments.baselines.sweep import EXPERIMENTS, combinations
from experiments.baselines.table import MARKERS, main

TEST = "wikitext2/test/window=512/stride=512/windows=20/bos=none/gptq"
Make = Callable[..., Path]


@cache
def composed(*overrides: str) -> DictConfig:
    return compose_run(["experiment=baselines", *overrides])


@pytest.fixture
def results(tmp_path: Path) -> Path:
    folder = tmp_path / "results"
    folder.mkdir()
    return folder


@pytest.fixture
def make(results: Path) -> Make:
    def make_run(quantized: float, *overrides: str, seed: int = 0, changed: Any = None, **more: Any) -> Path:
        """A run folder; ``changed`` are keys with other values than composed, ``more`` is of the record."""
        config = OmegaConf.merge(composed(*overrides), {"seed": seed})
        for key, value in (changed or {}).items():
            OmegaConf.update(config, key, value)
        full, bits = more.pop("full", 35.88), more.pop("bits", bits_record(2.5, nominal=1.006))
        return write_run(results, config, (perplexity(full, TEST), perplexity(quantized, TEST)), bits, **more)

    return make_run


@pytest.fixture
def table(results: Path, tmp_path: Path) -> Callable[..., str]:
    def write(*arguments: str) -> str:
        assert main([str(results), *arguments, "--out", str(tmp_path / "out")]) == 0
        return (tmp_path / "out" / "baselines.md").read_text(encoding="utf-8")

    return write


def lines(text: str) -> dict[tuple[str, str], list[str]]:
    """The cells of the table by method and asymmetric calibration."""
    rows = [line for line in text.splitlines() if line.startswith("| ") and not line.startswith("| ---")]
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    return {(row[0].strip("`"), row[3].split(",")[0].strip("`")): row for row in cells}


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_job_of_a_sweep_is_its_preset(experiment: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Through Hydra, with the run replaced by a look at what it was given."""
    jobs: list[tuple[str, str, int]] = []

    def look(config: DictConfig) -> None:
        run = build(config)
        jobs.append((run.method, run.asymmetric.name, run.seed))
        choices = HydraConfig.get().runtime.choices
        preset = yaml.safe_load((CONF / "method" / f"{run.method}.yaml").read_text(encoding="utf-8"))
        for default in preset["defaults"]:
            ((group, option),) = default.items()
            assert choices[group.removeprefix("override /")] == option, run.method
        assert (run.threads, run.model.name, run.evaluation.split) == (1, "smollm2", "test")

    monkeypatch.setattr(Sweeper, "validate_batch_is_legal", lambda *_: None)  # would compose each job once more
    monkeypatch.chdir(tmp_path)
    with parsed([f"experiment={experiment}"]) as said:
        said.launch(look)
    assert len(jobs) == len(set(jobs))
    expected = [(one.method, one.asymmetric, one.seed) for one in combinations() if one.experiment == experiment]
    assert jobs == expected


def test_what_is_swept_is_known_to_the_table() -> None:
    assert {one.method for one in combinations()} <= set(METHODS) == {file.stem for file in (CONF / "method").iterdir()}
    assert {one.asymmetric for one in combinations()} == {"none", *ASYMMETRIC}


@pytest.mark.parametrize("method", METHODS)
def test_papers_are_those_that_the_presets_name(method: str) -> None:
    text = (CONF / "method" / f"{method}.yaml").read_text(encoding="utf-8")
    named = re.findall(r"\b\d{4}\.\d{5}\b", text)
    assert set(named) <= {METHODS[method].arxiv}


def test_numbers_are_in_their_cells_below_full_precision_by_perplexity(make: Make, table: Callable[..., str]) -> None:
    make(1650.4, "method=billm", bits=bits_record(3.05, nominal=1.006), seconds={"quantize": 321.6})
    make(119.56, "method=best")
    make(512.3, "method=billm", "asymmetric=qep")
    text = table()
    rows = list(lines(text).values())
    assert [row[0] for row in rows[:5]] == ["method", "full precision", "`best`", "`billm`", "`billm`"]
    assert rows[1][5] == "35.88"
    paper = "BiLLM ([2402.04291](https://arxiv.org/abs/2402.04291))"
    # 57 MB besides, and 3.05 bits for each of 100 million weights
    assert rows[4] == ["`billm`", paper, "diagonal", "-", "0", "1,650", "1.006", "3.050", "95.1", "322"]
    assert rows[3][3:6] == ["`qep`, α = 0.5", "0", "512.30"]
    assert rows[2][1:3] == ["this project", "exact"]
    assert "**smollm2** in float32" in text
    assert TEST in text
    assert "calibration 16 x 512 tokens of `c4_sample_a/train`" in text
    assert "0123456789ab" in text


def test_seeds_are_one_row_with_mean_and_spread(make: Make, table: Callable[..., str]) -> None:
    for seed, value in enumerate((100.0, 110.0, 120.0)):
        make(value, "method=best", seed=seed, bits=bits_record(2.5 + 0.1 * seed))
    row = lines(table())["best", "-"]
    assert row[4:6] == ["0, 1, 2", "110.00 ± 10.00"]
    assert row[7] == "2.600"


def test_what_is_not_complete_is_said(make: Make, table: Callable[..., str]) -> None:
    make(100.0, "method=best")
    make(1.0, "method=rtn", status=RunStatus.failed, error="ValueError: a\nb | c" + "d" * 500)
    make(2.0, "method=xnor", status=RunStatus.running)
    text = table()
    rows = lines(text)
    assert len(rows) == 2 + len({(one.method, one.asymmetric) for one in combinations()})
    assert {name: rows[name, "-"][5] for name in ("rtn", "xnor", "billm")} == {
        "rtn": "failed",
        "xnor": "unfinished",
        "billm": "missing",
    }
    assert set(rows["billm", "qep"][4:]) == {"-", "missing"}
    assert "`rtn`, seed 0 (failed: ValueError: a b | cd" in text
    assert "d" * 200 not in text
    assert "`billm` with `qep`, seed 0 (missing)" in text
    assert "`best`, seed 1 (missing)" in text
    assert "`best`, seed 0" not in text


@pytest.mark.parametrize(
    "changed",
    [{"solver.ridge": 0.5}, {"dataset.sequences": 32}, {"evaluation.split": "valid"}, {"threads": 2}],
    ids=lambda changed: next(iter(changed)),
)
def test_a_run_with_another_setting_is_not_the_row(
    changed: dict[str, Any], make: Make, table: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    make(100.0, "method=best")
    folder = make(50.0, "method=rtn", changed=changed)
    assert lines(table())["rtn", "-"][5] == "missing"
    assert f"rtn, seed 0: no run; {folder} differs in {next(iter(changed))}\n" in capsys.readouterr().err


def test_paths_and_tracker_change_no_number(make: Make, table: Callable[..., str]) -> None:
    make(100.0, "method=best", changed={"paths.results": "elsewhere", "tracker.wandb": False})
    assert lines(table())["best", "-"][5] == "100.00"


def test_another_protocol_is_asked_for_as_from_binllm(make: Make, table: Callable[..., str]) -> None:
    make(100.0, "method=best")
    make(80.0, "method=best", "evaluation=full")
    assert lines(table())["best", "-"][5] == "100.00"
    assert lines(table("evaluation=full"))["best", "-"][5] == "80.00"


def test_the_file_for_programs_has_full_digits(make: Make, table: Callable[..., str], tmp_path: Path) -> None:
    make(100.25, "method=best")
    make(101.75, "method=best", seed=2)
    make(512.125, "method=billm", "asymmetric=qep")
    table()
    with (tmp_path / "out" / "baselines.csv").open(encoding="utf-8", newline="") as file:
        full, best, billm, *rest = csv.DictReader(file)
    assert (full["method"], full["perplexity mean"]) == ("full precision", "35.88")
    assert float(best["perplexity mean"]) == 101.0
    assert float(best["sample deviation"]) == pytest.approx(1.5 / 2**0.5)
    assert (best["seeds"], best["runs"], best["status"]) == ("0 2", "run-000 run-001", "without 1 seeds")
    assert (billm["asymmetric"], billm["asymmetric alpha"], billm["whole model, MB"]) == ("qep", "0.5", "88.25")
    assert {row["status"] for row in rest} == {"missing"}
    assert {row["perplexity mean"] for row in rest} == {""}


def test_the_readme_changes_between_the_markers_only(make: Make, table: Callable[..., str], tmp_path: Path) -> None:
    make(100.0, "method=best")
    begin, end = MARKERS
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{begin}\nold\n{end}\nafter\n", encoding="utf-8")
    text = table("--readme", str(readme))
    assert readme.read_text(encoding="utf-8") == f"before\n{begin}\n{text}{end}\nafter\n"


@pytest.mark.parametrize("text", ["no markers\n", f"{MARKERS[1]}\n{MARKERS[0]}\n", MARKERS[0] * 2 + MARKERS[1]])
def test_a_document_without_markers_is_one_error_and_left_alone(
    text: str, make: Make, results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(100.0, "method=best")
    readme, out = tmp_path / "README.md", tmp_path / "out"
    readme.write_text(text, encoding="utf-8")
    assert main([str(results), "--readme", str(readme), "--out", str(out)]) == 2
    assert readme.read_text(encoding="utf-8") == text
    assert not out.exists()
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "<!-- baselines --> and <!-- /baselines -->" in error


@pytest.mark.parametrize(
    ("second", "said"),
    [({}, "one configuration with one seed"), ({"overrides": ["method=rtn"], "full": 36.5}, "the model or the code")],
    ids=["twice the same", "full precision moved"],
)
def test_runs_that_contradict_each_other_are_refused(
    second: dict[str, Any], said: str, make: Make, results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(100.0, "method=best")
    make(110.0, *second.pop("overrides", ["method=best"]), **second)
    assert main([str(results)]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("override", "said"), [("seed=3", "do not sweep"), ("method=rtn", "do not sweep"), ("sede=3", "no such key")]
)
def test_overrides_of_what_is_swept_are_refused(
    override: str, said: str, make: Make, results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(100.0, "method=best")
    assert main([str(results), override]) == 2
    assert said in capsys.readouterr().err


def test_no_runs_are_an_error(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(results)]) == 2
    assert "complete run" in capsys.readouterr().err
