"""What a run says while it runs and when it ends; memory peaks that belong to their phase."""

from __future__ import annotations

import io
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from binllm.errors import BinllmError
from binllm.tracking import memory, provenance
from binllm.tracking.folder import RunFolder, RunPaths
from binllm.tracking.inspect import print_run, render_run
from binllm.tracking.progress import RunProgress
from binllm.tracking.records import ResultsRecord, RunRecord, RunStatus
from binllm.tracking.state import write_layers
from binllm.tracking.tables import print_results
from tests.units.test_tracking_records import layer_record, run_record

MIB = 2**20


def run_blocks(progress: RunProgress) -> None:
    with progress:
        with progress.phase("load"):
            pass
        with progress.phase("quantize", total=3, done=1):
            for block in (1, 2):
                progress.layer(block, "down_proj")
                progress.block_done(block)
        with progress.phase("evaluate"):
            progress.step(1, 2)


def test_a_log_gets_one_line_a_block():
    output = io.StringIO()
    run_blocks(RunProgress(3, console=Console(file=output)))
    lines = [line for line in output.getvalue().splitlines() if "block" in line]
    assert len(lines) == 2
    for number, line in zip((2, 3), lines, strict=True):
        assert re.match(rf"quantize block {number}/3, .* ETA \d\d:\d\d, memory .*peak", line)


def test_a_terminal_gets_block_layer_time_left_and_memory_on_one_line():
    output = io.StringIO()
    progress = RunProgress(3, console=Console(file=output, force_terminal=True, width=160))
    with progress, progress.phase("quantize", total=3):
        progress.block_done(0)
        progress.layer(1, "down_proj")
        progress._bar.refresh()
    # Cut at the control sequences; what was drawn last holds everything.
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", output.getvalue())
    drawn = [line for line in re.split(r"[\r\n]", text) if "down_proj" in line]
    assert drawn
    assert all(word in drawn[-1] for word in ("quantize", "block 2/3", "ETA 00:0", "memory", "peak"))


def test_a_quiet_run_says_nothing_and_measures_the_same():
    output = io.StringIO()
    progress = RunProgress(3, console=Console(file=output, quiet=True))
    run_blocks(progress)
    assert output.getvalue() == ""
    assert set(progress.seconds) == set(progress.peaks) == {"load", "quantize", "evaluate"}


def test_a_phase_is_measured_when_it_fails():
    progress = RunProgress(quiet=True)
    with pytest.raises(RuntimeError), progress, progress.phase("load"):
        raise RuntimeError
    assert progress.peaks["load"] > 0


