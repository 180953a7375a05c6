"""Every preset of ``conf/method`` quantizes every family of models, and what it makes is what its checkpoint holds."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

import binllm
from binllm.models import load_model
from binllm.models.config import Family, ModelConfig, Source
from binllm.packing.accounting import checkpoint_bits
from binllm.yaml_folder import CONF

PRESETS = sorted(path.stem for path in (CONF / "method").glob("*.yaml"))
FAMILIES = ("llama", "phi3", "opt")


@cache
def tokens() -> Tensor:
    return torch.randint(3, 250, (2, 48), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", PRESETS)
def test_a_preset_quantizes_a_family(method: str, family: str, tmp_path: Path) -> None:
    loaded = load_model(ModelConfig(name=f"tiny_{family}", source=Source.random, family=Family[family]))
    before = loaded.model(tokens()).logits.detach()
    narrow = ["binarization.most=40"] if method.startswith(("billm", "arb", "hbllm")) else []  # some blocks have 48
    overrides = [f"method={method}", *narrow]
    model, records = binllm.quantize(loaded.model, tokens=tokens(), overrides=overrides, progress=False)
    after = model(tokens()).logits
    assert torch.isfinite(after).all() and not torch.equal(before, after)
    binllm.save_checkpoint(model, None, tmp_path / "checkpoint")
    reloaded, _ = binllm.load_checkpoint(tmp_path / "checkpoint")
    assert torch.equal(reloaded(tokens()).logits, after)
    stored = sum(record.stored_bits for record in records)
    assert stored == checkpoint_bits(tmp_path / "checkpoint").linear_bytes * 8
