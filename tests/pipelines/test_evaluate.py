"""``binllm-tools evaluate`` and ``compare`` on real runs and models."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from helpers_command import Preloaded
from helpers_tasks import write_rows

from binllm.tracking.folder import RunPaths
from binllm.tracking.measurements import TaskMeasurement, TextMeasurement, read_measurements
from pipelines.runs import TINY, only_run, record

TEXT = ("--texts", "tinystories")
WINDOWS = ("--settings", "dataset=tinystories", "evaluation.windows=3", "evaluation.window=64", "threads=1")


def texts(folder: Path) -> list[TextMeasurement]:
    return [one for one in read_measurements(folder) if isinstance(one, TextMeasurement)]


def test_a_run_keeps_its_windows(command: Preloaded, tmp_path: Path):
    assert command(tmp_path, *TINY).code == 0
    run = only_run(tmp_path / "results")
    found = {one.origin.quantized: one for one in texts(run.evaluations)}
    for kind, name in ((False, "full_precision"), (True, "quantized")):
        told, one = record(run)["results"][name], found[kind]
        assert one.definition == told["definition"] and one.perplexity == told["perplexity"]
        assert len(one.window_nll) == told["windows"]
        assert sum(one.window_tokens) == told["tokens"]
        assert math.exp(sum(one.window_nll) / len(one.window_nll)) == pytest.approx(one.perplexity)
        assert one.interval is not None and one.interval.low <= one.perplexity <= one.interval.high
    assert found[True].origin.model == record(run)["provenance"]["checkpoint_hash"]


def test_the_checkpoint_is_measured_again_as_the_run_measured_it(command: Preloaded, tmp_path: Path):
    command(tmp_path, *TINY)
    run = only_run(tmp_path / "results")
    windows = ("--settings", "dataset=tinystories", "evaluation.windows=2", "evaluation.window=64", "threads=1")
    done = command(tmp_path, "evaluate", str(run.path), *TEXT, *windows, "--out", "records", program="binllm-tools")
    assert done.code == 0, done.err
    (again,) = texts(tmp_path / "records")
    (first,) = (one for one in texts(run.evaluations) if one.origin.quantized)
    assert again.window_nll == first.window_nll and again.name == first.name
    assert f"{first.perplexity:,.2f}" in done.out


def test_other_texts_and_types_go_beside_the_run_and_are_found_again(command: Preloaded, tmp_path: Path):
    command(tmp_path, *TINY)
    run = only_run(tmp_path / "results")
    (tmp_path / "own.txt").write_text("Once upon a time there was a stone. " * 60)
    words = ("evaluate", str(run.path), "--texts", "tinystories", "own.txt", "--dtype", "bfloat16", *WINDOWS)
    done = command(tmp_path, *words, program="binllm-tools")
    assert done.code == 0, done.err
    added = [one for one in texts(run.evaluations) if one.origin.dtype == "bfloat16"]
    assert sorted(one.definition.split("/")[0].split(":")[1:2] for one in added) == [[], ["own.txt"]]
    before = {file: file.stat().st_mtime_ns for file in run.evaluations.iterdir()}
    assert command(tmp_path, *words, program="binllm-tools").out == done.out
    assert {file: file.stat().st_mtime_ns for file in run.evaluations.iterdir()} == before


def test_a_full_precision_model_and_a_run_are_compared_on_the_same_windows(command: Preloaded, tmp_path: Path):
    command(tmp_path, *TINY, "evaluation.windows=3")
    run = only_run(tmp_path / "results")
    done = command(tmp_path, "evaluate", "tiny_llama", *TEXT, *WINDOWS, program="binllm-tools")
    assert done.code == 0, done.err
    folder = tmp_path / "results" / "tiny_llama-full_precision"
    shown = command(tmp_path, "compare", str(folder), str(run.path), program="binllm-tools")
    assert shown.code == 0, shown.err
    values = [record(run)["results"][name]["perplexity"] for name in ("full_precision", "quantized")]
    assert f"{values[0]:,.2f}" in shown.out and f"{values[1]:,.2f}" in shown.out
    assert f"{values[1] - values[0]:+,.2f}" in shown.out
    assert "of 3" in shown.out


def test_a_run_measures_its_tasks_even_when_it_is_done_already(command: Preloaded, tmp_path: Path):
    for task in ("arc_easy", "winogrande"):
        write_rows(tmp_path, task)
    assert command(tmp_path, *TINY).code == 0
    words = (*TINY, "zero_shot.tasks=[arc_easy,winogrande]", f"zero_shot.data={tmp_path}")
    done = command(tmp_path, *words)
    assert done.code == 0, done.err
    run = only_run(tmp_path / "results")
    found = [one for one in read_measurements(run.evaluations) if isinstance(one, TaskMeasurement)]
    assert [one.task for one in found] == ["arc_easy", "winogrande"]
    assert "not above chance" in done.out


def test_mistakes_are_one_line_and_leave_nothing(command: Preloaded, tmp_path: Path):
    (tmp_path / "short.jsonl").write_text(json.dumps({"text": "a"}) + "\n" + json.dumps({"txt": "b"}) + "\n")
    for words, message in (
        (("tiny_lama",), "PLACE = tiny_lama: allowed are"),
        (("tiny_llama", "--texts", "wikitxt2"), "--texts = wikitxt2: allowed are"),
        (("tiny_llama", "--texts", "wikitext2/tset"), "--texts = wikitext2/tset: allowed are"),
        (("tiny_llama", "--texts", "short.jsonl"), "evaluation.field = text: allowed is a field with text"),
        (("tiny_llama", "--dtype", "float8"), "--dtype = float8: allowed are"),
        (("tiny_llama", "--settings", "zero_shot.tasks=[arc]"), "zero_shot.tasks = arc: allowed are"),
        (("tiny_llama", "--settings", "zero_shot=al"), "zero_shot = al: allowed are"),
    ):
        done = command(tmp_path, "evaluate", *words, program="binllm-tools")
        assert done.code == 2 and done.out == ""
        assert done.err.splitlines()[-1].startswith(f"binllm-tools: error: {message}"), done.err
    assert [entry.name for entry in tmp_path.iterdir()] == ["short.jsonl"]


def test_a_run_of_an_older_binllm_is_compared_only_after_evaluate(command: Preloaded, tmp_path: Path):
    command(tmp_path, *TINY)
    run = only_run(tmp_path / "results")
    for file in RunPaths(run.path).evaluations.iterdir():
        file.unlink()
    done = command(tmp_path, "compare", str(run.path), str(run.path), program="binllm-tools")
    assert done.code == 2
    assert done.err == (
        f"binllm-tools: error: {run.path}: has no measurements (an older binllm kept no windows); "
        f"binllm-tools evaluate {run.path} makes them\n"
    )