def test_a_nested_peak_is_its_own_and_counts_for_the_outer_one():
    with memory.measure_peak() as outer:
        with memory.measure_peak() as small:
            pass
        with memory.measure_peak() as large:
            block = np.ones(64 * MIB // 8)
            del block
        with memory.measure_peak() as after:
            pass
    assert large.bytes >= small.bytes + 50 * MIB
    assert outer.bytes >= large.bytes
    assert memory.process_peak() >= outer.bytes
    if after.exact:
        assert after.bytes <= large.bytes - 50 * MIB


def test_without_the_right_to_reset_a_peak_is_marked_as_a_bound(monkeypatch):
    monkeypatch.setattr(memory, "CLEAR_REFS", Path("/proc/version"))
    with memory.measure_peak() as peak:
        pass
    assert not peak.exact
    assert peak.bytes >= memory.current_rss() // 2


def finished(root: Path) -> RunFolder:
    folder = RunFolder.open(root, "run")
    folder.write_record(run_record(run_id="run"))
    write_layers(folder.layers, [layer_record(0), layer_record(1, status="[stalled]")])
    return folder


def test_the_final_table_has_every_measurement_and_then_the_path(tmp_path):
    output = io.StringIO()
    deep = tmp_path / ("long-folder-name-" * 8)
    with finished(deep) as folder:
        print_results(folder, Console(file=output))
    lines = output.getvalue().splitlines()
    full = next(line for line in lines if "full precision" in line)
    quantized = next(line for line in lines if line.strip().startswith("quantized"))
    assert all(word in full for word in ("35.88", "00:03", "1.00 GiB"))
    assert all(word in quantized for word in ("190.00", "1.100", "2.800", "01:40", "2.00 GiB"))
    assert "wikitext2/test/window=512 (20 windows, 10220 tokens)" in output.getvalue()
    assert lines[-1] == f"run folder: {deep / 'run'}"


def test_inspect_shows_results_layers_and_provenance(tmp_path):
    finished(tmp_path).close()
    output = io.StringIO()
    print_run(tmp_path / "run", Console(file=output))
    text = output.getvalue()
    assert "run: complete" in text
    assert text.count("mlp.down_proj") == 2
    assert all(word in text for word in ("190.00", "[stalled]", "7/3", "2.344", "a" * 40, "b" * 64, "torch 2.13.0"))


def test_inspect_tells_running_interrupted_and_failed_apart(tmp_path):
    def shown() -> str:
        output = io.StringIO()
        print_run(tmp_path / "run", Console(file=output))
        return output.getvalue()

    with RunFolder.open(tmp_path, "run") as folder:
        folder.write_record(RunRecord(run_id="run", results=ResultsRecord()))
        assert "running, process" in shown()
    assert "interrupted" in shown()
    with RunFolder.open(tmp_path, "run") as folder:
        folder.write_record(RunRecord(run_id="run", status=RunStatus.failed, error="objective.alpha = 2"))
    assert ": failed" in shown()
    assert "error: objective.alpha = 2" in shown()


def test_inspect_refuses_what_is_no_run_folder(tmp_path):
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(BinllmError, match="RUN = "):
            render_run(path)


def test_inspect_names_the_damaged_line(tmp_path):
    finished(tmp_path).close()
    layers = RunPaths(tmp_path / "run").layers
    layers.write_text(layers.read_text()[:-20])
    with pytest.raises(BinllmError, match="line 2"):
        render_run(tmp_path / "run")


def test_provenance_can_be_recorded_and_names_the_machine():
    record = provenance.collect(device="cpu", seeds={"calibration": 0}, calibration_hash="c")
    assert type(record).from_json(record.to_json()) == record
    assert record.versions["torch"].startswith("2.")
    assert record.device == record.cpu != ""


def test_git_state_is_the_checkouts_own_and_sees_new_files(tmp_path):
    def git(*arguments):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", "-C", str(tmp_path), *identity, *arguments], check=True, capture_output=True)

    package = tmp_path / "binllm"
    wheel = tmp_path / "env" / "binllm"
    for folder in (package, wheel):
        folder.mkdir(parents=True)
        (folder / "a.py").write_text("1")
    assert provenance.git_state(package) == (None, None)
    git("init")
    assert provenance.git_state(package) == (None, None)  # No commit yet.
    git("add", "binllm")
    git("commit", "-m", "x")
    commit, dirty = provenance.git_state(package)
    assert commit is not None
    assert len(commit) == 40
    assert dirty is False
    assert provenance.git_state(wheel) == (None, None)
    (package / "new.py").write_text("2")
    assert provenance.git_state(package) == (commit, True)


def test_a_checkpoints_hash_depends_on_names_and_contents_only(tmp_path):
    def checkpoint(name: str, **files: str) -> str:
        folder = tmp_path / name
        folder.mkdir()
        for file, text in files.items():
            (folder / file.replace("_", ".")).write_text(text)
        return provenance.hash_folder(folder)

    first = checkpoint("1", config_json="{}", a_safetensors="x", b_safetensors="y")
    assert first == checkpoint("2", b_safetensors="y", a_safetensors="x", config_json="{}", README_md="hello")
    assert first != checkpoint("3", config_json="{}", a_safetensors="y", b_safetensors="x")
    assert first != checkpoint("4", config_json="{ }", a_safetensors="x", b_safetensors="y")
    assert first != checkpoint("5", config_json="{}", a_safetensors="xy", b_safetensors="")
