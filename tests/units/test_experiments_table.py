"""The table of objectives: made from run folders alone, and no row beside one of another protocol."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers_runs import bits_record, perplexity, write_run
from omegaconf import OmegaConf

from binllm.tracking.atomic import write_text
from binllm.tracking.records import RunStatus
from experiments.objectives.table import BEGIN, END, main

TEST = "wikitext2/test/window=512/stride=512/windows=20/bos=none/gptq"
VALID = "wikitext2/valid/window=512/stride=512/windows=20/bos=none/gptq"


def make_run(
    results: Path,
    quantized: float,
    *,
    definition: str = TEST,
    full: float = 35.88,
    status: RunStatus = RunStatus.complete,
    **settings: Any,
) -> Path:
    """A run folder as a run leaves it; ``settings`` have ``__`` for the dots of keys."""
    config = {
        "method": "best",
        "seed": 0,
        "model": {"name": "smollm2", "dtype": "float32"},
        "dataset": {"corpus": "c4_sample_a", "split": "train", "sequences": 16, "length": 512},
        "evaluation": {"corpus": "wikitext2", "split": definition.split("/")[1]},
        "objective": {"name": "output_align", "roles": ["all"], "alpha": 0.0, "shrinkage": 0.0, "amp_rule": "off"},
        "elsewhere": {"name": "weight_align", "roles": ["all"]},
        "binarization": {"name": "row_column"},
        "solver": {"name": "alternating", "iterations": 4},
        "calibration": {"granularity": "group"},
        "tracker": {"name": "files"},
        "paths": {"results": str(results)},
    }
    for key, value in settings.items():
        OmegaConf.update(node := OmegaConf.create(config), key.replace("__", "."), value)
        config = OmegaConf.to_container(node)  # type: ignore[assignment]
    measured = (perplexity(full, definition), perplexity(quantized, definition))
    return write_run(results, config, measured, bits_record(2.483, nominal=1.047), status=status)


@pytest.fixture
def results(tmp_path: Path) -> Path:
    folder = tmp_path / "results"
    folder.mkdir()
    return folder


def table(results: Path, *arguments: str) -> str:
    assert main([str(results), *arguments]) == 0
    return (results / "tables" / "objectives.md").read_text(encoding="utf-8")


def lines(text: str) -> list[list[str]]:
    """The cells of all table lines but rules."""
    rows = [line for line in text.splitlines() if line.startswith("| ") and not line.startswith("| ---")]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def test_a_run_is_a_row_with_its_numbers_below_full_precision(results: Path) -> None:
    make_run(results, 12345.6, objective__alpha=1.0, objective__roles=["last"], objective__amp_rule="agree")
    make_run(results, 206.04, objective__alpha=0.25, objective__shrinkage=0.1)
    text = table(results)
    headings, full, best, worst = lines(text)
    assert headings[:3] == ["run", "target", "α"]
    assert full[0] == "full precision"
    assert full[6] == "35.88"
    expected = ["between X̂Wᵀ and XWᵀ", "0.25", "0.1", "all", "off", "206.04", "1.047", "2.483", "150", "1.50 GiB"]
    assert best[1:] == expected
    assert worst[1:7] == ["XWᵀ", "1", "0", "last", "agree", "12,346"]
    assert TEST in text
    assert "make table" in text
    assert "0123456789ab" in text


def test_weight_alignment_has_no_alpha(results: Path) -> None:
    folder = make_run(results, 420.0)
    config = OmegaConf.load(folder / "config.yaml")
    config.objective = {"name": "weight_align", "roles": ["all"]}
    write_text(folder / "config.yaml", OmegaConf.to_yaml(config))
    assert lines(table(results))[-1][:6] == ["`weight_align`", "W", "-", "-", "all", "-"]


def test_seeds_of_one_configuration_are_one_row_with_mean_and_spread(results: Path) -> None:
    for seed, value in enumerate((200.0, 206.0, 212.0)):
        make_run(results, value, seed=seed)
    text = table(results)
    assert lines(text)[-1][6] == "206.00 ± 6.00"
    assert "seed 0, 1, 2" in text


def test_rows_with_more_seeds_are_compared_on_the_common_ones(results: Path) -> None:
    for seed, value in enumerate((200.0, 206.0, 212.0)):
        make_run(results, value, seed=seed)
    make_run(results, 420.0, objective__alpha=1.0)
    three, two = table(results).count("full precision"), lines(table(results))
    assert three == 2
    values = [row[6] for row in two if row[0] not in ("run", "full precision")]
    assert values == ["200.00", "420.00", "206.00 ± 6.00"]


@pytest.mark.parametrize(
    "other",
    [
        {"definition": VALID},
        {"dataset__sequences": 32},
        {"dataset__corpus": "wikitext2"},
        {"model__name": "stories260k", "full": 5.0},
    ],
    ids=["definition", "calibration size", "calibration text", "model"],
)
def test_other_protocols_get_their_own_table(results: Path, other: dict[str, Any]) -> None:
    make_run(results, 200.0)
    make_run(results, 300.0, objective__alpha=0.5, **other)
    rows = lines(table(results))
    assert [row[0] for row in rows] == ["run", "full precision", "`output_align`"] * 2


def test_a_run_under_the_name_of_a_preset_is_not_counted_twice(results: Path) -> None:
    make_run(results, 200.0)
    make_run(results, 200.0, method="paper")
    assert [row[6] for row in lines(table(results))] == ["perplexity", "35.88", "200.00"]


def test_settings_that_differ_between_rows_are_named(results: Path) -> None:
    make_run(results, 200.0)
    make_run(results, 300.0, solver__iterations=15)
    rows = lines(table(results))
    assert [row[-1] for row in rows] == ["other settings", "-", "`solver.iterations=4`", "`solver.iterations=15`"]


def test_unfinished_runs_are_left_out_and_named(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(results, 200.0)
    failed = make_run(results, 100.0, status=RunStatus.failed)
    assert len(lines(table(results))) == 3
    assert str(failed) in capsys.readouterr().err


def test_only_selects_by_configuration(results: Path) -> None:
    make_run(results, 200.0)
    make_run(results, 300.0, seed=1)
    assert [row[6] for row in lines(table(results, "--only", "seed=1"))][-1] == "300.00"


def test_the_readme_changes_between_the_markers_only(results: Path) -> None:
    make_run(results, 200.0)
    readme = results.parent / "README.md"
    readme.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n", encoding="utf-8")
    text = table(results, "--readme", str(readme))
    assert readme.read_text(encoding="utf-8") == f"before\n{BEGIN}\n{text}{END}\nafter\n"


@pytest.mark.parametrize(
    ("second", "said"),
    [
        ({}, "one configuration with one seed"),
        ({"full": 36.5, "objective__alpha": 0.5}, "the model or the code changed"),
    ],
    ids=["twice the same", "full precision moved"],
)
def test_runs_that_contradict_each_other_are_refused(
    results: Path, capsys: pytest.CaptureFixture[str], second: dict[str, Any], said: str
) -> None:
    make_run(results, 200.0)
    make_run(results, 210.0, **second)
    assert main([str(results)]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not (results / "tables").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--only", "sed=0"], "did you mean 'seed'"),
        (["--only", "seed"], "KEY=VALUE"),
        (["--only", "seed=7"], "complete runs"),
    ],
)
def test_mistakes_are_one_line(
    results: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    make_run(results, 200.0)
    assert main([str(results), *arguments]) == 2
    assert said in capsys.readouterr().err


def test_a_document_without_markers_is_left_alone(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(results, 200.0)
    readme = results.parent / "README.md"
    readme.write_text("no markers\n", encoding="utf-8")
    assert main([str(results), "--readme", str(readme)]) == 2
    assert readme.read_text(encoding="utf-8") == "no markers\n"
