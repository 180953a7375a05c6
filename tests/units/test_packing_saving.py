"""A checkpoint appears whole or not at all, is known to transformers, and has a card."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers_codes import generator, packed_model
from safetensors.torch import save_file

from binllm.errors import BinllmError
from binllm.packing import checkpoint as checkpoint_module
from binllm.packing.accounting import checkpoint_bits
from binllm.packing.card import Card, Measured, write_card
from binllm.packing.checkpoint import save_checkpoint
from binllm.packing.headers import checkpoint_hash


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = packed_model("llama", generator())
    save_checkpoint(model, None, tmp_path / "old/c")
    before = checkpoint_hash(tmp_path / "old/c")

    def fail(tensors: dict[str, torch.Tensor], file: Path, metadata: dict[str, str]) -> None:
        save_file(tensors, file, metadata)
        if "00002" in file.name:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint_module, "save_file", fail)
    for folder in (tmp_path / "old/c", tmp_path / "new/c"):
        with pytest.raises(BinllmError, match="c: the checkpoint cannot be written .*No space left"):
            save_checkpoint(model, None, folder, max_shard_size=4000)
    assert [path.name for path in (tmp_path / "old").iterdir()] == ["c"] and not list((tmp_path / "new").iterdir())
    assert checkpoint_hash(tmp_path / "old/c") == before


@pytest.mark.parametrize("early", [True, False], ids=["binllm first", "transformers first"])
def test_importing_binllm_is_enough_for_transformers(early: bool, tmp_path: Path) -> None:
    folder = save_checkpoint(packed_model("llama", generator()), None, tmp_path / "c")
    imports = ("import binllm, sys", "import transformers.modeling_utils")
    program = (
        f"{imports[0] if early else imports[1]}\nimport sys\nquick = 'transformers' not in sys.modules or {not early}\n"
        "import binllm\nfrom transformers import AutoModelForCausalLM\n"
        f"model = AutoModelForCausalLM.from_pretrained({str(folder)!r})\n"
        "print(quick, type(model.model.layers[0].mlp.up_proj).__name__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=Path(__file__).parents[2]
    )
    assert done.stdout.split() == ["True", "BinaryLinear"], done.stderr


def test_the_card_names_model_command_bits_quality_and_warns(tmp_path: Path) -> None:
    header = {"base_model": "some/model", "command": "binllm model.id=some/model"}
    folder = save_checkpoint(packed_model("llama", generator()), None, tmp_path / "c", header)
    before, bits = checkpoint_hash(folder), checkpoint_bits(folder)
    assert "Not measured" in (folder / "README.md").read_text()
    measured = Measured(definition="text/window=8", full_precision=12.5, quantized=1234.5)
    write_card(folder, Card(**header, measured=measured))
    card = (folder / "README.md").read_text()
    assert checkpoint_hash(folder) == before, "a card may be written later"
    front = card.split("---")[1]
    assert "base_model: some/model\nbase_model_relation: quantized\n" in front
    wanted = [header["command"], "12.50", "1,234.50", "text/window=8", "Quality.", f"{bits.model_bytes:,}"]
    wanted += [f"{level:.3f}" for level in (bits.payload, bits.linear, bits.model)]
    assert [part for part in wanted if part not in card] == []
