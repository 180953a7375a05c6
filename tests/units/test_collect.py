"""Run folders to tables: whatever became of the runs, and no mean over what different code made."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pandas
import pytest
from helpers_runs import bits_record, perplexity, write_run

from binllm.collect import collect
from binllm.errors import BinllmError
from binllm.tools import main
from binllm.tracking.measurements import Origin, TextMeasurement, write_measurement
from binllm.tracking.records import RunStatus

TEST = "wikitext2/test/window=512/stride=512/windows=4/bos=none/gptq"


def make_run(results: Path, quantized: float, *, seed: int = 0, alpha: float = 0.0, **fields: Any) -> Path:
    """A run folder as a run leaves it."""
    config = {
        "method": "best",
        "seed": seed,
        "model": {"name": "smollm2"},
        "dataset": {"corpus": "c4_sample_a"},
        "evaluation": {"corpus": "wikitext2"},
        "objective": {"name": "output_align", "alpha": alpha},
        "paths": {"results": str(results)},
        "zero_shot": {"name": "none", "limit": seed},
    }
    return write_run(results, config, (perplexity(35.0, TEST), perplexity(quantized, TEST)), bits_record(2.5), **fields)


def add_windows(folder: Path, nll: list[float]) -> None:
    origin = Origin(
        model=folder.name, quantized=True, dtype="float32", kernel="dense", device="a CPU", threads=1,
        git_commit=None, git_dirty=None, versions={},
    )  # fmt: skip
    measured = TextMeasurement(
        origin=origin, definition=TEST, text_hash="00", perplexity=math.exp(sum(nll) / len(nll)), nll=sum(nll) / len(nll),
        window_nll=nll, window_tokens=[511] * len(nll), interval=None, resamples=1, seed=0, seconds=1.0,
    )  # fmt: skip
    write_measurement(folder / "evaluations", measured)


@pytest.fixture
def results(tmp_path: Path) -> Path:
    folder = tmp_path / "results"
    folder.mkdir()
    return folder


def tables(results: Path, out: str = "t.csv", **options: Any) -> tuple[pandas.DataFrame, pandas.DataFrame]:
    file = results.parent / out
    collect(results, file, **options)
    read = pandas.read_csv if file.suffix == ".csv" else pandas.read_parquet
    return read(file), read(file.with_name(f"{file.stem}_summary{file.suffix}"))


def of(summary: pandas.DataFrame, mean: float) -> pandas.Series:
    """The summary's perplexity row with a mean."""
    rows = summary[(summary["metric"] == "perplexity") & ((summary["mean"] - mean).abs() < 1e-9)]
    assert len(rows) == 1
    return rows.iloc[0]


def test_seeds_are_a_group_with_mean_spread_and_a_paired_test(results: Path):
    for seed, (first, second) in enumerate([(200.0, 210.0), (220.0, 232.0), (240.0, 254.0)]):
        make_run(results, first, seed=seed)
        make_run(results, second, seed=seed, alpha=0.5)
    table, summary = tables(results)
    assert len(table[table["metric"] == "perplexity"]) == 6
    assert set(table[table["metric"] == "perplexity"]["objective.alpha"]) == {0.0, 0.5}
    best, other = of(summary, 220.0), of(summary, 232.0)
    assert best["runs"] == other["runs"] == 3
    assert best["spread"] == pytest.approx(20.0)
    assert best["is_reference"] and not other["is_reference"]
    assert other["difference"] == pytest.approx(12.0)
    assert other["difference_se"] == pytest.approx(2.0 / 3**0.5)
    # Student's t = 12 / (2 / sqrt 3) = 10.392 with 2 degrees of freedom: p = 1 - t / sqrt(2 + t^2)
    t = 12 * 3**0.5 / 2
    assert other["p_value"] == pytest.approx(1 - t / (2 + t * t) ** 0.5)


def test_one_seed_is_compared_window_by_window(results: Path):
    first, second = make_run(results, 200.0), make_run(results, 210.0, alpha=0.5)
    add_windows(first, [5.0, 5.5, 4.0, 6.0])
    add_windows(second, [5.1, 5.7, 4.1, 6.2])
    row = of(tables(results)[1], 210.0)
    assert (row["windows"], row["windows_better"]) == (4, 0)
    assert row["nll_difference"] == pytest.approx(0.15)
    assert 0.0999 < row["nll_low"] < 0.15 < row["nll_high"] < 0.2001
    assert math.isnan(row["p_value"])


def test_the_reference_can_be_chosen(results: Path):
    make_run(results, 200.0)
    chosen = make_run(results, 210.0, alpha=0.5)
    row = of(tables(results, reference=chosen.name)[1], 200.0)
    assert row["difference"] == pytest.approx(-10.0) and not row["is_reference"]


