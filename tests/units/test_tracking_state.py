"""Resume state: whatever happens, what loads is a consistent prefix of the run."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch

from binllm.errors import BinllmError
from binllm.tracking import atomic
from binllm.tracking.records import LayerRecord
from binllm.tracking.state import ResumeState

FORK = multiprocessing.get_context("fork")


def record(block: int) -> LayerRecord:
    return LayerRecord(
        block=block, layer="l", role="down", objective="o", n_out=1, n_in=1, q_before=1.0, q_after=0.5,
        relative_error_weight=0.0, relative_error_target=0.0, status="s", seconds=0.0, peak_memory_bytes=0,
        payload_bits=1, stored_bits=1,
    )  # fmt: skip


def open_state(root, fingerprint: str = "") -> ResumeState:
    return ResumeState(root / "state", root / "layers.jsonl", fingerprint)


def save_blocks(state: ResumeState, *indices: int) -> None:
    for index in indices:
        streams = {"x": torch.full((5, 3), float(index)), "x_hat": torch.full((5, 3), -float(index))}
        state.save(index, {"codes": torch.full((7,), index, dtype=torch.uint8)}, streams, [record(index)])


def test_an_empty_state_loads_as_none(tmp_path):
    assert open_state(tmp_path).load() is None


def test_what_was_saved_is_loaded_by_a_later_process(tmp_path):
    save_blocks(open_state(tmp_path), 0, 1)
    save_blocks(open_state(tmp_path), 2)
    state = open_state(tmp_path)
    loaded = state.load()
    assert loaded is not None
    done, blocks, streams, records = loaded
    assert (done, state.blocks_done) == (3, 3)
    assert [block["codes"].tolist() for block in blocks] == [[i] * 7 for i in range(3)]
    assert torch.equal(streams["x_hat"], torch.full((5, 3), -2.0))
    assert records == [record(i) for i in range(3)]
    lines = (tmp_path / "layers.jsonl").read_text().splitlines()
    assert [LayerRecord.from_json(json.loads(line)) for line in lines] == records


def test_only_the_newest_streams_stay_on_disk(tmp_path):
    save_blocks(open_state(tmp_path), 0, 1, 2)
    names = sorted(path.name for path in (tmp_path / "state").iterdir())
    assert [name for name in names if name.startswith("streams")] == ["streams_00002.safetensors"]
    assert sum(name.startswith("block") for name in names) == 3


def test_a_block_out_of_order_is_refused(tmp_path):
    state = open_state(tmp_path)
    with pytest.raises(ValueError, match="block 1 cannot follow 0"):
        save_blocks(state, 1)
    save_blocks(state, 0)
    with pytest.raises(ValueError, match="block 0 cannot follow 1"):
        save_blocks(state, 0)


def test_changing_a_loaded_stream_in_place_does_not_change_the_state(tmp_path):
    save_blocks(open_state(tmp_path), 0, 1)
    loaded = open_state(tmp_path).load()
    assert loaded is not None
    loaded.streams["x"].add_(100)
    again = open_state(tmp_path).load()
    assert again is not None
    assert torch.equal(again.streams["x"], torch.full((5, 3), 1.0))


def test_loaded_streams_outlive_their_file(tmp_path):
    save_blocks(open_state(tmp_path), 0)
    state = open_state(tmp_path)
    loaded = state.load()
    assert loaded is not None
    save_blocks(state, 1)  # Removes the file that the loaded streams are mapped from.
    assert torch.equal(loaded.streams["x"], torch.zeros(5, 3))


def test_what_a_kill_between_the_steps_leaves_is_removed(tmp_path):
    save_blocks(open_state(tmp_path), 0)
    folder = tmp_path / "state"
    (folder / "block_00001.safetensors").write_bytes(b"whole but not in the pointer")
    (folder / ".streams_00001.safetensors.99.tmp").write_bytes(b"half")
    (tmp_path / "layers.jsonl").unlink()
    loaded = open_state(tmp_path).load()
    assert loaded is not None
    assert loaded.blocks_done == 1
    names = ["block_00000.safetensors", "state.json", "streams_00000.safetensors"]
    assert sorted(path.name for path in folder.iterdir()) == names
    assert len((tmp_path / "layers.jsonl").read_text().splitlines()) == 1


@pytest.mark.parametrize("name", ["block_00000.safetensors", "streams_00001.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["truncate", "flip", "remove"])
def test_a_damaged_file_is_named_and_never_loaded(tmp_path, name, damage):
    save_blocks(open_state(tmp_path), 0, 1)
    path = tmp_path / "state" / name
    data = bytearray(path.read_bytes())
    if damage == "remove":
        path.unlink()
        if name == "state.json":  # Without its pointer a state does not exist: the run starts at the first block.
            assert open_state(tmp_path).load() is None
            return
    else:
        data[-3] ^= 0xFF
        path.write_bytes(data[:-5] if damage == "truncate" else data)
    with pytest.raises(BinllmError) as caught:
        open_state(tmp_path).load()
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_state_made_from_other_inputs_is_refused(tmp_path):
    save_blocks(open_state(tmp_path, "tokens-a"), 0)
    with pytest.raises(BinllmError, match="tokens-a, now tokens-b"):
        open_state(tmp_path, "tokens-b")


def test_a_state_of_another_version_is_refused(tmp_path):
    save_blocks(open_state(tmp_path), 0)
    path = tmp_path / "state" / "state.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "version": 3}))
    with pytest.raises(BinllmError, match="version 3"):
        open_state(tmp_path)


def test_a_cleared_state_starts_afresh(tmp_path):
    state = open_state(tmp_path)
    save_blocks(state, 0, 1)
    state.clear()
    assert list((tmp_path / "state").iterdir()) == []
    save_blocks(state, 0)
    loaded = open_state(tmp_path).load()
    assert loaded is not None
    assert loaded.blocks_done == 1


def write_forever(root) -> None:
    """Resume and go on saving blocks: the stream after block i is 1 + 2 + ... + (i + 1) everywhere."""
    torch.set_num_threads(1)  # A forked child must not use the parent's thread pool.
    state = open_state(root)
    loaded = state.load()
    index, stream = (loaded.blocks_done, loaded.streams["x"]) if loaded else (0, torch.zeros(30_000))
    while True:
        stream += index + 1
        codes = torch.full((20_000,), index % 251, dtype=torch.uint8)
        state.save(index, {"codes": codes}, {"x": stream, "x_hat": -stream}, [record(index)])
        index += 1


def die_at(step: int, root) -> None:
    """Save one block and die, without any clean-up, just before the given call that changes the disk."""
    calls = iter(range(step))
    for owner, name in (
        (os, "replace"),
        (os, "fsync"),
        (Path, "unlink"),
        (Path, "write_text"),
        (atomic, "save_file"),
    ):
        original = getattr(owner, name)

        def counted(*arguments, original=original, **options):
            if next(calls, None) is None:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*arguments, **options)

        setattr(owner, name, counted)
    save_blocks(open_state(root), 2)
    os._exit(0)


def assert_consistent(root, stream_length: int) -> int:
    loaded = open_state(root).load()
    if loaded is None:
        return 0
    done = loaded.blocks_done
    assert [block["codes"].unique().tolist() for block in loaded.blocks] == [[i % 251] for i in range(done)]
    assert torch.equal(loaded.streams["x"], torch.full((stream_length,), done * (done + 1) / 2))
    assert torch.equal(loaded.streams["x_hat"], -loaded.streams["x"])
    assert [one.block for one in loaded.records] == list(range(done))
    assert len((root / "layers.jsonl").read_text().splitlines()) == done
    return done


def test_kills_at_random_times_cost_at_most_the_block_in_progress(tmp_path):
    generator = random.Random(0)
    done = 0
    for kills in range(100):  # at least 20, and longer ones where the machine is too busy to write much in between
        if kills >= 20 and done > 10:
            break
        writer = FORK.Process(target=write_forever, args=(tmp_path,))
        writer.start()
        time.sleep(generator.uniform(0.0, 0.1 + 0.01 * max(0, kills - 20)))
        writer.kill()
        writer.join()
        assert writer.exitcode == -signal.SIGKILL
        begun = len(list((tmp_path / "state").glob("block_*.safetensors")))
        now = assert_consistent(tmp_path, 30_000)
        assert now >= max(done, begun - 1)
        done = now
    assert done > 10


def test_a_kill_before_every_single_step_of_a_save_leaves_the_old_state_or_the_new(tmp_path):
    outcomes, exit_code = [], None
    for step in range(100):
        root = tmp_path / str(step)
        save_blocks(open_state(root), 0, 1)
        writer = FORK.Process(target=die_at, args=(step, root))
        writer.start()
        writer.join()
        loaded = open_state(root).load()
        assert loaded is not None
        assert torch.equal(loaded.streams["x"], torch.full((5, 3), loaded.blocks_done - 1.0))
        assert [block["codes"][0].item() for block in loaded.blocks] == list(range(loaded.blocks_done))
        assert sorted(path.name for path in (root / "state").glob("streams*")) == [
            f"streams_{loaded.blocks_done - 1:05d}.safetensors"
        ]
        outcomes.append(loaded.blocks_done)
        exit_code = writer.exitcode
        if exit_code == 0:
            break
    assert exit_code == 0
    assert outcomes == sorted(outcomes)  # Once durable, it stays.
    assert outcomes.count(2) > 8
    assert outcomes.count(3) > 3
