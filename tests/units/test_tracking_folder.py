"""Run folders: same configuration, same folder; one process at a time; errors that name folder and holder."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from enum import Enum
from pathlib import Path

import pytest

from binllm.errors import BinllmError
from binllm.tracking.folder import RunFolder, RunPaths
from binllm.tracking.naming import config_hash, run_name
from binllm.tracking.records import RunRecord, RunStatus

HOLD = """
import sys, time
from binllm.tracking.folder import RunFolder
folder = RunFolder.open(sys.argv[1], "run")
print("held", flush=True)
time.sleep(60)
"""


class Rule(Enum):
    agree = "agree"


def test_the_hash_ignores_key_order_and_what_changes_no_number():
    config = {
        "seed": 0,
        "solver": {"rule": Rule.agree, "k": 5},
        "paths": {"results": "a"},
        "tracker": {"wandb": 1},
    }
    same = {
        "paths": {"results": Path("b")},
        "solver": {"k": 5, "rule": Rule.agree},
        "seed": 0,
        "tracker": None,
    }
    assert config_hash(config) == config_hash(same)
    assert len(config_hash(config)) == 12


@pytest.mark.parametrize("other", [{"seed": 1}, {"seed": None}, {"seed": 0, "extra": None}, {"seed": "0"}])
def test_any_other_value_is_another_hash(other):
    assert config_hash({"seed": 0}) != config_hash(other)


def test_nested_keys_can_be_left_out_and_the_input_is_not_changed():
    config = {"evaluation": {"batch": 4, "window": 512}}
    digest = config_hash(config, ["evaluation.batch", "absent.key"])
    assert digest == config_hash({"evaluation": {"batch": 8, "window": 512}}, ["evaluation.batch"])
    assert config["evaluation"]["batch"] == 4


def test_names_are_safe_file_names():
    assert run_name("meta-llama/Llama-2-7b", "proposed", "abc") == "llama-2-7b-proposed-abc"
    assert run_name("/home/some one/My Model/", "../x", "abc") == "my-model-x-abc"


def test_status_goes_from_missing_over_partial_to_done(tmp_path):
    assert RunPaths(tmp_path / "run").status() == "missing"
    assert not (tmp_path / "run").exists()
    with RunFolder.open(tmp_path, "run", "seed: 0\n") as folder:
        assert folder.status() == "missing"
        folder.write_record(RunRecord(run_id="run"))
        assert folder.status() == "partial"
        folder.write_record(RunRecord(run_id="run", status=RunStatus.failed, error="boom"))
        assert folder.status() == "partial"
        folder.write_record(RunRecord(run_id="run", status=RunStatus.complete))
    assert RunPaths(tmp_path / "run").status() == "done"
    assert (tmp_path / "run" / "config.yaml").read_text() == "seed: 0\n"


def test_a_complete_run_keeps_the_configuration_it_was_made_with(tmp_path):
    with RunFolder.open(tmp_path, "run", "first") as folder:
        folder.write_record(RunRecord(run_id="run", status=RunStatus.complete))
    with RunFolder.open(tmp_path, "run", "second") as folder:
        assert folder.config.read_text() == "first"


def test_a_second_process_is_refused_and_a_killed_one_leaves_no_lock(tmp_path):
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(BinllmError) as caught:
            RunFolder.open(tmp_path, "run")
        assert str(tmp_path / "run") in str(caught.value)
        assert f"process {holder.pid} " in str(caught.value)
        assert str(holder.pid) in (RunPaths(tmp_path / "run").holder() or "")
    finally:
        os.kill(holder.pid, signal.SIGKILL)
        holder.communicate()
    assert RunPaths(tmp_path / "run").holder() is None
    RunFolder.open(tmp_path, "run").close()


def test_the_same_process_cannot_open_a_folder_twice_either(tmp_path):
    with RunFolder.open(tmp_path, "run"), pytest.raises(BinllmError, match=str(os.getpid())):
        RunFolder.open(tmp_path, "run")


def test_a_results_root_that_cannot_be_written_names_its_key(tmp_path):
    (tmp_path / "file").write_text("")
    for root in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/results")):
        with pytest.raises(BinllmError, match=r"paths\.results = .*can be written"):
            RunFolder.open(root, "run")


def test_a_folder_of_another_format_version_is_refused_and_unlocked(tmp_path):
    with RunFolder.open(tmp_path, "run") as folder:
        folder.write_record(RunRecord(run_id="run"))
    path = tmp_path / "run" / "run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "version": 7}))
    for _ in range(2):  # The second refusal gives the same reason, not "in use".
        with pytest.raises(BinllmError, match="version 7"):
            RunFolder.open(tmp_path, "run")


def test_a_truncated_run_json_is_one_clear_line(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text('{"version": 1, "run')
    with pytest.raises(BinllmError, match=r"run\.json is not valid JSON") as caught:
        RunFolder.open(tmp_path, "run")
    assert "\n" not in str(caught.value)


def test_opening_removes_what_killed_writers_left(tmp_path):
    (tmp_path / "run" / "checkpoint").mkdir(parents=True)
    (tmp_path / "run" / ".checkpoint.1.tmp").mkdir()
    (tmp_path / "run" / "checkpoint" / ".model.safetensors.1.tmp").write_text("half")
    (tmp_path / "run" / "checkpoint" / "model.safetensors").write_text("whole")
    RunFolder.open(tmp_path, "run").close()
    assert sorted(path.name for path in (tmp_path / "run").rglob("*")) == [
        ".lock",
        "checkpoint",
        "model.safetensors",
    ]
