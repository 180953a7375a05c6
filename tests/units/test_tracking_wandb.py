"""The W&B copy: everything is in it, one run a job, nothing leaves the run folder, failures stop no run."""

from __future__ import annotations

import logging
import os
import socket
import sys
import threading
from pathlib import Path

import pytest
from helpers_wandb import read_offline
from omegaconf import DictConfig, OmegaConf

from binllm.tracking.config import TrackerConfig, TrackerMode
from binllm.tracking.folder import RunFolder
from binllm.tracking.records import RunStatus
from binllm.tracking.state import write_layers
from binllm.tracking.wandb_exporter import export_run
from tests.units.test_tracking_records import layer_record, run_record

TRACKER = TrackerConfig(name="wandb", wandb=True, project="test-project", tags=["a"])
CONFIG = {"seed": 0, "solver": {"mode": TrackerMode.offline}, "paths": {"results": Path("results")}}
CONF = Path(__file__).resolve().parents[2] / "conf" / "tracker"


@pytest.fixture
def network():
    """Count connections to a listener that stands for every server W&B could be told to use."""
    server = socket.create_server(("127.0.0.1", 0))
    connections: list[object] = []

    def accept():
        while True:
            try:
                connections.append(server.accept())
            except OSError:
                return

    threading.Thread(target=accept, daemon=True).start()
    yield server.getsockname()[1], connections
    server.close()


def finished_run(root: Path, name: str, **changes) -> RunFolder:
    folder = RunFolder.open(root, name)
    folder.write_record(run_record(run_id=name, **changes))
    layers = [
        layer_record(block, layer=role, role=role, q_after=block + 0.5) for block in range(3) for role in ("o", "down")
    ]
    write_layers(folder.layers, layers)
    return folder


def test_every_series_and_summary_is_in_the_offline_run(tmp_path):
    with finished_run(tmp_path, "run-a") as folder:
        export_run(folder, TRACKER, CONFIG)
        run = read_offline(folder.wandb)
        layers = folder.read_layers()
        assert folder.read_record() == run_record(run_id="run-a")
    assert (run.run_id, run.project, run.exit_code) == ("run-a", "test-project", 0)
    assert run.config["solver"] == {"mode": "offline"}
    assert run.config["seed"] == 0
    for index, layer in enumerate(layers):
        row = next(row for row in run.history if row.get("layer/index") == index)
        for name, value in layer.to_json().items():
            if isinstance(value, (int, float)) and name != "version":
                assert row[f"layer/{name}"] == value
        assert row["layer/cosine"] == 0.9
        assert row[f"role/{layer.role}/q_after"] == layer.q_after
        assert row["block/index"] == layer.block
    blocks = [row for row in run.history if "block/seconds" in row]
    assert [row["block/index"] for row in blocks] == [0, 1, 2]
    assert [row["block/seconds"] for row in blocks] == [0.5] * 3
    assert blocks[0]["block/stored_bits_per_weight"] == 300 / 128
    by_block = ("block/*", "role/*", "diagnostics/*")
    assert run.axes == {"layer/*": "layer/index"} | dict.fromkeys(by_block, "block/index")
    assert run.summary["results.full_precision.perplexity"] == 35.88
    assert run.summary["results.quantized.perplexity"] == 190.0
    assert run.summary["bits.linear"] == 2.8
    assert run.summary["seconds.quantize"] == 100.0


def test_each_job_of_a_process_has_one_run_even_when_exported_again(tmp_path):
    for name in ("run-a", "run-b"):
        with finished_run(tmp_path, name) as folder:
            export_run(folder, TRACKER, CONFIG)
            export_run(folder, TRACKER, CONFIG)
            run = read_offline(folder.wandb)  # Refuses two.
            assert run.run_id == name
            assert len(run.history) == 6 + 3


def test_a_failed_run_is_marked_failed(tmp_path):
    with finished_run(tmp_path, "run", status=RunStatus.failed, error="NaN in a weight") as folder:
        export_run(folder, TRACKER, CONFIG)
        run = read_offline(folder.wandb)
    assert run.exit_code == 1
    assert run.summary["error"] == "NaN in a weight"


def test_offline_touches_neither_network_nor_home_nor_environment(tmp_path, monkeypatch, network, capfd):
    port, connections = network
    home = tmp_path / "home"
    home.mkdir()
    for name in ("WANDB_BASE_URL", "HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{port}")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.chdir(home)
    before = dict(os.environ)
    with finished_run(tmp_path / "results", "run") as folder:
        export_run(folder, TRACKER, CONFIG)
        assert folder.read_record() == run_record(run_id="run")
        assert read_offline(folder.wandb).run_id == "run"
    assert list(home.rglob("*")) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "results"]
    assert connections == []
    assert dict(os.environ) == before
    assert capfd.readouterr().out == ""


def test_a_failing_export_is_one_warning_and_a_line_in_the_record(tmp_path, monkeypatch, caplog):
    import wandb

    def fail(*_, **__):
        raise RuntimeError("no space")

    monkeypatch.setattr(wandb, "init", fail)
    with finished_run(tmp_path, "run") as folder, caplog.at_level(logging.WARNING):
        export_run(folder, TRACKER, CONFIG)
        record = folder.read_record()
    assert record is not None
    assert record.status is RunStatus.complete
    assert record.tracker_error == "RuntimeError: no space"
    assert len(caplog.records) == 1


def test_the_log_stays_free_of_the_librarys_own_messages(tmp_path, caplog):
    with finished_run(tmp_path, "run") as folder, caplog.at_level(logging.INFO):
        export_run(folder, TRACKER, CONFIG)
    assert caplog.records == []


def test_a_run_of_the_users_own_in_the_same_process_stays_open(tmp_path, monkeypatch):
    import wandb

    for name in ("WANDB_CACHE_DIR", "WANDB_DATA_DIR", "WANDB_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "cache"))
    settings = wandb.Settings(mode="offline", silent=True, root_dir=str(tmp_path), console="off")
    (tmp_path / "wandb").mkdir()
    own = wandb.init(project="own", settings=settings)
    try:
        with finished_run(tmp_path / "results", "run") as folder:
            export_run(folder, TRACKER, CONFIG)
            assert folder.read_record() == run_record(run_id="run")
        assert wandb.run is own
        own.log({"still": 1.0})
    finally:
        own.finish()
        wandb.teardown()
    assert {"still"} <= read_offline(tmp_path / "wandb").history[-1].keys()


def test_an_absent_library_is_a_failure_of_the_export_only(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with finished_run(tmp_path, "run") as folder:
        export_run(folder, TRACKER, CONFIG)
        record = folder.read_record()
    assert record is not None
    assert "wandb" in (record.tracker_error or "")


@pytest.mark.parametrize(
    "tracker",
    [TrackerConfig(), TrackerConfig(wandb=True, mode=TrackerMode.disabled)],
    ids=["files", "disabled"],
)
def test_without_wandb_nothing_is_made(tmp_path, tracker):
    with finished_run(tmp_path, "run") as folder:
        export_run(folder, tracker, CONFIG)
        assert not folder.wandb.exists()


@pytest.mark.parametrize("name", ["wandb", "files"])
def test_the_yaml_files_fit_the_schema(name):
    values = OmegaConf.load(CONF / f"{name}.yaml")
    assert isinstance(values, DictConfig)
    assert values.pop("defaults") == ["schema_tracker", "_self_"]
    config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(TrackerConfig), values))
    assert isinstance(config, TrackerConfig)
    assert config.name == name
    assert config.wandb == (name == "wandb")
    assert config.mode is not TrackerMode.online