def test_runs_of_another_protocol_are_not_compared(results: Path):
    make_run(results, 200.0)
    other = make_run(results, 300.0)
    file = other / "config.yaml"
    file.write_text(file.read_text().replace("c4_sample_a", "wikitext2"))
    summary = tables(results)[1]
    assert of(summary, 200.0)["is_reference"] and of(summary, 300.0)["is_reference"]


def test_unfinished_failed_and_old_runs_are_named_and_stop_nothing(results: Path, capsys: pytest.CaptureFixture[str]):
    make_run(results, 200.0)
    failed = make_run(results, 900.0, seed=1, status=RunStatus.failed, error="ValueError: no")
    half = make_run(results, 900.0, seed=2, status=RunStatus.running)
    old = make_run(results, 900.0, seed=3)
    record = json.loads((old / "run.json").read_text())
    (old / "run.json").write_text(json.dumps(record | {"version": 0}))
    cut = make_run(results, 900.0, seed=4)
    (cut / "run.json").write_text("{")
    table, summary = tables(results)
    status = table.drop_duplicates("run_id").set_index("run_id")["status"]
    assert [status[one.name] for one in (failed, half, old, cut)] == [
        "failed",
        "interrupted",
        "unreadable",
        "unreadable",
    ]
    assert of(summary, 200.0)["runs"] == 1
    told = capsys.readouterr().err
    assert f"failed: {failed}: ValueError: no" in told
    assert f"interrupted: {half}: the same command resumes it" in told
    assert "format version 0, this binllm reads version 1" in told
    assert told.count("\n") == 4


def test_a_folder_of_an_older_version_is_one_clear_line(results: Path, capsys: pytest.CaptureFixture[str]):
    old = make_run(results, 200.0)
    record = json.loads((old / "run.json").read_text())
    (old / "run.json").write_text(json.dumps(record | {"version": 0}))
    with pytest.raises(SystemExit, match="2"):
        main(["collect", str(results), "--out", str(results.parent / "t.csv")])
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "none of 1 run folders can be read" in told and "format version 0" in told
    assert not (results.parent / "t.csv").exists()


def test_two_runs_of_one_id_by_different_code_are_marked_and_in_no_mean(results: Path):
    first = make_run(results, 200.0)
    (results / "elsewhere").mkdir()
    second = Path(shutil.copytree(first, results / "elsewhere" / first.name))
    make_run(results, 210.0, alpha=0.5)
    table, summary = tables(results)
    assert of(summary, 200.0)["runs"] == 1
    assert set(table[table["folder"] == str(second)]["note"]) == {"a copy of another folder"} or set(
        table[table["folder"] == str(first)]["note"]
    ) == {"a copy of another folder"}
    record = json.loads((second / "run.json").read_text())
    record["provenance"]["git_commit"] = "fedcba9876543210"
    (second / "run.json").write_text(json.dumps(record))
    table, summary = tables(results)
    notes = table[table["run_id"] == first.name]["note"]
    assert len(set(table[table["run_id"] == first.name]["folder"])) == 2
    assert set(notes) == {"one id, made by different code: 0123456789ab, fedcba987654"}
    assert not (summary["mean"] == 200.0).any()


def test_parquet_holds_what_csv_holds(results: Path):
    make_run(results, 200.0)
    make_run(results, 210.0, seed=1, alpha=0.5)
    for csv, parquet in zip(tables(results), tables(results, "t.parquet"), strict=True):
        assert list(csv) == list(parquet)
        assert len(csv) == len(parquet)
    assert parquet["mean"].tolist() == pytest.approx(csv["mean"].tolist())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "RESULTS = nowhere: allowed is an existing folder"),
        (["results", "--out", "t.txt"], "--out = t.txt: allowed is a file that ends in .parquet or .csv"),
        (["results", "--out", "no/t.csv"], "--out = no/t.csv: allowed is a file in an existing folder"),
        (["results", "--out", "t.csv"], "RESULTS = results: allowed is a folder with run folders"),
    ],
)
def test_mistakes_are_one_line(
    results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], message: str
):
    monkeypatch.chdir(results.parent)
    with pytest.raises(SystemExit, match="2"):
        main(["collect", *words])
    told = capsys.readouterr().err
    assert told.startswith(f"binllm-tools: error: {message}") and told.count("\n") == 1


def test_an_unknown_reference_is_refused_with_the_nearest_id(results: Path):
    run = make_run(results, 200.0)
    with pytest.raises(BinllmError, match=f"--reference = run-00: allowed are {run.name}; did you mean"):
        collect(results, results.parent / "t.csv", "run-00")
