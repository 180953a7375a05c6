"""Atomic writes: the old content or the new, the same bytes for the same content."""

from __future__ import annotations

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from binllm.tracking.atomic import replacing, replacing_folder, save_tensors, write_json, write_text


def fail_after_writing(path) -> None:
    path.write_text("half")
    raise ZeroDivisionError


def test_a_writer_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    write_text(tmp_path / "a.txt", "old")
    with pytest.raises(ZeroDivisionError), replacing(tmp_path / "a.txt") as temporary:
        fail_after_writing(temporary)
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "old"


def test_json_that_cannot_be_written_leaves_the_old_file(tmp_path):
    write_json(tmp_path / "a.json", {"x": 1})
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"x": object()})
    assert (tmp_path / "a.json").read_text() == '{\n  "x": 1\n}\n'


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path):
    target = tmp_path / "checkpoint"
    with replacing_folder(target) as folder:
        (folder / "old").write_text("1")
    with pytest.raises(ZeroDivisionError), replacing_folder(target) as folder:
        fail_after_writing(folder / "half")
    assert [path.name for path in target.iterdir()] == ["old"]
    with replacing_folder(target) as folder:
        (folder / "new").write_text("3")
    assert [path.name for path in target.iterdir()] == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


def test_tensors_survive_in_every_form_a_run_holds_them(tmp_path):
    base = torch.arange(12.0).reshape(3, 4)
    tensors = {
        "shared": base,
        "again": base,
        "transposed": base.T,
        "half": base[1].to(torch.bfloat16),
        "bits": torch.tensor([1, 255], dtype=torch.uint8),
        "scalar": torch.tensor(2.5, dtype=torch.float64),
        "empty": torch.zeros(0, 3),
    }
    save_tensors(tmp_path / "t.safetensors", tensors, {"a": "b"})
    loaded = load_file(tmp_path / "t.safetensors")
    assert loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert loaded[name].dtype == tensor.dtype
        assert torch.equal(loaded[name], tensor)


def test_the_same_content_is_the_same_bytes_every_time(tmp_path):
    # safetensors alone writes the metadata in an order that changes from call to call.
    metadata = {f'key{i} é\n"': str(i) for i in range(8)}
    contents = set()
    for _ in range(5):
        save_tensors(tmp_path / "t.safetensors", {name: torch.arange(6.0) for name in "cab"}, metadata)
        contents.add((tmp_path / "t.safetensors").read_bytes())
    assert len(contents) == 1
    with safe_open(tmp_path / "t.safetensors", "pt") as opened:
        assert opened.metadata() == metadata
        assert torch.equal(opened.get_tensor("b"), torch.arange(6.0))
